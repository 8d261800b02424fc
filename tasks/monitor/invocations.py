"""Bedrock's model invocation logs as the service's lines, so that both are counted alike.

An answer is read as the router reads it: what can't be repaired was replaced by the keyword
rules, and counts as a fallback. The log is the whole account's: only calls of a release's own
deployment are requests, the teacher's and the judge's are others.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, Final

from pydantic import AwareDatetime, BaseModel, Field, ValidationError

from reelroute.errors import AnswerError, ReelRouteError
from reelroute.parsing import parse_forgiving
from reelroute.routers import RulesRouter, check_query
from reelroute.service.logs import QueryLog, RouteLine

#: Longer lines are no invocation of a router.
_MAX_LINE_BYTES: Final = 1_000_000
_SCHEMA: Final = "ModelInvocationLog"
#: A line that is counted as malformed, and one that is counted as another kind.
_MALFORMED: Final = "{\n"
_OTHER: Final = '{"event": "invocation"}\n'


class _Text(BaseModel):
    text: str = ""


class _Message(BaseModel):
    role: str
    content: tuple[_Text, ...]

    @property
    def text(self) -> str:
        return "".join(block.text for block in self.content)


class _InputBody(BaseModel):
    messages: tuple[_Message, ...]


class _Input(BaseModel):
    body: _InputBody = Field(alias="inputBodyJson")


class _Answer(BaseModel):
    message: _Message


class _Metrics(BaseModel):
    latency_ms: float = Field(default=0, alias="latencyMs", ge=0, allow_inf_nan=False)


class _OutputBody(BaseModel):
    output: _Answer
    metrics: _Metrics = _Metrics()


class _Output(BaseModel):
    body: _OutputBody = Field(alias="outputBodyJson")


class Invocation(BaseModel):
    """A Converse call in the log, as far as it is read here.

    Attributes:
        error_code: of a call that failed; it has no output.
    """

    ts: AwareDatetime = Field(alias="timestamp")
    request_id: str = Field(alias="requestId")
    operation: str
    model_id: str = Field(alias="modelId")
    input: _Input
    output: _Output | None = None
    error_code: str | None = Field(default=None, alias="errorCode")


def is_invocation_log(path: Path) -> bool:
    """Whether the file's first line is an invocation.

    Raises:
        OSError, EOFError: it can't be read.
    """
    for line in _lines(path):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            return False
        return isinstance(record, dict) and record.get("schemaType") == _SCHEMA
    return False


def write_as_lines(source: Path, target: Path, models: Collection[str]) -> None:
    """Write an invocation log as the service's lines, a line for a line.

    Args:
        models: the deployments whose calls are requests.

    Raises:
        OSError, EOFError: the log can't be read.
    """
    rules = RulesRouter()
    with target.open("w", encoding="ascii") as lines:
        for line in _lines(source):
            lines.write(_line(line, models, rules))


def _lines(path: Path) -> Iterator[bytes]:
    """The file's lines that aren't blank; of one that is too long a piece that is no JSON."""
    with gzip.open(path) if path.name.endswith(".gz") else path.open("rb") as file:
        while line := file.readline(_MAX_LINE_BYTES):
            cut = not line.endswith(b"\n") and len(line) == _MAX_LINE_BYTES
            while cut and (rest := file.readline(_MAX_LINE_BYTES)):
                cut = not rest.endswith(b"\n")
                line = b"{"
            if line.strip():
                yield line


def _line(line: bytes, models: Collection[str], rules: RulesRouter) -> str:
    try:
        record: Any = json.loads(line)
    except (ValueError, RecursionError):
        return _MALFORMED
    model_id = record.get("modelId") if isinstance(record, dict) else None
    if not isinstance(model_id, str) or model_id not in models:
        return _OTHER
    try:
        call = Invocation.model_validate(record)
        if call.operation != "Converse" or len(call.input.body.messages) != 1:
            return _OTHER
        return _route_line(call, rules).to_line()
    except (ValidationError, ReelRouteError):
        return _MALFORMED


def _route_line(call: Invocation, rules: RulesRouter) -> RouteLine:
    query = " ".join(check_query(call.input.body.messages[0].text).split())
    line: dict[str, Any] = {"ts": call.ts, "request_id": call.request_id}
    if call.output is None:
        throttled = call.error_code == "ThrottlingException"
        return RouteLine(
            **line,
            status=429 if throttled else 500,
            error=call.error_code or "no answer",
            latency_ms=0,
            query_count=0,
        )
    body = call.output.body
    try:
        weights, fallback = parse_forgiving(body.output.message.text).weights, False
        weights = weights.model_copy(update={"router": "bedrock"})
    except AnswerError:
        weights, fallback = rules.route(query), True
    return RouteLine(
        **line,
        status=200,
        release=call.model_id.rpartition("/")[2],
        latency_ms=body.metrics.latency_ms,
        query_count=1,
        queries=(QueryLog.of(query, weights, fallback=fallback, with_text=True),),
    )
