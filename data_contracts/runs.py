"""Runs: the records that every attempt at a stage leaves, and the manifest derived from them."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any, Final, Literal, get_args

from pydantic import Field

from data_contracts.queries import Frozen
from reelroute.errors import ContractError

Stage = Literal["label", "validate", "upload", "distill", "deploy", "evaluate", "promote"]
#: The seven stages in the order in which they run.
STAGES: Final[tuple[Stage, ...]] = get_args(Stage)

_RUN_ID: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,38}[a-z0-9])?")


def check_run_id(run_id: str) -> str:
    """The run id itself, if it is one.

    Raises:
        ContractError: not 1 to 40 lower-case letters, digits and inner dashes (run ids are
            parts of keys, names and paths).
    """
    if not _RUN_ID.fullmatch(run_id):
        raise ContractError(
            f"run id {run_id!r} is not allowed: 1 to 40 lower-case letters, digits and inner "
            "dashes. `reelroute runs list` shows the runs"
        )
    return run_id


class StoredFile(Frozen):
    """A file in the run's bucket, with what it must still be to count as there."""

    key: str
    sha256: str
    bytes: int = Field(ge=0)


class Cost(Frozen):
    """What a stage bought. Tokens and dollars of embedded models are simulated."""

    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    usd: float = 0.0
    simulated: bool = False

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            calls=self.calls + other.calls,
            input_tokens=self.input_tokens + other.input_tokens,
            output_tokens=self.output_tokens + other.output_tokens,
            usd=self.usd + other.usd,
            simulated=self.simulated or other.simulated,
        )


NO_COST: Final = Cost()


class StageRecord(Frozen):
    """What one attempt at a stage did; written once and never changed.

    Attributes:
        inputs: name to hash of everything that the outputs depend on: data, configuration of
            the stage, prompts, code. A stage whose inputs have not changed is skipped.
        files: name to file left in the bucket.
        resources: name to ARN or name of what was made in AWS.
        metrics: what reports and trends show; JSON values.
        error: why it failed, as a sentence.
    """

    run_id: str
    stage: Stage
    attempt: int = Field(ge=1)
    status: Literal["completed", "failed"]
    inputs: dict[str, str]
    files: dict[str, StoredFile] = Field(default_factory=dict)
    resources: dict[str, str] = Field(default_factory=dict)
    metrics: dict[str, Any] = Field(default_factory=dict)
    cost: Cost = NO_COST
    error: str | None = None
    started_at: datetime
    ended_at: datetime
    version: str

    @property
    def seconds(self) -> float:
        """How long the attempt took."""
        return (self.ended_at - self.started_at).total_seconds()


class RunParameters(Frozen):
    """What a run was started with; written once, so that any stage can be run again alone.

    Attributes:
        overrides: settings of this run that differ from the profile, by dotted name.
        queries_file: the run's copy of its own queries, where it has some: texts in place of
            written ones (`.txt`), or queries sampled from production beside them (`.jsonl`).
        flow_run_id: the Prefect flow run that started the run first.
    """

    run_id: str
    environment: str
    overrides: dict[str, Any] = Field(default_factory=dict)
    queries_file: StoredFile | None = None
    flow_run_id: str | None = None
    created_at: datetime


class RunManifest(Frozen):
    """A run as its records tell it: derived, never edited.

    Attributes:
        stages: for each stage that was attempted, its latest record.
        attempts: how many attempts each of them took.
    """

    run_id: str
    parameters: RunParameters | None
    stages: dict[Stage, StageRecord]
    attempts: dict[Stage, int]

    @property
    def status(self) -> Literal["completed", "failed", "unfinished"]:
        """`failed` if the latest attempt at any stage failed, `completed` if all are done."""
        if any(record.status == "failed" for record in self.stages.values()):
            return "failed"
        return "completed" if len(self.stages) == len(STAGES) else "unfinished"

    @property
    def cost(self) -> Cost:
        """What the latest attempts bought, together."""
        return sum((record.cost for record in self.stages.values()), NO_COST)


def derive_manifest(
    run_id: str, parameters: RunParameters | None, records: list[StageRecord]
) -> RunManifest:
    """The manifest of a run from the records of all attempts, in any order."""
    stages: dict[Stage, StageRecord] = {}
    attempts: dict[Stage, int] = {}
    for stage in STAGES:
        mine = sorted((r for r in records if r.stage == stage), key=lambda r: r.attempt)
        if mine:
            stages[stage] = mine[-1]
            attempts[stage] = len(mine)
    return RunManifest(run_id=run_id, parameters=parameters, stages=stages, attempts=attempts)
