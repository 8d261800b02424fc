"""What must hold however a run was disturbed, seen in the call log, in Bedrock and the bucket."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from benchmarks.chaos.results import differences, results
from benchmarks.chaos.world import RUN_ID, Site
from data_contracts.leases import LEASES_PREFIX, LeaseRecord
from data_contracts.runs import STAGES, StageRecord
from deployments.embedded.calls import Call
from reelroute.errors import ReelRouteError
from reelroute.release import read_pointer, read_release

_DEPLOYMENT: Final = ":custom-model-deployment/"
_TRACE: Final = "Traceback (most recent call last)"
_POINTER: Final = "releases/current.json"

Asked = Counter[tuple[str, str]]


@dataclass(frozen=True)
class Undisturbed:
    """A run that nothing has disturbed.

    Attributes:
        results: what it came to.
        asked: how often each model was asked each text.
        seconds: how long each stage took.
    """

    results: dict[str, Any]
    asked: Asked
    seconds: dict[str, float]


@dataclass(frozen=True)
class Disturbance:
    """What a run went through.

    Attributes:
        same_results: whether it must come to the undisturbed run's results all the same.
        calls_in_flight: model calls that may have been in flight at its kills, together.
        may_fail: whether attempts may have failed.
        spoils: whether answers were spoilt, so that repeats are no waste.
    """

    same_results: bool = True
    calls_in_flight: int = 0
    may_fail: bool = False
    spoils: bool = False


@dataclass(frozen=True)
class Findings:
    """What was found in the end.

    Attributes:
        violations: sentences.
        extra_calls: model calls that the undisturbed run did not need.
        allowed: how many of them the disturbance explains.
    """

    violations: tuple[str, ...]
    extra_calls: int
    allowed: int


def asked(calls: Sequence[Call]) -> Asked:
    """How often each model was asked each text; deployments have another ARN in each run."""
    return Counter(
        ("deployment" if _DEPLOYMENT in call.model_id else call.model_id, call.text_sha256)
        for call in calls
        if call.operation == "Converse" and call.text_sha256
    )


def examine(site: Site, undisturbed: Undisturbed, disturbance: Disturbance) -> Findings:
    """Look at a run that has come to its end."""
    calls, objects = site.calls(), site.objects()
    records = _stage_records(objects)
    extra = sum((asked(calls) - undisturbed.asked).values())
    allowed = disturbance.calls_in_flight + _explained(calls, records, site)
    violations = [
        *_attempts(records, disturbance.may_fail),
        *_made_once(site),
        *_orphans(site, records),
        *_counts(objects, records),
        *_pointer(objects, records),
        *_leases(objects),
    ]
    if disturbance.same_results:
        violations += differences(results(objects), undisturbed.results)
    if not disturbance.spoils and extra > allowed:
        violations.append(f"{extra} model calls were repeated, {allowed} may have been")
    if _TRACE in site.log.read_text(errors="replace"):
        violations.append("a stack trace was printed")
    return Findings(tuple(violations), extra, allowed)


def _stage_records(objects: Mapping[str, bytes]) -> dict[str, list[StageRecord]]:
    return {
        stage: [
            StageRecord.model_validate_json(objects[key])
            for key in sorted(objects)
            if key.startswith(f"runs/{RUN_ID}/stages/{stage}/")
        ]
        for stage in STAGES
    }


def _explained(
    calls: Sequence[Call], records: Mapping[str, Sequence[StageRecord]], site: Site
) -> int:
    """Model calls that a fault has hit, and smoke tests of later attempts."""
    hit = sum(call.operation == "Converse" and bool(call.fault) for call in calls)
    later = max(0, len(records["deploy"]) - 1)
    return hit + later * site.settings.deploy.smoke_queries


def _attempts(records: Mapping[str, Sequence[StageRecord]], may_fail: bool) -> Iterator[str]:
    """The attempt goes up only after a failure was seen."""
    for stage, attempts in records.items():
        statuses = [record.status for record in attempts]
        if not statuses or statuses[-1] != "completed":
            yield f"{stage} has not completed: {statuses}"
        if "completed" in statuses[:-1]:
            yield f"{stage} was done again after it had completed: {statuses}"
        if not may_fail and len(statuses) > 1:
            yield f"{stage} failed without a reason: {attempts[0].error}"
        if [record.attempt for record in attempts] != list(range(1, len(attempts) + 1)):
            yield f"{stage}'s attempts are {[record.attempt for record in attempts]}"


@dataclass(frozen=True)
class _Made:
    """Something that a stage made in Bedrock."""

    kind: str
    name: str
    arn: str
    status: str
    what_for: str = ""


def made(site: Site) -> list[_Made]:
    """What the run has made in Bedrock. Another bucket's names carry another hash."""
    mark = f"-{hashlib.sha256(site.bucket.encode()).hexdigest()[:6]}-"
    bedrock = site.aws.client("bedrock")
    found = []
    for kind, operation, summaries, name, arn, status in _LISTINGS:
        for page in bedrock.get_paginator(operation).paginate():
            for one in page.get(summaries, ()):
                if mark in one[name]:
                    config = one.get("inferenceConfigSummary", {}).get("modelConfigSummary", {})
                    sources = config.get("precomputedInferenceSourceIdentifiers", [""])
                    found.append(_Made(kind, one[name], one[arn], one[status], sources[0]))
    return found


_LISTINGS: Final = (
    (
        "customization job",
        "list_model_customization_jobs",
        "modelCustomizationJobSummaries",
        *("jobName", "jobArn", "status"),
    ),
    ("model", "list_custom_models", "modelSummaries", "modelName", "modelArn", "modelStatus"),
    (
        "deployment",
        "list_custom_model_deployments",
        "modelDeploymentSummaries",
        *("customModelDeploymentName", "customModelDeploymentArn", "status"),
    ),
    ("evaluation job", "list_evaluation_jobs", "jobSummaries", "jobName", "jobArn", "status"),
)


def _made_once(site: Site) -> Iterator[str]:
    """No second job, model or deployment for the same attempt."""
    counts = Counter((one.kind, one.what_for, one.name.rpartition("-a")[2]) for one in made(site))
    for (kind, what_for, attempt), count in counts.items():
        if count > 1:
            yield f"{count} of the kind {kind} {what_for} for attempt {attempt}"


def _orphans(site: Site, records: Mapping[str, Sequence[StageRecord]]) -> Iterator[str]:
    """What has not failed is named by a stage's record."""
    named = {
        arn for attempts in records.values() for one in attempts for arn in one.resources.values()
    }
    for one in made(site):
        if one.status not in ("Failed", "Stopped", "Stopping") and one.arn not in named:
            yield f"{one.kind} {one.name} is {one.status}, and no record names it"


def _counts(
    objects: Mapping[str, bytes], records: Mapping[str, Sequence[StageRecord]]
) -> Iterator[str]:
    """What the teacher wrote is accepted, a duplicate or in quarantine.

    An answer that an attempt put into quarantine is asked for again by the next one, which may
    then have no room for what was written in its place: more may lie in the store than is used.
    """
    lines = {
        name: objects.get(f"runs/{RUN_ID}/{path}", b"").count(b"\n")
        for name, path in (
            ("accepted", "labelled/labelled.jsonl"),
            ("duplicates", "labelled/duplicates.jsonl"),
            ("quarantined", "quarantine/label.jsonl"),
        )
    }
    written = _written(objects)
    unused = written > sum(lines.values()) and len(records["label"]) > 1
    if written != sum(lines.values()) and not unused:
        yield f"{written} queries were written, but {lines} add up to {sum(lines.values())}"
    for record in records["label"][-1:]:
        said = {name: record.metrics.get(name) for name in (*lines, "asked")}
        if record.status == "completed" and said != {**lines, "asked": sum(lines.values())}:
            yield f"the record says {said}, the files hold {lines}"


def _written(objects: Mapping[str, bytes]) -> int:
    """Queries in the teacher's usable writing answers, each answer once."""
    answers: dict[str, int] = {}
    for key, data in objects.items():
        if re.match(r"label-store/[^/]+/writing-", key):
            text = gzip.decompress(data) if key.endswith(".gz") else data
            for answer in map(json.loads, text.splitlines()):
                if answer["status"] == "usable":
                    answers[answer["key"]] = len(json.loads(answer["texts"][-1])["queries"])
    return sum(answers.values())


def _pointer(
    objects: Mapping[str, bytes], records: Mapping[str, Sequence[StageRecord]]
) -> Iterator[str]:
    """The pointer names a release that is there with its hash, and has moved once."""
    promoted = any(one.metrics.get("action") == "promoted" for one in records["promote"])
    if promoted != (_POINTER in objects):
        yield f"the record says promoted: {promoted}, the pointer is there: {not promoted}"
    if _POINTER not in objects:
        return
    try:
        pointer = read_pointer(objects[_POINTER], _POINTER)
        key = f"releases/{pointer.version}.json"
        read_release(objects.get(key, b""), pointer, key)
    except ReelRouteError as error:
        yield str(error)
        return
    if pointer.serial != 1:
        yield f"the pointer has moved {pointer.serial} times"


def _leases(objects: Mapping[str, bytes]) -> Iterator[str]:
    """No lease outlives its run."""
    for key, data in objects.items():
        if not key.startswith(LEASES_PREFIX):
            continue
        lease = LeaseRecord.model_validate_json(data)
        if lease.freed_at is None and lease.expires_at > datetime.now(UTC):
            yield f"{key} is still held by run {lease.run_id}"
