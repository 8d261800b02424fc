"""`python -m benchmarks.monitor`: the monitor over millions of lines, and what it notices.

Two questions. How do time and memory grow from 2 to 20 million lines of production logs? Each
size is written to a temporary folder, then aggregated in a process of its own, whose peak memory
is the kernel's figure. And which changes of the traffic are noticed, and how often is there an
alarm without one? Traffic is drawn from one half of the recorded answers, some queries far more
often than others; the training set is the other half.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final

from benchmarks.machine import Machine
from configs.settings import MonitorSettings
from data_contracts.monitoring import Comparison, Window
from data_contracts.queries import LabelledQuery
from deployments.embedded.models.corpus import recorded_answers
from flows.monitor import DISTINCT_QUERIES
from reelroute.service.logs import QueryLog, script_of
from tasks.monitor.aggregate import FileAggregate, Reading, aggregate_file, distinct, vocabulary_of
from tasks.monitor.drift import compare
from tasks.monitor.logs import add_up
from tasks.monitor.reference import aggregate_rows

END: Final = datetime(2026, 3, 2, 12, tzinfo=UTC)
WINDOW: Final = Window(start=END - timedelta(hours=1), end=END)
SETTINGS: Final = MonitorSettings()
LINES_A_FILE: Final = 500_000
#: How much more often the more frequent queries are asked: the n-th 1/n^0.7 as often.
POPULARITY: Final = 0.7


@dataclass(frozen=True)
class Traffic:
    """Queries and how they are answered.

    Attributes:
        rows: the distinct queries, the most frequent first.
        fallback: share of the queries answered by a stopgap.
        latency_ms: the median.
    """

    rows: tuple[LabelledQuery, ...]
    fallback: float = 0.002
    latency_ms: float = 2.0

    def lines(self, count: int, window: Window, seed: int) -> Iterator[str]:
        """So many lines as the service writes them, spread over the window."""
        draw = random.Random(seed)
        logs = [self._logs(row) for row in self.rows]
        popularity = [1 / (place + 1) ** POPULARITY for place in range(len(logs))]
        step = (window.end - window.start) / count
        asked: Iterator[tuple[str, str]] = iter(())
        for number in range(count):
            if number % 100_000 == 0:
                asked = iter(draw.choices(logs, popularity, k=100_000))
            moment = (window.start + number * step).replace(tzinfo=None)
            query = next(asked)[draw.random() < self.fallback]
            yield (
                f'{{"ts": "{moment.isoformat("T", "milliseconds")}Z", "event": "route", '
                f'"request_id": "{draw.getrandbits(128):032x}", "status": 200, "error": null, '
                f'"release": "run-1", "latency_ms": '
                f"{self.latency_ms * draw.lognormvariate(0, 0.4):.3f}, "
                f'"query_count": 1, "queries": [{query}]}}\n'
            )

    @staticmethod
    def _logs(row: LabelledQuery) -> tuple[str, str]:
        both = (
            QueryLog.of(row.query, row.weights, fallback=fallback, with_text=True).model_dump()
            for fallback in (False, True)
        )
        own, fallback = (json.dumps({**log, "router": "local"}) for log in both)
        return own, fallback


def halves() -> tuple[tuple[LabelledQuery, ...], tuple[LabelledQuery, ...]]:
    """The recorded answers in a fixed random order: a training set, and production's queries."""
    rows = [
        LabelledQuery.from_weights(
            answer.query,
            answer.weights,
            difficulty=answer.difficulty,
            domain=answer.domain,
            labelled_by="recorded",
        )
        for answer in recorded_answers()
    ]
    random.Random(7).shuffle(rows)
    middle = len(rows) // 2
    return tuple(rows[:middle]), tuple(rows[middle:])


# --- time and memory ----------------------------------------------------------------------------


def write_logs(folder: Path, traffic: Traffic, count: int, plain: bool) -> int:
    """Write so many lines into files; their size in bytes as they lie on the disk."""
    folder.mkdir(parents=True)
    size = 0
    for number, start in enumerate(range(0, count, LINES_A_FILE)):
        path = folder / f"{number:04d}.jsonl{'' if plain else '.gz'}"
        lines = traffic.lines(min(LINES_A_FILE, count - start), WINDOW, seed=number)
        with path.open("wb") if plain else gzip.open(path, "wb", compresslevel=1) as file:
            for line in lines:
                file.write(line.encode())
        size += path.stat().st_size
    return size


def measure(folder: Path, workers: int) -> dict[str, Any]:
    """Aggregate a folder as the monitor does; seconds and peak memory of this process."""
    reading = Reading(
        WINDOW,
        vocabulary_of([row.query for row in halves()[0]]).words,
        sample_size=DISTINCT_QUERIES,
        memory_mb=SETTINGS.memory_mb,
    )
    before_mb = peak_mb()
    started = time.perf_counter()
    with ThreadPoolExecutor(workers) as pool:
        results = pool.map(partial(aggregate_file, reading=reading), sorted(folder.iterdir()))
        found = add_up(results, reading.sample_size, lambda: None)
    return {
        "seconds": time.perf_counter() - started,
        "before_mb": before_mb,
        "peak_mb": peak_mb(),
        "lines": found.aggregate.lines.model_dump(),
        "queries": found.aggregate.queries,
        "sampled": len(found.sample),
    }


def peak_mb() -> float:
    """The most memory that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def growth(sizes: Sequence[int], folder: Path, workers: int, plain: bool) -> None:
    """Print time and memory by the number of lines."""
    traffic = Traffic(halves()[1])
    print(f"\n{'lines':>12} {'on disk':>9} {'seconds':>8} {'lines/s':>9} {'peak memory':>12}")
    for size in sizes:
        place = folder / f"{size}"
        written = write_logs(place, traffic, size, plain)
        command = [sys.executable, "-m", "benchmarks.monitor", "--measure", str(place)]
        done = subprocess.run(
            [*command, "--workers", str(workers)], check=True, capture_output=True, text=True
        )
        found = json.loads(done.stdout)
        assert found["lines"]["requests"] == found["queries"] == size
        print(
            f"{size:>12,} {written / 1e9:>6.2f} GB {found['seconds']:>8.1f} "
            f"{size / found['seconds']:>9,.0f} {found['peak_mb']:>9.0f} MB"
            f"   ({found['before_mb']:.0f} MB before the first file)",
            flush=True,
        )
        shutil.rmtree(place)


# --- what is noticed ----------------------------------------------------------------------------


def changes(usual: Traffic) -> dict[str, Traffic]:
    """Traffic that has changed, by what changed."""
    rows = usual.rows

    def more(of: Callable[[LabelledQuery], bool], share: float) -> Traffic:
        """A share of the queries replaced by those of a kind."""
        draw = random.Random(3)
        kind = [row for row in rows if of(row)]
        return replace(
            usual,
            rows=tuple(draw.choice(kind) if draw.random() < share else row for row in rows),
        )

    return {
        "10% of the queries become speech": more(lambda r: r.channel == "transcription", 0.1),
        "20% of the queries become speech": more(lambda r: r.channel == "transcription", 0.2),
        "40% of the queries become speech": more(lambda r: r.channel == "transcription", 0.4),
        "20% become short (one to three words)": more(lambda r: r.query.count(" ") < 3, 0.2),
        "10% come in another script": more(
            lambda r: script_of(r.query) not in ("latin", None), 0.1
        ),
        "5% are answered by a stopgap": replace(usual, fallback=0.05),
        "twice as slow": replace(usual, latency_ms=2 * usual.latency_ms),
    }


class Trial:
    """Windows of traffic beside the training set and the window before."""

    def __init__(self, training: Sequence[LabelledQuery], size: int, folder: Path) -> None:
        self._training = aggregate_rows(training)
        self._reading = Reading(
            WINDOW,
            vocabulary_of([row.query for row in training]).words,
            sample_size=DISTINCT_QUERIES,
        )
        self._size = size
        self._folder = folder

    def window(self, traffic: Traffic, seed: int) -> FileAggregate:
        """A window of the traffic."""
        path = self._folder / "window.jsonl"
        with path.open("w", encoding="ascii") as file:
            file.writelines(traffic.lines(self._size, WINDOW, seed))
        return aggregate_file(path, self._reading)

    def compared(self, now: FileAggregate, before: FileAggregate) -> list[Comparison]:
        """The window beside both references."""
        return [
            *compare(SETTINGS, distinct(now.sample), self._training, "training"),
            *compare(SETTINGS, now.aggregate, before.aggregate, "before"),
        ]


def noticed(sizes: Sequence[int], windows: int, folder: Path) -> None:
    """Print false alarms of unchanged windows and what is noticed of changes."""
    training, production = halves()
    usual = Traffic(production)
    for size in sizes:
        trial = Trial(training, size, folder)
        before = trial.window(usual, seed=0)
        alarms, peaks, limits = 0, dict[str, float](), dict[str, float]()
        for seed in range(1, windows + 1):
            now = trial.window(usual, seed)
            found = trial.compared(now, before)
            alarms += any(comparison.drifted for comparison in found)
            for one in found:
                if one.value is not None:
                    peaks[one.name] = max(peaks.get(one.name, one.value), one.value)
                    limits[one.name] = one.threshold
            before = now
        print(f"\n{size:,} lines a window: {alarms} of {windows} unchanged windows alarmed")
        changed = {
            change: {one.name: one for one in trial.compared(trial.window(it, 99), before)}
            for change, it in changes(usual).items()
        }
        for change, comparisons in changed.items():
            told = ", ".join(f"{c.name} {c.value:.2f}" for c in comparisons.values() if c.drifted)
            print(f"  {change:40s} {told or 'not noticed'}")
        print(f"  {'measure':24s} {'limit':>6} {'unchanged at most':>18}   by change", flush=True)
        for name, peak in peaks.items():
            values = [f"{c[name].value or 0:6.3f}" for c in changed.values()]
            print(f"  {name:24s} {limits[name]:6.3f} {peak:18.3f}   {' '.join(values)}", flush=True)


def main() -> None:
    """Run both parts, or the one that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lines", type=int, nargs="*", default=[2_000_000, 20_000_000])
    parser.add_argument("--window-lines", type=int, nargs="*", default=[2_000, 50_000])
    parser.add_argument("--windows", type=int, default=20)
    parser.add_argument("--workers", type=int, default=2, help="files read together")
    parser.add_argument("--plain", action="store_true", help="without gzip")
    parser.add_argument("--folder", type=Path, help="where the logs are written")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        print(json.dumps(measure(given.measure, given.workers)))
        return
    machine = Machine.this()
    print(f"{machine.processor}, {machine.cores} cores, {machine.system}, load {machine.load:.1f}")
    with tempfile.TemporaryDirectory(prefix="reelroute-logs-", dir=given.folder) as name:
        noticed(given.window_lines, given.windows, Path(name))
        growth(given.lines, Path(name), given.workers, given.plain)


if __name__ == "__main__":
    main()
