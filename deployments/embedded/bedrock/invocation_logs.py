"""Model invocation logs in S3 as training records: the calls that pass a job's filters."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Mapping
from typing import Any

from data_contracts.conversation import ConversationRecord
from deployments.embedded.bedrock import objects

Filter = Mapping[str, Any]


def read(uri: str, wanted: Filter | None, answers_of: str | None) -> list[ConversationRecord]:
    """The records of the logged calls, in the order of their files; what is none is dropped.

    Args:
        uri: the logs' prefix; files are lines of JSON, compressed by gzip or not.
        wanted: the job's `requestMetadataFilters`, or None for every call.
        answers_of: take this model's logged answers, and the calls of no other; None takes the
            prompts alone, whoever was asked.

    Raises:
        ObjectMissing: no such bucket.
    """
    records = []
    for call in _calls(uri):
        if wanted and not passes(wanted, call.get("requestMetadata") or {}):
            continue
        if answers_of is None or answers_of in str(call.get("modelId")):
            record = _record(call, with_answer=answers_of is not None)
            if record:
                records.append(record)
    return records


def passes(wanted: Filter, metadata: Mapping[str, str]) -> bool:
    """Whether a call's metadata passes a filter, or a filter of filters."""
    if "andAll" in wanted:
        return all(passes(one, metadata) for one in wanted["andAll"])
    if "orAll" in wanted:
        return any(passes(one, metadata) for one in wanted["orAll"])
    equal = all(metadata.get(k) == v for k, v in (wanted.get("equals") or {}).items())
    unequal = all(metadata.get(k) != v for k, v in (wanted.get("notEquals") or {}).items())
    return equal and unequal


def _calls(uri: str) -> Iterator[dict[str, Any]]:
    for name in objects.keys(uri):
        if not name.endswith((".json", ".jsonl", ".json.gz")):
            continue
        data = objects.read(name)
        try:
            text = (gzip.decompress(data) if name.endswith(".gz") else data).decode()
        except (OSError, EOFError, UnicodeDecodeError):
            continue
        for line in text.split("\n"):
            try:
                call = json.loads(line)
            except ValueError:
                continue
            if isinstance(call, dict) and call.get("schemaType") == "ModelInvocationLog":
                yield call


def _record(call: dict[str, Any], *, with_answer: bool) -> ConversationRecord | None:
    """A Converse call as a record, or None where it isn't one exchange of texts."""
    try:
        body = call["input"]["inputBodyJson"]
        (turn,) = body["messages"]
        answer = call["output"]["outputBodyJson"]["output"]["message"] if with_answer else None
        return ConversationRecord.of(
            _text(body["system"]), _text(turn["content"]), answer and _text(answer["content"])
        )
    except (KeyError, TypeError, ValueError):
        return None


def _text(blocks: list[dict[str, str]]) -> str:
    (block,) = blocks
    return block["text"]
