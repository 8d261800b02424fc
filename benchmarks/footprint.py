"""What an application that routes with the local student pays beside each answer.

    python -m benchmarks.footprint MODEL QUERIES

is one fresh process of it: it loads the model, answers, and prints what that took as JSON.
"""

from __future__ import annotations

import time

_STARTED = time.perf_counter(), time.process_time()

import json  # noqa: E402
import os  # noqa: E402
import sys  # noqa: E402
from dataclasses import asdict, dataclass  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Final  # noqa: E402

import reelroute  # noqa: E402, F401
from reelroute.routers.local import LocalRouter  # noqa: E402

#: What the run time must never load.
HEAVY: Final = ("torch", "prefect", "pandas", "great_expectations")


@dataclass(frozen=True, slots=True)
class Footprint:
    """One process's figures; memory in MB (10^6 bytes).

    Attributes:
        load_seconds: `import reelroute` and loading the model, by the clock.
        load_cpu_seconds: the same in processor time.
        resident_mb: after all queries were answered, one at a time.
        batch_queries_per_second: of `route_many` over all queries, on all cores.
        cores: how many those were.
        heavy: packages of `HEAVY` that were loaded.
    """

    load_seconds: float
    load_cpu_seconds: float
    resident_mb: float
    batch_queries_per_second: float
    cores: int
    heavy: tuple[str, ...]


def measure(model: Path, queries: list[str]) -> Footprint:
    """Load, answer one at a time, then answer all together."""
    router = LocalRouter.of_folder(model)
    load = time.perf_counter() - _STARTED[0]
    load_cpu = time.process_time() - _STARTED[1]
    for query in queries:
        router.route(query)
    resident = _resident_mb()
    started = time.perf_counter()
    router.route_many(queries)
    taken = time.perf_counter() - started
    return Footprint(
        load_seconds=load,
        load_cpu_seconds=load_cpu,
        resident_mb=resident,
        batch_queries_per_second=len(queries) / taken,
        cores=len(os.sched_getaffinity(0)),
        heavy=tuple(name for name in HEAVY if name in sys.modules),
    )


def _resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


if __name__ == "__main__":
    model, queries = map(Path, sys.argv[1:])
    print(json.dumps(asdict(measure(model, json.loads(queries.read_bytes())))))
