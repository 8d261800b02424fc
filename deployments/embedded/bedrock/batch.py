"""What a batch inference job does: read records, ask the model each, write what it answered."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from threading import Event
from typing import Any, Final, Protocol

from deployments.embedded.bedrock import objects
from deployments.embedded.bedrock.converse import converse
from deployments.embedded.bedrock.errors import ServiceError, invalid
from deployments.embedded.bedrock.rest import operation_model
from deployments.embedded.bedrock.state import Bedrock
from deployments.embedded.bedrock.validation import check
from deployments.embedded.calls import Call
from deployments.embedded.faults import RECORD_ERRORS

MIN_RECORDS: Final = 100
MAX_RECORDS: Final = 50_000
_CREATE: Final = "CreateModelInvocationJob"
_RUNTIME: Final = "bedrock-runtime"

Record = dict[str, Any]


class JobFailed(Exception):
    """The job ends as Failed with this message."""


@dataclass(slots=True)
class Counts:
    """A job's records: all, those gone through, and of these the answered and the failed."""

    total: int = 0
    succeeded: int = 0
    failed: int = 0
    input_tokens: int = 0
    output_tokens: int = 0

    def shown(self) -> dict[str, int]:
        """As the service shows them."""
        return {
            "totalRecordCount": self.total,
            "processedRecordCount": self.succeeded + self.failed,
            "successRecordCount": self.succeeded,
            "errorRecordCount": self.failed,
        }


class Job(Protocol):
    """What a job must say of itself to be run."""

    arn: str
    counts: Counts
    stop_asked: Event

    @property
    def input_uri(self) -> str:
        """Where its records lie."""
        ...

    @property
    def output_folder(self) -> str:
        """Where its answers go."""
        ...


def read_records(uri: str) -> list[Record]:
    """The records of an input file. Whether the model takes a record is not looked at.

    Raises:
        JobFailed: the file is missing, is no JSONL of records, or has too few or too many.
    """
    if not uri.endswith(".jsonl"):
        raise JobFailed(f"The input {uri} is not a .jsonl file.")
    try:
        text = objects.read(uri).decode("utf-8")
    except objects.ObjectMissing as error:
        raise JobFailed(str(error)) from error
    except UnicodeDecodeError as error:
        raise JobFailed(f"The input {uri} is not encoded in UTF-8.") from error
    lines = [line for line in text.split("\n") if line.strip()]
    if not MIN_RECORDS <= len(lines) <= MAX_RECORDS:
        raise JobFailed(
            f"The input {uri} has {len(lines):,} records, allowed are {MIN_RECORDS:,} "
            f"to {MAX_RECORDS:,}."
        )
    return [_record(line, number, uri) for number, line in enumerate(lines, start=1)]


def _record(line: str, number: int, uri: str) -> Record:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise JobFailed(f"Line {number} of {uri} is not JSON: {error}") from error
    if (
        not isinstance(record, dict)
        or not isinstance(record.get("recordId"), str)
        or not isinstance(record.get("modelInput"), dict)
    ):
        raise JobFailed(f"Line {number} of {uri} has no recordId or no modelInput.")
    return record


def run(bedrock: Bedrock, job: Job, *, model_id: str, records: Sequence[Record]) -> bool:
    """Ask the model every record; the answers are written in no order.

    Returns:
        whether all were asked: a job that is stopped leaves what it has.

    Raises:
        JobFailed: the output can't be written.
    """
    lines: list[str] = []
    for record in records:
        if job.stop_asked.is_set() or bedrock.closed.is_set():
            break
        lines.append(json.dumps(_answered(bedrock, job, model_id, record), ensure_ascii=False))
    whole = len(lines) == len(records)
    random.Random(job.arn).shuffle(lines)
    name = f"{PurePosixPath(job.input_uri).name}.out"
    tokens = {
        "inputTokenCount": job.counts.input_tokens,
        "outputTokenCount": job.counts.output_tokens,
    }
    manifest = json.dumps({**job.counts.shown(), **tokens})
    try:
        objects.write(job.output_folder, name, "".join(f"{line}\n" for line in lines).encode())
        objects.write(job.output_folder, "manifest.json.out", manifest.encode())
    except objects.ObjectMissing as error:
        raise JobFailed(str(error)) from error
    return whole


def _answered(bedrock: Bedrock, job: Job, model_id: str, record: Record) -> Record:
    """A line of the output: the record with its answer or its error."""
    try:
        answer = _ask(bedrock, {**record["modelInput"], "modelId": model_id})
    except ServiceError as error:
        job.counts.failed += 1
        return {**record, "error": {"errorCode": error.status, "errorMessage": error.message}}
    job.counts.succeeded += 1
    job.counts.input_tokens += answer["usage"]["inputTokens"]
    job.counts.output_tokens += answer["usage"]["outputTokens"]
    return {**record, "modelOutput": answer}


def _ask(bedrock: Bedrock, params: dict[str, Any]) -> dict[str, Any]:
    """Converse, as a record of a job asks it."""
    hit = bedrock.faults.draw(RECORD_ERRORS, "bedrock", _CREATE)
    if hit is not None:
        if hit.fault.style == "internal":
            message = "The system encountered an unexpected error during processing."
            raise ServiceError("InternalServerException", message)
        raise invalid("The record could not be processed (an injected fault).")
    check(operation_model(_RUNTIME, "Converse"), params, frozenset())
    return converse(bedrock, params, Call(service=_RUNTIME, operation="Converse"))
