"""A candidate's part of the work, in a process of its own; `call` starts one.

Nothing that another candidate has loaded, or left running, is then measured with it.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.candidates import CANDIDATES
from reelroute.errors import ReelRouteError
from reelroute.student.rows import LabelledRow

_WARM_UP: Final = 50
_LIMIT_SECONDS: Final = 3_600
#: No hub is reached, whatever a package would like to look up.
_OFFLINE: Final = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
_ONE_THREAD: Final = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


@dataclass(frozen=True, slots=True)
class Training:
    """What learning took: seconds, and the process's peak memory in MB (10^6 bytes)."""

    seconds: float
    peak_mb: float


@dataclass(frozen=True, slots=True)
class Answered:
    """An answer: its weights, and the mean error that the router itself expected of it, if any."""

    weights: tuple[float, float, float, float]
    expected_error: float | None


@dataclass(frozen=True, slots=True)
class Timing:
    """One query at a time on one core, in milliseconds: as the clock saw it, and processor time."""

    median: float
    p99: float
    cpu_median: float
    cpu_p99: float

    @classmethod
    def median_of(cls, timings: Sequence[Timing]) -> Timing:
        """Each number's median over several timings."""
        columns = zip(*(asdict(timing).values() for timing in timings), strict=True)
        return cls(*(statistics.median(column) for column in columns))


def train(name: str, rows: Sequence[LabelledRow], folder: Path, student: Path) -> Training:
    """Train a candidate."""
    given = {"rows": [asdict(row) for row in rows], "student": str(student)}
    return Training(**call("train", name, folder, given))


def answers(name: str, folder: Path, queries: Sequence[str]) -> list[Answered]:
    """A candidate's answers, one query at a time."""
    found = call("answers", name, folder, {"queries": list(queries)})
    return [Answered(tuple(one["weights"]), one["expected_error"]) for one in found]


def timing(name: str, folder: Path, queries: Sequence[str]) -> Timing:
    """One repetition of a candidate's timing."""
    return Timing(**call("timing", name, folder, {"queries": list(queries)}, _ONE_THREAD))


def call(
    task: str, name: str, folder: Path, given: object, environment: Mapping[str, str] | None = None
) -> Any:
    """What a task gives in a fresh process.

    Raises:
        ReelRouteError: the process failed; the message ends with what it said last.
    """
    with tempfile.TemporaryDirectory(prefix="reelroute-bench-") as scratch:
        inputs, output = Path(scratch) / "in.json", Path(scratch) / "out.json"
        inputs.write_text(json.dumps(given), encoding="utf-8")
        command = [sys.executable, "-m", "benchmarks.worker", task, name]
        done = subprocess.run(
            [*command, str(folder), str(inputs), str(output)],
            env={**os.environ, **_OFFLINE, **(environment or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_LIMIT_SECONDS,
            check=False,
        )
        if done.returncode != 0:
            said = done.stderr.decode(errors="replace").strip().splitlines()
            raise ReelRouteError(f"{task} of {name} failed: {said[-1] if said else 'no message'}")
        return json.loads(output.read_bytes())


def _train(name: str, folder: Path, given: Mapping[str, Any]) -> object:
    rows = [LabelledRow(row["query"], tuple(row["weights"])) for row in given["rows"]]
    started = time.perf_counter()
    CANDIDATES[name].train(rows, folder, Path(given["student"]))
    return asdict(Training(time.perf_counter() - started, _peak_mb()))


def _answers(name: str, folder: Path, given: Mapping[str, Any]) -> object:
    answer = CANDIDATES[name].load(folder)
    found = [answer(query) for query in given["queries"]]
    return [
        asdict(Answered(weights.values(), getattr(weights, "expected_error", None)))
        for weights in found
    ]


def _timing(name: str, folder: Path, given: Mapping[str, Any]) -> object:
    # Before anything is loaded, so that threads which packages start stay on that core too.
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    answer = CANDIDATES[name].load(folder)
    queries: list[str] = given["queries"]
    for query in queries[:_WARM_UP]:
        answer(query)
    wall, cpu = [], []
    for query in queries:
        started, cpu_started = time.perf_counter_ns(), time.process_time_ns()
        answer(query)
        cpu.append((time.process_time_ns() - cpu_started) / 1e6)
        wall.append((time.perf_counter_ns() - started) / 1e6)
    return asdict(
        Timing(
            statistics.median(wall),
            _percentile(wall, 0.99),
            statistics.median(cpu),
            _percentile(cpu, 0.99),
        )
    )


def _percentile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def _peak_mb() -> float:
    """The process's own peak resident memory in MB; 0 where there is no /proc.

    Not from `getrusage`: its peak is inherited from the process that started this one.
    """
    try:
        lines = Path("/proc/self/status").read_text("utf-8").splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) * 1024 / 1e6 for line in lines if "VmHWM" in line), 0.0)


_TASKS: Final = {"train": _train, "answers": _answers, "timing": _timing}


def main() -> None:
    """Do one task and write what it gives."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("task", choices=_TASKS)
    parser.add_argument("name", choices=CANDIDATES)
    parser.add_argument("folder", type=Path)
    parser.add_argument("inputs", type=Path)
    parser.add_argument("output", type=Path)
    asked = parser.parse_args()
    given = json.loads(asked.inputs.read_bytes())
    result = _TASKS[asked.task](asked.name, asked.folder, given)
    asked.output.write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main()
