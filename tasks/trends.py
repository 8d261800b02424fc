"""Trends over all runs and releases of a bucket, from their records alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from math import nan

from pydantic import ValidationError

from data_contracts.evaluation import CandidateScores, EvaluationSummary
from data_contracts.runs import RunManifest
from reelroute.errors import StageError
from reelroute.problems import first_problem
from reelroute.release import ReleasePointer
from tasks.releases import current_pointer, load_release
from tasks.reporting import text
from tasks.reporting.charts import by_run
from tasks.reporting.content import Cell, Content, Figure, Section, Table
from tasks.reporting.page import content_page
from tasks.runs import list_runs
from tasks.storage import Storage


@dataclass(frozen=True, slots=True)
class RunTrend:
    """What the trends show of a run.

    Attributes:
        candidates: on the benchmark, which is the same for every run; none before `evaluate`.
        outcome: what became of the release pointer, or why the run ended.
        minutes: the latest attempts at its stages, together.
    """

    run_id: str
    created_at: datetime
    status: str
    candidates: tuple[CandidateScores, ...]
    outcome: str
    usd: float
    simulated: bool
    minutes: float


@dataclass(frozen=True, slots=True)
class ReleaseTrend:
    """What the trends show of a release, the newest first."""

    version: str
    router: str
    rubric: float | None
    created_at: datetime
    current: bool


def read_trends(storage: Storage) -> tuple[list[RunTrend], list[ReleaseTrend]]:
    """All runs, the oldest first, and the releases that the pointer remembers.

    Raises:
        StageError: a run's evaluation is not one.
        ReleaseError: a release is gone or is not what the pointer names.
    """
    runs = [_run_trend(storage, manifest) for manifest in reversed(list_runs(storage))]
    current = current_pointer(storage)
    return runs, _releases(storage, current.pointer) if current else []


def trends_page(runs: Sequence[RunTrend], releases: Sequence[ReleaseTrend], bucket: str) -> str:
    """The trends as one HTML page that needs nothing beside it; at least one run is needed."""
    evaluated = [run for run in runs if run.candidates]
    sections = [
        *([Section("quality", "Quality and latency", _quality(evaluated))] if evaluated else []),
        Section("effort", "Cost and time", _effort(runs)),
        *([Section("releases", "Releases", [_release_table(releases)])] if releases else []),
        Section("runs", "Runs", [_run_table(runs)]),
    ]
    content = Content(
        title="Trends",
        headline=_headline(runs, releases),
        facts=[
            ("Bucket", bucket),
            ("Runs", str(len(runs))),
            ("Releases", str(len(releases))),
            ("As of", f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"),
        ],
        sections=sections,
    )
    return content_page(content, bucket)


def _run_trend(storage: Storage, manifest: RunManifest) -> RunTrend:
    evaluated, promoted = manifest.stages.get("evaluate"), manifest.stages.get("promote")
    candidates: tuple[CandidateScores, ...] = ()
    if evaluated and "summary" in evaluated.files:
        file = evaluated.files["summary"]
        try:
            summary = EvaluationSummary.model_validate_json(storage.read(file))
        except ValidationError as error:
            raise StageError(
                f"{storage.uri(file.key)} is not an evaluation: {first_problem(error)}"
            ) from None
        candidates = summary.benchmark
    last = [*manifest.stages.values()][-1] if manifest.stages else None
    started = manifest.parameters.created_at if manifest.parameters else None
    outcome = str(promoted.metrics.get("summary") or "") if promoted else ""
    return RunTrend(
        run_id=manifest.run_id,
        created_at=started or (last.started_at if last else datetime.min.replace(tzinfo=UTC)),
        status=manifest.status,
        candidates=candidates,
        outcome=outcome or (last.error or "" if last else ""),
        usd=manifest.cost.usd,
        simulated=manifest.cost.simulated,
        minutes=sum(record.seconds for record in manifest.stages.values()) / 60,
    )


def _releases(storage: Storage, pointer: ReleasePointer) -> list[ReleaseTrend]:
    found = []
    for ref in (pointer, *pointer.history):
        release = load_release(storage, ref)
        rubric = release.evaluation.get("rubric")
        found.append(
            ReleaseTrend(
                version=release.version,
                router=release.router,
                rubric=float(rubric) if isinstance(rubric, int | float) else None,
                created_at=release.created_at,
                current=ref.version == pointer.version,
            )
        )
    return found


def _headline(runs: Sequence[RunTrend], releases: Sequence[ReleaseTrend]) -> list[str]:
    completed = sum(run.status == "completed" for run in runs)
    sentences = [f"{completed} of {len(runs)} runs completed; the latest: {runs[-1].outcome}"]
    if releases:
        first, now = releases[-1], releases[0]
        sentences.append(
            f"{now.version} is the release, {text.score(now.rubric)} on the rubric; the first "
            f"that is remembered had {text.score(first.rubric)}."
        )
    return sentences


def _label(run: RunTrend) -> str:
    return f"{run.created_at:%m-%d}\n{run.run_id.removeprefix('run-')[:8]}"


def _quality(runs: Sequence[RunTrend]) -> list[str | Table | Figure]:
    names = list(dict.fromkeys(scores.name for run in runs for scores in run.candidates))

    def series(value: Callable[[CandidateScores], float]) -> dict[str, list[float]]:
        by_name = [{scores.name: value(scores) for scores in run.candidates} for run in runs]
        return {name: [values.get(name, nan) for values in by_name] for name in names}

    labels = [_label(run) for run in runs]
    same = "each run's candidates on the same 300 held-out queries"
    return [
        Figure(
            by_run(
                "Rubric",
                f"Mean weight score, 1 to 5, {same}",
                "rubric",
                labels,
                series(lambda scores: scores.rubric),
            ),
            "The rubric of every candidate, run by run",
        ),
        Figure(
            by_run(
                "Valid answers",
                f"Share that the strict parser accepts, {same}",
                "%",
                labels,
                series(lambda scores: 100 * scores.valid_rate),
            ),
            "The share of valid answers of every candidate, run by run",
        ),
        Figure(
            by_run(
                "Latency",
                f"95th percentile at the client, {same}",
                "ms",
                labels,
                series(lambda scores: scores.latency_ms.p95),
            ),
            "The 95th percentile of every candidate's latency, run by run",
        ),
    ]


def _effort(runs: Sequence[RunTrend]) -> list[str | Table | Figure]:
    labels = [_label(run) for run in runs]
    mark = " (simulated)" if any(run.simulated for run in runs) else ""
    return [
        Figure(
            by_run(
                "Cost of a run",
                f"What its stages bought, in US dollars{mark}",
                "$",
                labels,
                {"cost": [run.usd for run in runs]},
            ),
            "What each run cost",
        ),
        Figure(
            by_run(
                "Time of a run",
                "The latest attempts at its stages, together",
                "minutes",
                labels,
                {"time": [run.minutes for run in runs]},
            ),
            "How long each run took",
        ),
    ]


def _release_table(releases: Sequence[ReleaseTrend]) -> Table:
    return Table(
        header=("release", "router", "rubric", "evaluated"),
        rows=[
            (
                Cell(release.version, note="current" if release.current else ""),
                Cell(release.router),
                Cell(text.score(release.rubric)),
                Cell(f"{release.created_at:%Y-%m-%d %H:%M}"),
            )
            for release in releases
        ],
        numeric=(2,),
        caption="The newest first: those that a rollback can reach.",
    )


def _run_table(runs: Sequence[RunTrend]) -> Table:
    return Table(
        header=("run", "started", "state", "minutes", "$", "outcome"),
        rows=[
            (
                Cell(run.run_id),
                Cell(f"{run.created_at:%Y-%m-%d %H:%M}"),
                Cell(run.status),
                Cell(f"{run.minutes:.1f}"),
                Cell(f"{'~' if run.simulated else ''}{run.usd:.4f}"),
                Cell(run.outcome),
            )
            for run in reversed(runs)
        ],
        numeric=(3, 4),
        caption="The newest first. ~ simulated",
    )
