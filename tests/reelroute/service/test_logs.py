"""The request log is the contract with the monitor."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reelroute.routers import RulesRouter, check_query
from reelroute.service.logs import JsonFormatter, LineWriter, QueryLog, RouteLine, script_of
from reelroute.weights import RoutingWeights
from tests.reelroute.service.conftest import WEIGHTS, FakeRouter, Service

Start = Callable[..., Service]


def test_an_answered_request_is_one_line_in_the_monitors_format(start: Start) -> None:
    service = start(FakeRouter(), log_queries=False)
    before = datetime.now(UTC)
    service.client.post(
        "/v1/route", json={"queries": ["Dogs  barking", "x"]}, headers={"x-request-id": "r1"}
    )
    [raw] = service.lines()
    line = RouteLine.model_validate(raw)
    assert abs((line.ts - before).total_seconds()) < 3600
    assert raw["ts"].endswith("Z")
    assert raw["event"] == "route"
    assert (line.request_id, line.status, line.error) == ("r1", 200, None)
    assert (line.release, line.query_count) == ("2026-w01", 2)
    assert line.latency_ms > 0
    assert line.queries[0] == QueryLog(
        id=hashlib.sha256(b"Dogs barking").hexdigest()[:12],
        words=2,
        characters=12,
        script="latin",
        dominant="visual",
        weights=WEIGHTS,
        router="fake",
        fallback=False,
    )


def test_a_refused_request_is_a_line_too(start: Start) -> None:
    service = start(max_body_bytes=1024)
    service.route("")
    service.route("x" * 2000)
    service.client.get("/v1/route")
    lines = service.lines()
    assert [(line["status"], line["error"]) for line in lines] == [
        (422, "query_empty"),
        (413, "body_too_large"),
        (405, "method_not_allowed"),
    ]
    assert all(line["query_count"] == 0 and line["queries"] == [] for line in lines)


def test_other_paths_are_not_in_the_log(start: Start) -> None:
    service = start()
    for path in ("/healthz", "/readyz", "/metrics", "/nothing"):
        service.client.get(path)
    assert service.lines() == []


def test_queries_are_logged_only_where_configured(start: Start) -> None:
    for configured in (False, True):
        service = start(log_queries=configured)
        service.route("the secret wedding")
        service.client.post("/v1/route", json={"the secret wedding": 1})
        service.lines()
        assert ("secret wedding" in service.stream.getvalue()) == configured


def test_no_header_is_logged(start: Start) -> None:
    service = start(log_queries=True)
    service.client.post(
        "/v1/route", json={"query": "a"}, headers={"authorization": "Bearer s3cret", "cookie": "c1"}
    )
    service.lines()
    assert "s3cret" not in service.stream.getvalue()


@settings(max_examples=100)
@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=80))
def test_no_query_ends_a_line_or_moves_a_terminal(query: str) -> None:
    query = check_query(f"{query} a")
    log = QueryLog.of(query, RulesRouter().route(query), fallback=False, with_text=True)
    line = RouteLine(
        ts=datetime.now(UTC),
        request_id="r",
        status=200,
        latency_ms=1,
        query_count=1,
        queries=(log,),
    ).to_line()
    assert line.isascii()
    assert line.index("\n") == len(line) - 1
    assert not set(map(chr, range(32))) & set(line[:-1])
    [read] = RouteLine.model_validate_json(line).queries
    assert (read.text, read.characters) == (query, len(query))


def test_what_a_router_knows_more_is_logged() -> None:
    class Knowing(RoutingWeights):
        confidence: float = 0.75
        language: str = "de"

    log = QueryLog.of("a", Knowing(**WEIGHTS), fallback=False, with_text=False)
    assert (log.confidence, log.language) == (0.75, "de")


def test_a_reader_leaves_out_what_later_versions_add() -> None:
    written = RouteLine(
        ts=datetime.now(UTC), request_id="r", status=200, latency_ms=1, query_count=0
    )
    later = json.loads(written.to_line()) | {"added": 1}
    assert RouteLine.model_validate(later).request_id == "r"


@pytest.mark.parametrize(
    "change", [{"event": "other"}, {"latency_ms": -1}, {"request_id": "a\nb"}, {"ts": "yesterday"}]
)
def test_a_line_outside_the_contract_is_refused(change: dict[str, Any]) -> None:
    good = RouteLine(ts=datetime.now(UTC), request_id="r", status=200, latency_ms=1, query_count=0)
    with pytest.raises(ValueError, match=next(iter(change))):
        RouteLine.model_validate(json.loads(good.to_line()) | change)


@pytest.mark.parametrize(
    ("text", "script"),
    [
        ("dogs", "latin"),
        ("über alles", "latin"),
        ("собаки лают", "cyrillic"),
        ("犬の声", "cjk"),
        ("مرحبا", "arabic"),
        ("123 !?", None),
        ("🎬", None),
    ],
)
def test_the_script_of_a_query_is_noted(text: str, script: str | None) -> None:
    assert script_of(text) == script


class _Stuck(io.StringIO):
    """A stream whose reader has stopped until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.entered = threading.Event()
        self.go_on = threading.Event()

    def write(self, text: str) -> int:
        self.entered.set()
        assert self.go_on.wait(20)
        return super().write(text)


def test_a_stuck_reader_costs_lines_and_no_answers() -> None:
    stream = _Stuck()
    writer = LineWriter(stream, waiting_lines=2)
    writer.start()
    writer.write("1\n")
    assert stream.entered.wait(20)
    for number in range(2, 6):
        writer.write(f"{number}\n")
    assert writer.dropped == 2
    stream.go_on.set()
    writer.close()
    assert stream.getvalue() == "1\n2\n3\n"


def test_a_reader_that_is_gone_is_survived() -> None:
    stream = io.StringIO()
    writer = LineWriter(stream)
    stream.close()
    writer.start()
    writer.write("1\n")
    writer.close()
    assert writer.dropped == 1


def test_what_the_service_says_of_itself_is_json_too() -> None:
    try:
        raise ValueError("bad\n\x1b[31m")
    except ValueError:
        record = logging.LogRecord("x", logging.ERROR, "", 0, "no %s", ("a\nb",), sys.exc_info())
    line = JsonFormatter().format(record)
    assert "\n" not in line
    assert "\x1b" not in line
    said = json.loads(line)
    assert (said["level"], said["logger"], said["message"]) == ("error", "x", "no a\nb")
    assert "ValueError" in said["exception"]
