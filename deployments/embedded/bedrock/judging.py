"""What an evaluation job does: read own responses, judge each, write one line a prompt."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from threading import Event
from typing import Annotated, Any, Final, Protocol

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from deployments.embedded.bedrock import objects
from deployments.embedded.bedrock.state import Bedrock
from deployments.embedded.models.judge import RubricJudge, Verdict
from reelroute.problems import first_problem

MAX_PROMPTS: Final = 1_000
_MAX_MESSAGES: Final = 20
_GROUND_TRUTH: Final = "{{ground_truth}}"
#: Where a metric has no rating scale, the rubric's own.
_RUBRIC_SCALE: Final = frozenset({1.0, 2.0, 3.0, 4.0, 5.0})

NonEmpty = Annotated[str, Field(min_length=1)]


class JobFailed(Exception):
    """The job ends as Failed with these messages."""

    def __init__(self, messages: Sequence[str]) -> None:
        super().__init__("; ".join(messages))
        self.messages = tuple(messages[:_MAX_MESSAGES])


class JobStopped(Exception):
    """The job was asked to stop, or the server stops."""


class Job(Protocol):
    """What a job must say of itself to be run."""

    arn: str
    name: str
    request: dict[str, Any]
    stop_asked: Event

    @property
    def automated(self) -> dict[str, Any]:
        """`evaluationConfig.automated` of the request."""
        ...

    @property
    def judge(self) -> str:
        """The judge's model id."""
        ...

    @property
    def source(self) -> str:
        """The candidate's identifier."""
        ...


class _Strict(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, alias_generator=to_camel, protected_namespaces=()
    )


class _OwnResponse(_Strict):
    response: str
    model_identifier: NonEmpty


class _OwnRecord(_Strict):
    """One line of a data set with own responses."""

    prompt: NonEmpty
    reference_response: str | None = None
    category: str | None = None
    model_responses: Annotated[list[_OwnResponse], Field(min_length=1, max_length=1)]


@dataclass(frozen=True, slots=True)
class _Metric:
    name: str
    values: frozenset[float]
    needs_ground_truth: bool


def run(bedrock: Bedrock, job: Job) -> None:
    """Judge each dataset of the job and write its output.

    Raises:
        JobFailed: a dataset is missing, breaks the format or is too large.
        JobStopped: the job was asked to stop.
    """
    metrics = {metric.name: metric for metric in _metrics(job)}
    for config in job.automated["datasetMetricConfigs"]:
        asked = [metrics[name] for name in config["metricNames"]]
        records = _records(config["dataset"]["datasetLocation"]["s3Uri"], job.source, asked)
        if job.stop_asked.is_set() or bedrock.closed.is_set():
            raise JobStopped
        lines = [json.dumps(line, ensure_ascii=False) for line in _judged(job, records, asked)]
        _write(job, config, "\n".join(lines) + "\n")


def _metrics(job: Job) -> Iterator[_Metric]:
    for metric in job.automated["customMetricConfig"]["customMetrics"]:
        definition = metric["customMetricDefinition"]
        steps = [step["value"].get("floatValue") for step in definition.get("ratingScale", [])]
        numbers = frozenset(float(step) for step in steps if step is not None)
        yield _Metric(
            name=definition["name"],
            values=numbers or _RUBRIC_SCALE,
            needs_ground_truth=_GROUND_TRUTH in definition["instructions"],
        )


def _records(uri: str, source: str, metrics: Sequence[_Metric]) -> list[_OwnRecord]:
    try:
        text = objects.read(uri).decode("utf-8")
    except objects.ObjectMissing as error:
        raise JobFailed([str(error)]) from error
    except UnicodeDecodeError as error:
        raise JobFailed([f"The dataset {uri} is not encoded in UTF-8."]) from error
    lines = [line for line in text.split("\n") if line.strip()]
    if not 1 <= len(lines) <= MAX_PROMPTS:
        raise JobFailed(
            [f"The dataset {uri} has {len(lines):,} prompts, allowed are 1 to {MAX_PROMPTS:,}."]
        )
    records, problems = [], []
    for number, line in enumerate(lines, start=1):
        try:
            record = _OwnRecord.model_validate_json(line)
        except ValidationError as error:
            problems.append(f"Line {number} of {uri}: {first_problem(error)}"[:2048])
            continue
        named = record.model_responses[0].model_identifier
        if named != source:
            problems.append(
                f"Line {number} of {uri}: the modelIdentifier {named!r} is not the job's "
                f"inferenceSourceIdentifier {source!r}."
            )
        if not record.reference_response and any(metric.needs_ground_truth for metric in metrics):
            problems.append(
                f"Line {number} of {uri}: the metric's instructions use {_GROUND_TRUTH}, "
                "but the referenceResponse is empty."
            )
        records.append(record)
    if problems:
        raise JobFailed(problems)
    return records


def _judged(
    job: Job, records: Sequence[_OwnRecord], metrics: Sequence[_Metric]
) -> Iterator[dict[str, Any]]:
    judge = RubricJudge((r.prompt, r.model_responses[0].response) for r in records)
    for record in records:
        response = record.model_responses[0]
        verdict = judge.judge(record.prompt, response.response, record.reference_response or "")
        scores = [_score(metric, verdict, job.judge) for metric in metrics]
        yield {
            "inputRecord": record.model_dump(
                by_alias=True, exclude_none=True, exclude={"model_responses"}
            ),
            "modelResponses": [response.model_dump(by_alias=True)],
            "automatedEvaluationResult": {"scores": scores},
        }


def _score(metric: _Metric, verdict: Verdict | None, judge: str) -> dict[str, Any]:
    """One score as the service writes it; `result` is null where the judge failed."""
    result: float | None = None
    if verdict is None:
        explanation = "The reference can't be read as routing weights."
    elif float(verdict.score) not in metric.values:
        explanation = f"{verdict.explanation} The score {verdict.score} is not on the scale."
    else:
        result, explanation = float(verdict.score), verdict.explanation
    return {
        "metricName": metric.name,
        "result": result,
        "evaluatorDetails": [{"modelIdentifier": judge, "explanation": explanation}],
    }


def _write(job: Job, config: dict[str, Any], text: str) -> None:
    prefix = job.request["outputDataConfig"]["s3Uri"].rstrip("/")
    folder = (
        f"{prefix}/{job.name}/{job.arn.rsplit('/', 1)[-1]}/models/{job.source}"
        f"/taskTypes/{config['taskType']}/datasets/{config['dataset']['name']}"
    )
    try:
        objects.write(folder, f"{uuid.uuid4()}_output.jsonl", text.encode())
    except objects.ObjectMissing as error:
        raise JobFailed([str(error)]) from error
