"""The local student beside what a user would otherwise pick, in one run on the same queries.

    python -m benchmarks.student                     # trains all; about ten minutes
    python -m benchmarks.student --model FOLDER      # a student that is trained already
    python -m benchmarks.student --heldout FILE      # queries of your own: JSON lines

It writes `student.json` and `student.md` into the output folder and prints the README's table.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import click

from benchmarks import worker
from benchmarks.candidates import CANDIDATES, LOCAL
from benchmarks.footprint import Footprint
from benchmarks.machine import Machine
from benchmarks.report import Report, Row, Skipped, document, table
from benchmarks.rows import TrainingRows, evaluation_rows, timed_queries, training_rows
from benchmarks.scores import SAMPLES, SEED, Calibration, calibration, quality, scores
from reelroute.errors import ReelRouteError
from reelroute.student.card import ModelCard
from reelroute.student.rows import LabelledRow, data_sha256

RESULTS: Final = Path(__file__).parent / "results"

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Effort:
    """How often things are measured.

    Attributes:
        timed_queries: how many queries a repetition of the timing has.
        repetitions: of the timing, all candidates in turn; the median counts.
        footprints: fresh processes that load the student; the median counts.
    """

    timed_queries: int = 1_000
    repetitions: int = 3
    footprints: int = 5


def run(
    evaluated: Sequence[LabelledRow],
    training: TrainingRows,
    *,
    source: str,
    workplace: Path,
    model: Path | None = None,
    skip: Sequence[str] = (),
    effort: Effort | None = None,
    say: Say = lambda _: None,
) -> Report:
    """Train, evaluate and time every candidate.

    Args:
        evaluated: the queries that all are scored on.
        training: what they learn from.
        source: where the evaluated queries come from, for the report.
        workplace: a folder for what the candidates learn.
        model: a trained student's folder; without it, one is trained.
        skip: names of candidates that are left out.
        effort: how often things are measured.
        say: told what is being done.

    Raises:
        ReelRouteError: the local student can't be trained or measured. Another candidate that
            fails is in the report instead.
    """
    effort = effort or Effort()
    machine = Machine.this()
    student = model or workplace / LOCAL
    trained: dict[str, worker.Training | None] = {}
    skipped: list[Skipped] = []
    rows: dict[str, Row] = {}
    calibrated: Calibration | None = None
    # The local student first: its float32 twin takes its weights.
    for name in sorted(CANDIDATES, key=lambda name: name != LOCAL):
        candidate = CANDIDATES[name]
        if name in skip:
            skipped.append(Skipped(name, "left out with --skip", failed=False))
            continue
        if missing := candidate.missing():
            reason = f"not installed: {', '.join(missing)}"
            if name == LOCAL:
                raise ReelRouteError(f"the local student can't be measured: {reason}")
            skipped.append(Skipped(name, reason, failed=False))
            continue
        folder = student if name == LOCAL else workplace / name
        folder.mkdir(parents=True, exist_ok=True)
        try:
            say(f"{name}: training and answering")
            if name != LOCAL or model is None:
                trained[name] = worker.train(name, training.rows, folder, student)
            found = worker.answers(name, folder, [row.query for row in evaluated])
        except ReelRouteError as error:
            if name == LOCAL:
                raise
            skipped.append(Skipped(name, str(error), failed=True))
            continue
        verdicts = scores(found, evaluated)
        if name == LOCAL:
            calibrated = calibration(found, verdicts)
        rows[name] = Row(
            name=name,
            label=candidate.label,
            learns=candidate.learns,
            quality=quality(verdicts),
            training=trained.get(name),
            megabytes=sum(path.stat().st_size for path in candidate.files(folder)) / 1e6,
        )
    card = ModelCard.read(student)
    queries = timed_queries(effort.timed_queries)
    timings: dict[str, list[worker.Timing]] = {name: [] for name in rows}
    for repetition in range(effort.repetitions):
        # All in turn rather than one after the other: what else the machine does hits them alike.
        for name, timed in timings.items():
            say(f"{name}: timing {repetition + 1} of {effort.repetitions}")
            timed.append(
                worker.timing(name, student if name == LOCAL else workplace / name, queries)
            )
    say("the local student's footprint")
    return Report(
        machine=machine,
        source=source,
        evaluated=len(evaluated),
        training_rows=len(training.rows),
        near_evaluation=training.near_evaluation,
        given_model=model is not None,
        same_rows=card.data_sha256 == data_sha256(training.rows),
        card=card,
        seeds={"training": card.seed, "bootstrap": SEED},
        bootstrap_samples=SAMPLES,
        effort=asdict(effort),
        mean_words=statistics.mean(len(query.split()) for query in queries),
        rows=tuple(
            rows[name].timed(worker.Timing.median_of(timings[name]))
            for name in CANDIDATES
            if name in rows
        ),
        skipped=tuple(skipped),
        calibration=calibrated,
        footprint=footprint(student, queries, effort.footprints),
    )


def footprint(model: Path, queries: Sequence[str], processes: int) -> Footprint:
    """Each figure's median over fresh processes.

    Raises:
        ReelRouteError: a process failed; the message ends with what it said last.
    """
    found = []
    with tempfile.TemporaryDirectory(prefix="reelroute-bench-") as scratch:
        file = Path(scratch) / "queries.json"
        file.write_text(json.dumps(list(queries)), encoding="utf-8")
        command = [sys.executable, "-m", "benchmarks.footprint", str(model), str(file)]
        for _ in range(processes):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                raise ReelRouteError(f"the footprint failed: {done.stderr.strip()[-300:]}")
            found.append(Footprint(**json.loads(done.stdout)))
    return Footprint(
        load_seconds=statistics.median(one.load_seconds for one in found),
        load_cpu_seconds=statistics.median(one.load_cpu_seconds for one in found),
        resident_mb=statistics.median(one.resident_mb for one in found),
        batch_queries_per_second=statistics.median(one.batch_queries_per_second for one in found),
        cores=found[0].cores,
        heavy=tuple(sorted({name for one in found for name in one.heavy})),
    )


def write(report: Report, output: Path) -> None:
    """Leave the report in a folder, for machines and for people."""
    output.mkdir(parents=True, exist_ok=True)
    (output / "student.json").write_text(
        json.dumps(report.as_json(), indent=2) + "\n", encoding="utf-8"
    )
    (output / "student.md").write_text(document(report), encoding="utf-8")


@click.command()
@click.option("--heldout", type=click.Path(path_type=Path), help="Evaluate on this file instead.")
@click.option("--size", type=click.IntRange(min=50), help="Train on at most so many rows.")
@click.option(
    "--model",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="A trained student's folder.",
)
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=RESULTS,
    help="Where the results go; `benchmarks/results` by default.",
)
@click.option(
    "--skip",
    multiple=True,
    type=click.Choice([name for name in CANDIDATES if name != LOCAL]),
    help="Leave a candidate out; may be given several times.",
)
def main(
    heldout: Path | None,
    size: int | None,
    model: Path | None,
    output: Path,
    skip: tuple[str, ...],
) -> None:
    """Compare the local student with what a user would otherwise pick, on the same queries."""

    def say(what: str) -> None:
        click.echo(what, err=True)

    try:
        evaluated = evaluation_rows(heldout)
        training = training_rows(evaluated, size)
        with tempfile.TemporaryDirectory(prefix="reelroute-bench-") as folder:
            report = run(
                evaluated,
                training,
                source=heldout.name if heldout else "the committed benchmark",
                workplace=Path(folder),
                model=model,
                skip=skip,
                say=say,
            )
        write(report, output)
    except ReelRouteError as error:
        raise click.ClickException(str(error)) from None
    click.echo(table(report))
    for one in report.skipped:
        click.echo(f"skipped {one.name}: {one.reason}", err=True)
    if any(one.failed for one in report.skipped) or report.footprint.heavy:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
