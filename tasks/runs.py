"""Runs in the bucket: their parameters, the records of their stages, and their files."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, get_args

from pydantic import ValidationError

from configs.settings import PromptName, Settings
from data_contracts.runs import (
    STAGES,
    RunManifest,
    RunParameters,
    Stage,
    StageRecord,
    StoredFile,
    check_run_id,
    derive_manifest,
)
from reelroute.errors import StageError
from reelroute.problems import first_problem
from tasks.storage import Storage

RUNS_PREFIX = "runs/"
#: How a run's own queries are named in its inputs.
OWN_QUERIES, PRODUCTION_QUERIES = "queries.txt", "queries.jsonl"


class Run:
    """One run's folder in the bucket.

    Raises:
        ContractError: the run id is not allowed.
    """

    def __init__(self, storage: Storage, run_id: str) -> None:
        self.storage = storage
        self.run_id = check_run_id(run_id)
        self.prefix = f"{RUNS_PREFIX}{run_id}/"

    def key(self, path: str) -> str:
        """The key of a file in the run's folder."""
        return f"{self.prefix}{path}"

    def start(
        self,
        settings: Settings,
        overrides: dict[str, Any],
        flow_run_id: str | None,
        queries_file: bytes | None,
        *,
        from_production: bool = False,
    ) -> RunParameters:
        """Write the run's parameters and a snapshot of profile and prompts, once.

        A run that was started before keeps its parameters; it is only read.

        Args:
            queries_file: own queries: texts, a line each, or what the monitor sampled.
            from_production: whether they are the monitor's.
        """
        known = self.parameters()
        if known is not None:
            return known
        inputs = f"inputs/{PRODUCTION_QUERIES if from_production else OWN_QUERIES}"
        queries = (
            self.storage.put_file(self.key(inputs), queries_file, "text/plain")
            if queries_file is not None
            else None
        )
        profile = settings.model_dump_json(indent=2, by_alias=True)
        self.storage.put(self.key("inputs/profile.json"), profile.encode(), "application/json")
        for name in get_args(PromptName):
            text = settings.prompt(name).text
            self.storage.put(self.key(f"inputs/prompts/{name}.md"), text.encode(), "text/markdown")
        parameters = RunParameters(
            run_id=self.run_id,
            environment=settings.environment,
            overrides=overrides,
            queries_file=queries,
            flow_run_id=flow_run_id,
            created_at=datetime.now(UTC),
        )
        self.storage.put_new(self.key("run.json"), parameters.model_dump_json(indent=2).encode())
        written = self.parameters()
        assert written is not None
        return written

    def parameters(self) -> RunParameters | None:
        """What the run was started with, or None where there is no such run."""
        stored = self.storage.get(self.key("run.json"))
        if stored is None:
            return None
        try:
            return RunParameters.model_validate_json(stored.data)
        except ValidationError as error:
            raise StageError(
                f"{self.storage.uri(self.key('run.json'))} is not what a run is started with: "
                f"{first_problem(error)}"
            ) from None

    def own_queries(self) -> StoredFile | None:
        """The run's copy of the user's own queries, where it was started with some."""
        parameters = self.parameters()
        return parameters.queries_file if parameters else None

    def records(self, stage: Stage | None = None) -> list[StageRecord]:
        """The records of all attempts, of one stage or of all, oldest first within a stage."""
        prefix = self.key(f"stages/{stage}/") if stage else self.key("stages/")
        records = []
        for key in self.storage.keys(prefix):
            stored = self.storage.get(key)
            if stored is not None:
                try:
                    records.append(StageRecord.model_validate_json(stored.data))
                except ValidationError as error:
                    raise StageError(
                        f"{self.storage.uri(key)} is not a stage record: {first_problem(error)}"
                    ) from None
        return sorted(records, key=lambda r: (STAGES.index(r.stage), r.attempt))

    def latest(self, stage: Stage) -> StageRecord | None:
        """The record of the stage's latest attempt, or None."""
        records = self.records(stage)
        return records[-1] if records else None

    def completed(self, stage: Stage) -> StageRecord:
        """The record of a stage that must be done.

        Raises:
            StageError: it isn't; the message says what to run first.
        """
        record = self.latest(stage)
        if record is None or record.status != "completed":
            why = f"its latest attempt failed: {record.error}" if record else "it has not run"
            raise StageError(
                f"run {self.run_id} needs stage {stage} first ({why}); "
                f"`reelroute stage {stage} --run {self.run_id}` runs it"
            )
        return record

    def note_start(self, stage: Stage, attempt: int) -> int:
        """Leave word that an attempt starts; how often it has, this time included."""
        prefix = self.key(f"starts/{stage}/{attempt:03d}-")
        count = sum(1 for _ in self.storage.keys(prefix)) + 1
        self.storage.put(f"{prefix}{count:03d}.json", b"{}", "application/json")
        return count

    def write_record(self, record: StageRecord) -> None:
        """Write an attempt's record, once.

        Raises:
            StageError: the attempt has a record already (somebody else ran it meanwhile).
        """
        key = self.key(f"stages/{record.stage}/{record.attempt:03d}.json")
        if not self.storage.put_new(key, record.model_dump_json(indent=2).encode()):
            raise StageError(
                f"attempt {record.attempt} of stage {record.stage} of run {self.run_id} was "
                "recorded by another process meanwhile; look at it with "
                f"`reelroute runs show {self.run_id}`"
            )

    def manifest(self) -> RunManifest:
        """The run as its records tell it.

        Raises:
            StageError: there is no such run.
        """
        parameters, records = self.parameters(), self.records()
        if parameters is None and not records:
            raise StageError(
                f"there is no run {self.run_id!r} in s3://{self.storage.bucket}; "
                "`reelroute runs list` shows those that are"
            )
        return derive_manifest(self.run_id, parameters, records)

    def put_json(self, path: str, value: Any) -> StoredFile:
        """Write a JSON file into the run's folder."""
        data = json.dumps(value, indent=2, ensure_ascii=False, default=str).encode() + b"\n"
        return self.storage.put_file(self.key(path), data, "application/json")

    def put_lines(self, path: str, lines: Iterable[bytes]) -> StoredFile:
        """Write a file of JSON lines, of any size, into the run's folder."""
        return self.storage.put_pieces(self.key(path), lines, "application/jsonl")

    def put_text(self, path: str, text: str, content_type: str = "text/plain") -> StoredFile:
        """Write a text file into the run's folder, as UTF-8."""
        return self.storage.put_file(self.key(path), text.encode(), content_type)


def list_runs(storage: Storage) -> list[RunManifest]:
    """All runs of the bucket, the newest first."""
    runs = [Run(storage, run_id) for run_id in storage.folders(RUNS_PREFIX)]
    manifests = [derive_manifest(run.run_id, run.parameters(), run.records()) for run in runs]
    # Cleanup may have removed a run since its folder was listed.
    there = [manifest for manifest in manifests if manifest.parameters or manifest.stages]
    return sorted(there, key=_created, reverse=True)


def _created(manifest: RunManifest) -> datetime:
    if manifest.parameters:
        return manifest.parameters.created_at
    return min(record.started_at for record in manifest.stages.values())
