"""Logs as the service writes them, made of labelled queries."""

from __future__ import annotations

import gzip
import random
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from data_contracts.monitoring import Window
from data_contracts.queries import LabelledQuery
from reelroute.service.logs import QueryLog, RouteLine

END: Final = datetime(2026, 3, 2, 12, tzinfo=UTC)
WINDOW: Final = Window(start=END - timedelta(hours=1), end=END)


def line(
    rows: Sequence[LabelledQuery],
    at: datetime = WINDOW.start,
    *,
    with_text: bool = True,
    fallback: bool = False,
    **fields: Any,
) -> RouteLine:
    """A request for some queries, answered with their labels."""
    queries = tuple(
        QueryLog.of(row.query, row.weights, fallback=fallback, with_text=with_text) for row in rows
    )
    given = {"request_id": "r1", "status": 200, "latency_ms": 2.0, "release": "run-1", **fields}
    return RouteLine(ts=at, query_count=len(queries), queries=queries, **given)


def traffic(
    rows: Sequence[LabelledQuery], count: int, window: Window = WINDOW, seed: int = 1, **how: Any
) -> Iterator[str]:
    """So many requests for one query each, drawn from the rows, spread over the window."""
    draw = random.Random(seed)
    length = window.end - window.start
    for number in range(count):
        yield line([draw.choice(rows)], window.start + number * length / count, **how).to_line()


def write(path: Path, lines: Iterable[str]) -> Path:
    """A log file; gzipped if its name says so."""
    data = "".join(lines).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(data) if path.name.endswith(".gz") else data)
    return path
