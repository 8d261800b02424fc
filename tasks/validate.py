"""Validate: the record contract, the suite for the whole set, and a split without leaks."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from mimetypes import guess_type
from pathlib import Path

from prefect.artifacts import create_table_artifact
from pydantic import ValidationError

from data_contracts.conversation import MAX_RECORDS, MIN_RECORDS
from data_contracts.heldout import (
    NEAR_HELD_OUT,
    NearIndex,
    in_benchmark,
    in_fresh_share,
    near_benchmark,
)
from data_contracts.monitoring import PRODUCTION_DOMAIN
from data_contracts.queries import UNKNOWN, LabelledQuery, UnlabelledQuery
from data_contracts.runs import StoredFile
from data_contracts.suite import SuiteLimits, SuiteResult, validate_dataset
from reelroute.errors import StageError
from reelroute.problems import first_problem
from tasks.base import StageContext, logger, stage_task
from tasks.reporting.text import inert


@dataclass(frozen=True, slots=True)
class Withheld:
    """A training row that is not used because it leaks a held-out query."""

    query: str
    near: str


@dataclass
class Split:
    """The rows by use: trained on, held out freshly, withheld for nearness to held-out ones.

    Attributes:
        prompts: trained on, too, with the answers that the distillation job's teacher gives.
    """

    train: list[LabelledQuery] = field(default_factory=list)
    prompts: list[UnlabelledQuery] = field(default_factory=list)
    fresh: list[LabelledQuery] = field(default_factory=list)
    withheld: list[Withheld] = field(default_factory=list)


def split_rows(rows: Sequence[LabelledQuery], prompts: Sequence[UnlabelledQuery] = ()) -> Split:
    """Split a set so that nothing to train on equals or is near a held-out query.

    The benchmark is always held out; of the other queries a fresh share by the hash of their
    own text. A fresh query that is near the benchmark would be read twice and is withheld.
    """
    split = Split()
    candidates = []
    for row in rows:
        near = row.query if in_benchmark(row.query) else near_benchmark(row.query)
        if near is not None:
            split.withheld.append(Withheld(row.query, near))
        elif in_fresh_share(row.query):
            split.fresh.append(row)
        else:
            candidates.append(row)
    fresh = NearIndex(row.query for row in split.fresh)
    for row in candidates:
        near = fresh.near(row.query, NEAR_HELD_OUT)
        if near is not None:
            split.withheld.append(Withheld(row.query, near))
        else:
            split.train.append(row)
    for prompt in prompts:
        near = near_benchmark(prompt.query) or fresh.near(prompt.query, NEAR_HELD_OUT)
        if near is not None:
            split.withheld.append(Withheld(prompt.query, near))
        else:
            split.prompts.append(prompt)
    return split


@stage_task
def check_records(stage: StageContext) -> list[LabelledQuery]:
    """Read the labelled rows, each against the record contract.

    Raises:
        StageError: a row breaks the contract; the message names the line.
    """
    rows = []
    for number, line in enumerate(stage.read("label", "labelled").splitlines(), start=1):
        try:
            rows.append(LabelledQuery.model_validate_json(line))
        except ValidationError as error:
            raise StageError(
                f"labelled.jsonl, line {number}: {first_problem(error)}. Run the label stage again"
            ) from None
    return rows


@stage_task
def read_prompts(stage: StageContext) -> list[UnlabelledQuery]:
    """The queries that the distillation job is to label, if any."""
    if not has_prompts(stage):
        return []
    return read_prompt_rows(stage.read("label", "prompts"))


def has_prompts(stage: StageContext) -> bool:
    """Whether the label stage left most of the labelling to the distillation job."""
    return "prompts" in stage.upstream["label"].files


@stage_task
def check_set(stage: StageContext, rows: Sequence[LabelledQuery]) -> dict[str, StoredFile]:
    """Check the set as a whole with Great Expectations; the data docs go into the run's folder.

    Raises:
        StageError: an expectation fails; the message names it, what was seen, and sample rows.
    """
    settings = stage.settings.validation
    # Production has its own mix: where its queries are in the set, the plan's doesn't hold.
    # Nor does it, nor a job's least number of rows, for the few of a set that the job labels.
    few = has_prompts(stage)
    planned = (
        not few
        and any(row.difficulty != UNKNOWN for row in rows)
        and not any(row.domain == PRODUCTION_DOMAIN for row in rows)
    )
    plan = stage.settings.plan()
    channels = _shares({cell[:3]: cell.queries for cell in plan}, part=0)
    difficulties = _shares({cell[:3]: cell.queries for cell in plan}, part=1)
    with tempfile.TemporaryDirectory() as folder:
        result = validate_dataset(
            rows,
            SuiteLimits(**settings.model_dump(), min_rows=1 if few else MIN_RECORDS),
            expected_channels=channels if planned else None,
            expected_difficulties=difficulties if planned else None,
            docs_dir=Path(folder),
        )
        files = {"report": stage.run.put_json("validation/result.json", result.raw)}
        _upload_docs(stage, Path(folder))
    _show(result)
    failed = [outcome for outcome in result.outcomes if not outcome.success]
    if failed:
        raise StageError(
            f"the labelled set fails {len(failed)} of {len(result.outcomes)} expectations: "
            + "; ".join(outcome.sentence() for outcome in failed[:3])
            + f". The whole result: {stage.storage.uri(files['report'].key)}"
        )
    return files


@stage_task
def store_dataset(stage: StageContext, split: Split) -> dict[str, StoredFile]:
    """Write the split into the run's folder.

    Raises:
        StageError: the training rows are fewer or more than a customization job takes.
    """
    records = len(split.train) + len(split.prompts)
    if not MIN_RECORDS <= records <= MAX_RECORDS:
        raise StageError(
            f"{records} training rows; a customization job takes {MIN_RECORDS} to "
            f"{MAX_RECORDS:,}. Change `label.size` in the profile and run the label stage again"
        )
    run = stage.run
    withheld = "".join(
        json.dumps({"query": row.query, "near": row.near}, ensure_ascii=False) + "\n"
        for row in split.withheld
    )
    prompts = (
        {"prompts": run.put_text("dataset/prompts.jsonl", _jsonl(split.prompts))}
        if split.prompts
        else {}
    )
    return {
        **prompts,
        "train": run.put_text("dataset/train.jsonl", _jsonl(split.train)),
        "fresh": run.put_text("dataset/heldout_fresh.jsonl", _jsonl(split.fresh)),
        "withheld": run.put_text("dataset/withheld.jsonl", withheld),
    }


def channel_counts(rows: Iterable[LabelledQuery]) -> dict[str, int]:
    """How many rows each channel leads."""
    return dict(sorted(Counter(row.channel for row in rows).items()))


def read_rows(data: bytes) -> list[LabelledQuery]:
    """Labelled rows from a file that a stage has written and that was verified."""
    return [LabelledQuery.model_validate_json(line) for line in data.splitlines()]


def read_prompt_rows(data: bytes) -> list[UnlabelledQuery]:
    """Unlabelled queries from a file that a stage has written and that was verified."""
    return [UnlabelledQuery.model_validate_json(line) for line in data.splitlines()]


def _shares(counts: dict[tuple[str, str, str], int], part: int) -> dict[str, float]:
    sums: Counter[str] = Counter()
    for cell, queries in counts.items():
        sums[cell[part]] += queries
    return {name: queries / sums.total() for name, queries in sums.items()}


def _upload_docs(stage: StageContext, folder: Path) -> None:
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            key = stage.run.key(f"validation/docs/{path.relative_to(folder).as_posix()}")
            content_type = guess_type(path.name)[0] or "application/octet-stream"
            stage.storage.put(key, path.read_bytes(), content_type)
    logger().info("data docs: %s", stage.storage.uri(stage.run.key("validation/docs/index.html")))


def _show(result: SuiteResult) -> None:
    create_table_artifact(
        key="validation",
        description="What the labelled set fulfils as a whole (Great Expectations)",
        table=[
            {
                "result": "ok" if outcome.success else "FAILED",
                "expectation": outcome.expectation,
                "expected": inert(outcome.expected, 60),
                "observed": inert(outcome.observed, 60),
                "samples": inert("; ".join(outcome.samples), 80),
            }
            for outcome in result.outcomes
        ],
    )


def _jsonl(rows: Iterable[LabelledQuery | UnlabelledQuery]) -> str:
    return "".join(row.model_dump_json() + "\n" for row in rows)
