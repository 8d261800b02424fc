"""Records every call between boto3 and the wire, held against the service's API model.

It is at work only where the environment variable `REELROUTE_RECORD_CALLS` names a folder. Every
process appends to a file of its own there, a line a request and a line an answer: service,
operation, and what breaks the model. Parameters and answers are not recorded, but a violation
shows the value that is wrong.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Final, Literal
from uuid import uuid4

from reelroute.api_model import request_violations, response_violations, unknown_members

VARIABLE: Final = "REELROUTE_RECORD_CALLS"
#: Errors that any operation may answer with. Source: the API references' common errors.
COMMON_ERRORS: Final = frozenset(
    {
        "AccessDeniedException",
        "ExpiredTokenException",
        "InvalidSignatureException",
        "MissingAuthenticationTokenException",
        "ThrottlingException",
        "UnknownOperationException",
        "UnrecognizedClientException",
    }
)
Kind = Literal["request", "answer", "error"]


@dataclass(frozen=True, slots=True)
class Recorded:
    """A request, an answer, or an error as the answer.

    Attributes:
        violations: what breaks the API model.
        test: the test that was running, by pytest's name for it, or empty.
    """

    kind: Kind
    service: str
    operation: str
    violations: tuple[str, ...] = ()
    test: str = ""


@dataclass
class Tally:
    """How many calls there were and how many of them break the model, by operation."""

    requests: Counter[str] = field(default_factory=Counter)
    answers: Counter[str] = field(default_factory=Counter)
    broken: list[Recorded] = field(default_factory=list)

    def add(self, recorded: Recorded) -> None:
        """Count one line."""
        counts = self.requests if recorded.kind == "request" else self.answers
        counts[f"{recorded.service}: {recorded.operation}"] += 1
        if recorded.violations:
            self.broken.append(recorded)

    def __str__(self) -> str:
        return (
            f"{sum(self.requests.values()):,} requests of {len(self.requests)} operations and "
            f"{sum(self.answers.values()):,} answers held against the API models: "
            f"{sum(len(one.violations) for one in self.broken):,} violations"
        )


#: Whose answers are held against the model: botocore rewrites those of others after reading.
_ANSWERS_HELD: Final = ("bedrock", "bedrock-runtime", "s3")


def record(client: Any) -> None:
    """Record a client's calls, if the environment asks for it."""
    folder = os.environ.get(VARIABLE)
    if not folder:
        return
    events, service = client.meta.events, client.meta.service_model.service_name

    def note(kind: Kind, operation: str, violations: list[str]) -> None:
        test = os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" ")[0]
        line = Recorded(kind, service, operation, tuple(violations), test)
        _append(folder, os.getpid(), line)

    def request(params: dict[str, Any], model: Any, **_: Any) -> None:
        note("request", model.name, request_violations(model, params))

    def raw_answer(operation_model: Any, response_dict: dict[str, Any], **_: Any) -> None:
        if response_dict["status_code"] < 300 and not operation_model.has_streaming_output:
            unknown = unknown_members(operation_model, json.loads(response_dict["body"] or "{}"))
            if unknown:
                note("answer", operation_model.name, unknown)

    def answer(parsed: dict[str, Any], model: Any, **_: Any) -> None:
        if parsed["ResponseMetadata"]["HTTPStatusCode"] >= 300:
            note("error", model.name, _error_violations(model, parsed))
        elif service in _ANSWERS_HELD:
            members = {name: v for name, v in parsed.items() if name != "ResponseMetadata"}
            note("answer", model.name, response_violations(model, members))

    # After botocore's own handlers, which complete a request.
    events.register_last("before-parameter-build", request)
    events.register_last("after-call", answer)
    if client.meta.service_model.metadata["protocol"] == "rest-json":
        events.register_last("before-parse", raw_answer)


def _error_violations(model: Any, parsed: dict[str, Any]) -> list[str]:
    code = parsed.get("Error", {}).get("Code", "")
    known = {shape.error_code for shape in model.error_shapes} | COMMON_ERRORS
    if not code.endswith("Exception") or code in known:  # other codes are transports' or S3's
        return []
    return [f"The API model has no error {code!r} of {model.name}"]


def _append(folder: str, process: int, line: Recorded) -> None:
    kept = {name: getattr(line, name) for name in Recorded.__slots__ if getattr(line, name)}
    text = json.dumps(kept, ensure_ascii=False, default=str) + "\n"
    os.write(_file(folder, process), text.encode("utf-8", errors="backslashreplace"))


@cache
def _file(folder: str, process: int) -> int:
    """The process's file, open for appending: a line is written whole, whatever ends the process.

    (A forked process has another number, and so a file of its own.)
    """
    Path(folder).mkdir(parents=True, exist_ok=True)
    path = Path(folder) / f"calls-{process}-{uuid4().hex[:8]}.jsonl"
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


def recorded(folder: Path) -> Iterator[Recorded]:
    """All that was recorded in a folder."""
    for path in sorted(folder.glob("calls-*.jsonl")):
        with path.open(encoding="utf-8") as lines:
            for line in lines:
                values = json.loads(line)
                yield Recorded(**{**values, "violations": tuple(values.get("violations", ()))})


def tally(folder: Path) -> Tally:
    """What was recorded in a folder, counted."""
    counts = Tally()
    for line in recorded(folder):
        counts.add(line)
    return counts
