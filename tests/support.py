"""What the tests of several rooms share: settings, runs, stages and a log of calls."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, Final

import yaml

from configs.settings import CONFIGS, Settings, load_settings
from data_contracts.heldout import is_held_out, near_benchmark
from data_contracts.queries import LabelledQuery
from data_contracts.runs import NO_COST, Cost, Stage, StageRecord, StoredFile
from deployments.embedded.aws import EmbeddedAws
from deployments.embedded.calls import Call
from deployments.embedded.faults import KINDS, Faults
from deployments.embedded.models.corpus import recorded_answers
from reelroute.weights import MODALITIES
from tasks.base import StageContext
from tasks.cost import CostMeter
from tasks.runs import Run
from tasks.storage import Storage

TEACHER: Final = "embedded.teacher-v1:0"
ASKED: Final = ("Converse",)
#: Few cells, so that few calls fill the plan: `label.size` scales it.
CELLS: Final = tuple(
    (channel, *kind)
    for channel in MODALITIES
    for kind in (("easy", "news"), ("easy", "film-and-television"), ("medium", "sport"))
)


@dataclass
class Place:
    """A fresh bucket of the embedded AWS, with everything that a stage needs to work in it."""

    aws: EmbeddedAws
    api_url: str
    folder: Path
    bucket: str
    overrides: dict[str, Any] = field(default_factory=dict)

    def settings(self, **overrides: Any) -> Settings:
        """The local profile in this place; `label__size=300` sets `label.size`."""
        return load_settings("configs/local.yaml", self.named(overrides))

    def named(self, overrides: Mapping[str, Any]) -> dict[str, Any]:
        dotted = {name.replace("__", "."): value for name, value in overrides.items()}
        return {
            "aws.endpoint_url": self.aws.endpoint_url,
            "aws.credentials_file": str(self.aws.credentials_file),
            "aws.max_attempts": 1,
            "storage.bucket": self.bucket,
            "prefect.api_url": self.api_url,
            "label.plan": str(self.plan()),
            "label.size": 300,
            "distill.students": ["bedrock"],
            "distill.poll_seconds": 0.05,
            "deploy.poll_seconds": 0.05,
            "deploy.smoke_queries": 3,
            "evaluate.poll_seconds": 0.05,
            "evaluate.concurrency": 8,
            "evaluate.bootstrap_samples": 200,
            "promote.max_p95_latency_ms": 60_000,
            **self.overrides,
            **dotted,
        }

    def plan(self, rows: Sequence[tuple[str, str, str, int]] | None = None) -> Path:
        """A label plan's file."""
        rows = rows or [(*cell, 25) for cell in CELLS]
        lines = ["channel,difficulty,domain,queries", *(",".join(map(str, row)) for row in rows)]
        text = "\n".join(lines) + "\n"
        path = self.folder / f"plan-{hashlib.sha256(text.encode()).hexdigest()[:8]}.csv"
        path.write_text(text, encoding="utf-8")
        return path

    def profile(self, **overrides: Any) -> str:
        """The path of a profile's file for what reads one: flows and commands."""
        raw = yaml.safe_load((CONFIGS / "local.yaml").read_text(encoding="utf-8"))
        for name, value in self.named(overrides).items():
            *parents, last = name.split(".")
            section = raw
            for part in parents:
                section = section.setdefault(part, {})
            section[last] = value
        text = yaml.safe_dump(raw)
        path = self.folder / f"profile-{hashlib.sha256(text.encode()).hexdigest()[:8]}.yaml"
        path.write_text(text, encoding="utf-8")
        return str(path)

    def storage(self, settings: Settings | None = None) -> Storage:
        """This place's bucket."""
        return Storage(settings or self.settings())

    def run(
        self,
        run_id: str = "run-1",
        settings: Settings | None = None,
        queries: bytes | None = None,
    ) -> Run:
        """A run that has been started."""
        settings = settings or self.settings()
        run = Run(Storage(settings), run_id)
        run.start(settings, {}, None, queries)
        return run

    def stage(
        self,
        stage: Stage,
        *,
        settings: Settings | None = None,
        run: Run | None = None,
        attempt: int = 1,
        upstream: Mapping[Stage, StageRecord] | None = None,
        forced: bool = False,
        budget: float | None = None,
        spent: float = 0.0,
        inputs: dict[str, str] | None = None,
    ) -> StageContext:
        """What a stage's tasks work with."""
        settings = settings or self.settings()
        return StageContext(
            settings=settings,
            run=run or self.run(settings=settings),
            stage=stage,
            attempt=attempt,
            # Names in AWS depend on the inputs, and all tests share one account.
            inputs=inputs or {"bucket": self.bucket},
            upstream=dict(upstream or {}),
            meter=CostMeter(budget or settings.budget.usd_per_run, spent),
            forced=forced,
        )


def record(
    run: Run,
    stage: Stage,
    *,
    files: Mapping[str, StoredFile] | None = None,
    resources: Mapping[str, str] | None = None,
    status: str = "completed",
    attempt: int = 1,
    error: str | None = None,
    inputs: Mapping[str, str] | None = None,
    cost: Cost = NO_COST,
) -> StageRecord:
    """A stage's record, not written."""
    return StageRecord.model_validate(
        {
            "run_id": run.run_id,
            "stage": stage,
            "attempt": attempt,
            "status": status,
            "inputs": dict(inputs or {}),
            "files": dict(files or {}),
            "resources": dict(resources or {}),
            "error": error,
            "cost": cost,
            "started_at": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
            "ended_at": datetime(2026, 1, 2, 3, 4, 15, tzinfo=UTC),
            "version": "0",
        }
    )


@cache
def corpus_rows(n: int, start: int = 0) -> tuple[LabelledQuery, ...]:
    """Real labelled rows that are not held out."""
    found: list[LabelledQuery] = []
    for answer in recorded_answers()[start:]:
        if len(found) == n:
            break
        if not is_held_out(answer.query) and near_benchmark(answer.query) is None:
            found.append(
                LabelledQuery.from_weights(
                    answer.query,
                    answer.weights,
                    difficulty=answer.difficulty,
                    domain=answer.domain,
                    labelled_by=TEACHER,
                )
            )
    return tuple(found)


def jsonl(rows: Sequence[LabelledQuery]) -> str:
    return "".join(row.model_dump_json() + "\n" for row in rows)


def read_jsonl(data: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in data.splitlines()]


class CallsSince:
    """The calls of the embedded AWS after a moment."""

    def __init__(self, aws: EmbeddedAws) -> None:
        self._aws = aws
        self._before = max((call.sequence for call in aws.calls()), default=0)

    def all(self) -> list[Call]:
        return [call for call in self._aws.calls() if call.sequence > self._before]

    def count(self, *operations: str, model_id: str | None = None) -> int:
        return sum(
            call.operation in operations and model_id in (None, call.model_id)
            for call in self.all()
        )

    def asked(self, model_id: str | None = None) -> int:
        """How often a model was asked."""
        return self.count("Converse", model_id=model_id)


@contextmanager
def fault(aws: EmbeddedAws, kind: str, **how: Any) -> Iterator[None]:
    """A fault of the embedded AWS, on inside the block."""
    aws.faults.set(kind, **how)
    try:
        yield
    finally:
        aws.faults.clear(kind)


def rounded(cost: Cost) -> Cost:
    """A cost to a millionth of a cent: threads add up in any order, so last digits differ."""
    return cost.model_copy(update={"usd": round(cost.usd, 8)})


def in_threads(work: Callable[[Any], Any], items: Sequence[Any], threads: int = 16) -> list[Any]:
    """What `work` gives for each item, all at once; errors come back as values."""
    from concurrent.futures import ThreadPoolExecutor

    def caught(item: Any) -> Any:
        try:
            return work(item)
        except Exception as error:
            return error

    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(caught, items))


def hits_of(kind: str, seed: int, rate: float = 0.5, calls: int = 2) -> list[bool]:
    """Which of the first calls a fault hits."""
    faults = Faults()
    faults.set(kind, rate=rate, seed=seed)
    service, operation = ("bedrock", (*KINDS[kind].operations, "")[0])
    return [faults.draw(kind, service, operation) is not None for _ in range(calls)]
