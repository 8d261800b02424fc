"""The benchmark's outcome, as a table for the README, a document and JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from benchmarks.candidates import FLOAT32, LOCAL
from benchmarks.footprint import Footprint
from benchmarks.machine import Machine
from benchmarks.scores import Calibration, Quality
from benchmarks.worker import Timing, Training
from reelroute.student.card import ModelCard


@dataclass(frozen=True, slots=True)
class Row:
    """A candidate's results.

    Attributes:
        learns: whether it takes training at all.
        training: what that took; None if a trained model was given.
        timing: one query at a time on one core.
        megabytes: of the files that it needs to answer, packages' code aside (10^6 bytes).
    """

    name: str
    label: str
    learns: bool
    quality: Quality
    training: Training | None
    megabytes: float
    timing: Timing | None = None

    def timed(self, timing: Timing) -> Row:
        """The same with its timing."""
        return replace(self, timing=timing)


@dataclass(frozen=True, slots=True)
class Skipped:
    """A candidate that has no row, and why; `failed` if it should have one."""

    name: str
    reason: str
    failed: bool


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that a run found.

    Attributes:
        source: where the evaluated queries come from.
        near_evaluation: training rows left out for nearness to evaluated queries.
        given_model: whether the student was trained before.
        same_rows: whether the student learnt from the same rows as the others.
        effort: how often things were measured.
        mean_words: of the queries that were timed.
        calibration: of the local student.
        footprint: of the local student.
    """

    machine: Machine
    source: str
    evaluated: int
    training_rows: int
    near_evaluation: int
    given_model: bool
    same_rows: bool
    card: ModelCard
    seeds: dict[str, int]
    bootstrap_samples: int
    effort: dict[str, Any]
    mean_words: float
    rows: tuple[Row, ...]
    skipped: tuple[Skipped, ...]
    calibration: Calibration | None
    footprint: Footprint

    def as_json(self) -> dict[str, Any]:
        """The whole report in JSON's types."""
        return {**asdict(self), "card": self.card.model_dump(mode="json")}

    def speedup(self, row: Row) -> float | None:
        """How many times faster than the float32 twin the median answer is."""
        twin = next((r.timing for r in self.rows if r.name == FLOAT32), None)
        return twin.median / row.timing.median if twin and row.timing else None


def table(report: Report) -> str:
    """The README's table."""
    lines = [
        "| router | rubric (95%) | mean error | dominant | training | median | p99 "
        "| speed to float32 | on disk |",
        "|---|---|---|---|---|---|---|---|---|",
        *(_row(report, row) for row in report.rows),
    ]
    return "\n".join(lines)


def _row(report: Report, row: Row) -> str:
    low, high = row.quality.interval
    timing, speedup = row.timing, report.speedup(row)
    cells = [
        row.label,
        f"{row.quality.rubric:.2f} ({low:.2f}–{high:.2f})",
        f"{row.quality.mae:.3f}",
        f"{row.quality.dominant_match:.3f}",
        _training(report, row),
        _milliseconds(timing.median) if timing else "–",
        _milliseconds(timing.p99) if timing else "–",
        _times(speedup) if speedup else "–",
        f"{row.megabytes:.1f} MB" if row.megabytes else "–",
    ]
    return f"| {' | '.join(cells)} |"


def _training(report: Report, row: Row) -> str:
    if not row.learns:
        return "none"
    if row.name == FLOAT32:
        return "the same"
    seconds = row.training.seconds if row.training else report.card.training_seconds
    return f"{seconds:.0f} s" if seconds >= 1 else f"{seconds:.1f} s"


def _times(value: float) -> str:
    return f"{value:.0f}×" if value >= 10 else f"{value:.1f}×"


def _milliseconds(value: float) -> str:
    return f"{value:.3f} ms" if value < 0.1 else f"{value:.2f} ms"


def document(report: Report) -> str:
    """The whole outcome for people, in markdown."""
    parts = [
        "# The local student beside what a user would otherwise pick",
        _setting(report),
        table(report),
        _reading(report),
        _skipped(report.skipped),
        "## The local student at run time",
        _footprint(report),
        "## Does it know what it doesn't know?",
        _calibration(report.calibration),
        "## Where this ran",
        _machine(report.machine),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _setting(report: Report) -> str:
    near = report.near_evaluation
    sentences = [
        f"{report.evaluated} queries of {report.source}, {report.training_rows:,} training rows"
        + (f" ({near} more were near an evaluated query and left out)." if near else "."),
        f"The student: seed {report.card.seed}, {report.card.train_rows:,} rows, epoch "
        f"{report.card.epoch} kept, trained in {report.card.training_seconds:.0f} s.",
    ]
    if report.given_model:
        rows = "the same rows as" if report.same_rows else "**other rows than**"
        sentences.append(f"It was trained before this run, on {rows} the others.")
    return " ".join(sentences)


def _reading(report: Report) -> str:
    effort = report.effort
    return (
        f"Rubric: bootstrap interval of {report.bootstrap_samples:,} samples. Latency: one query "
        f"at a time in a process that is pinned to one core, {effort['timed_queries']:,} queries "
        f"of {report.mean_words:.1f} words on average, the median of {effort['repetitions']} "
        "repetitions, all routers in turn. Speed: the float32 twin's median over the router's. "
        "On disk: every file that answering needs, packages' code aside. semantic-router answers "
        "with one channel; it is scored on the mean label of that channel's training rows."
    )


def _skipped(skipped: Sequence[Skipped]) -> str:
    return "\n".join(f"- Skipped: {one.name}: {one.reason}" for one in skipped)


def _footprint(report: Report) -> str:
    found = report.footprint
    local = next(row for row in report.rows if row.name == LOCAL)
    rows = [
        (
            "`import reelroute` and load",
            f"{found.load_seconds:.2f} s ({found.load_cpu_seconds:.2f} s processor time)",
        ),
        (
            f"resident memory after {report.effort['timed_queries']:,} queries",
            f"{found.resident_mb:.0f} MB",
        ),
        (
            f"batch on {found.cores} cores",
            f"{found.batch_queries_per_second:,.0f} queries/s",
        ),
        ("heavy packages loaded", ", ".join(found.heavy) or "none"),
    ]
    if local.timing:
        timing = local.timing
        rows.append(
            (
                "processor time of a query, median and p99",
                f"{timing.cpu_median:.2f} and {timing.cpu_p99:.2f} ms",
            )
        )
    if local.training:
        rows.append(
            (
                "training",
                f"{local.training.seconds:.0f} s, {local.training.peak_mb:,.0f} MB at its peak",
            )
        )
    return _two_columns(rows)


def _calibration(found: Calibration | None) -> str:
    if found is None:
        return "Not measured: the queries are too few."
    lines = [
        "Its answers in fifths, by the error that it expected of them; the correlation of "
        f"expected and real error is {found.correlation:.2f}.",
        "",
        "| fifth | queries | expected error | real error | rubric |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {number} | {part.queries} | {part.expected_error:.3f} | {part.real_error:.3f} "
        f"| {part.rubric:.2f} |"
        for number, part in enumerate(found.parts, start=1)
    ]
    return "\n".join(lines)


def _machine(machine: Machine) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in machine.versions.items())
    return _two_columns(
        [
            ("processor", f"{machine.processor}, {machine.cores} cores"),
            ("system", machine.system),
            ("busy processes at the start", f"{machine.load:g}"),
            ("date", machine.date),
            ("versions", versions),
        ]
    )


def _two_columns(rows: Sequence[tuple[str, str]]) -> str:
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)])
