"""Bedrock's invocation logs count as the router's own lines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from data_contracts.monitoring import LineCounts
from reelroute.service.logs import RouteLine
from tasks.monitor.aggregate import Reading, aggregate_file
from tasks.monitor.invocations import is_invocation_log, write_as_lines
from tests.support import corpus_rows
from tests.tasks.monitor.factory import WINDOW, traffic, write

ARN = "arn:aws:bedrock:us-east-1:123456789012:custom-model-deployment/0123456789ab"
ANSWER = (
    '{"visual": 0.1, "audio": 0.1, "transcription": 0.7, "metadata": 0.1, "reasoning": "speech"}'
)


def call(query: str = "CEO discussing quarterly earnings", **fields: Any) -> dict[str, Any]:
    """A call as Bedrock logs it (schema version 1.0)."""
    return {
        "schemaType": "ModelInvocationLog",
        "schemaVersion": "1.0",
        "timestamp": "2026-03-02T11:30:00Z",
        "accountId": "123456789012",
        "region": "us-east-1",
        "requestId": "915a6a04-3f83-4c70-a277-7fbf7ea546b3",
        "operation": "Converse",
        "modelId": ARN,
        "input": {
            "inputContentType": "application/json",
            "inputBodyJson": {
                "messages": [{"role": "user", "content": [{"text": query}]}],
                "system": [{"text": "prompt"}],
            },
            "inputTokenCount": 35,
        },
        "output": output(ANSWER),
        **fields,
    }


def output(text: str) -> dict[str, Any]:
    return {
        "outputContentType": "application/json",
        "outputBodyJson": {
            "output": {"message": {"role": "assistant", "content": [{"text": text}]}},
            "stopReason": "end_turn",
            "metrics": {"latencyMs": 812},
            "usage": {"inputTokens": 35, "outputTokens": 46, "totalTokens": 81},
        },
        "outputTokenCount": 46,
    }


def read(folder: Path, *records: Any) -> tuple[list[str], Any]:
    """The lines that records become, and their aggregate."""
    log = write(
        folder / "log.jsonl.gz",
        [(record if isinstance(record, str) else json.dumps(record)) + "\n" for record in records],
    )
    target = folder / "lines.jsonl"
    write_as_lines(log, target, {ARN})
    return target.read_text().splitlines(), aggregate_file(target, Reading(WINDOW)).aggregate


def test_a_call_of_the_router_is_a_request_with_its_answer(tmp_path: Path) -> None:
    (text,), found = read(tmp_path, call())
    line = RouteLine.model_validate_json(text)
    (query,) = line.queries
    assert (line.status, line.latency_ms, line.release) == (200, 812, "0123456789ab")
    assert (query.dominant, query.words, query.script) == ("transcription", 4, "latin")
    assert query.text == "CEO discussing quarterly earnings"
    assert found.lines == LineCounts(read=1, requests=1)
    assert found.histogram("fallback") == {"own": 1}


def test_an_answer_that_can_not_be_read_was_a_fallback(tmp_path: Path) -> None:
    _, found = read(tmp_path, call(output=output("I think it is about speech.")))
    assert found.histogram("fallback") == {"fallback": 1}
    assert found.queries == 1


@pytest.mark.parametrize(
    ("code", "status"), [("ThrottlingException", "429"), ("InternalServerException", "500")]
)
def test_a_call_that_failed_was_refused(code: str, status: str, tmp_path: Path) -> None:
    failed = call(errorCode=code)
    del failed["output"]
    _, found = read(tmp_path, failed)
    assert found.histogram("status") == {status: 1}
    assert found.histogram("refused") == {"refused": 1}
    assert found.queries == 0


def test_calls_of_others_and_what_is_no_call_are_counted_apart(tmp_path: Path) -> None:
    repair = call()
    repair["input"]["inputBodyJson"]["messages"] *= 3
    _, found = read(
        tmp_path,
        call(),
        call(modelId="amazon.nova-pro-v1:0"),
        call(operation="InvokeModel"),
        call(modelId=["a", "list"]),
        repair,
        "{",
        call(timestamp="never"),
        call(query=" "),
        call(timestamp="2026-03-01T11:30:00Z"),
    )
    assert found.lines == LineCounts(read=9, requests=1, other=4, malformed=3, outside=1)


def test_a_line_without_an_end_in_sight_is_one_malformed_line(tmp_path: Path) -> None:
    _, found = read(tmp_path, call(), '{"modelId": "' + "x" * 2_500_000 + '"}', call())
    assert found.lines == LineCounts(read=3, requests=2, malformed=1)


def test_the_formats_are_told_apart_by_their_first_line(tmp_path: Path) -> None:
    rows = corpus_rows(3)
    assert is_invocation_log(write(tmp_path / "a.jsonl", [json.dumps(call()) + "\n"]))
    assert not is_invocation_log(write(tmp_path / "b.jsonl", traffic(rows, 3)))
    assert not is_invocation_log(write(tmp_path / "c.jsonl", ["{\n"]))
    assert not is_invocation_log(write(tmp_path / "d.jsonl", []))
