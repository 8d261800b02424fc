"""What a customization job does: read the data set, have it answered, train, write metrics."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from dataclasses import dataclass
from threading import Event
from typing import Any, Final, Protocol

from data_contracts.conversation import (
    MAX_FILE_BYTES,
    MAX_RECORDS,
    MIN_RECORDS,
    ConversationRecord,
    parse_line,
)
from deployments.embedded.bedrock import invocation_logs, objects
from deployments.embedded.bedrock.state import Bedrock
from deployments.embedded.models.answers import RoutingModel
from deployments.embedded.models.catalogue import foundation_model
from deployments.embedded.models.embeddings import static_embeddings
from deployments.embedded.models.light_student import LightStudent, train
from deployments.embedded.tokens import CHARACTERS_A_TOKEN
from reelroute.errors import AnswerError, ContractError
from reelroute.parsing import parse_strict
from reelroute.weights import RoutingWeights

#: The steps of a job, as `statusDetails` names them.
STEPS: Final = ("validation", "dataProcessing", "training")
#: How many records are dealt with between two looks at whether the job was stopped.
_BATCH: Final = 500


class JobFailed(Exception):
    """The job ends as Failed; the text is its failure message."""


class JobStopped(Exception):
    """The job was asked to stop, or the server stops."""


class _Step(Protocol):
    def move(self, status: str) -> None: ...


class Job(Protocol):
    """What a job must say of itself to be run."""

    arn: str
    stop_asked: Event

    @property
    def request(self) -> dict[str, Any]:
        """The request that made the job."""
        ...

    @property
    def steps(self) -> Any:
        """Name to step."""
        ...

    @property
    def customization_type(self) -> str:
        """DISTILLATION or FINE_TUNING."""
        ...


@dataclass(frozen=True, slots=True)
class _Labels:
    """What the student learns from."""

    queries: list[str]
    weights: list[RoutingWeights]


def run(bedrock: Bedrock, job: Job) -> LightStudent:
    """Run the job's steps.

    Raises:
        JobFailed: the data set is missing, of the wrong format or too small or too large.
        JobStopped: the job was asked to stop.
    """

    def begin(name: str) -> _Step:
        if job.stop_asked.is_set() or bedrock.closed.is_set():
            raise JobStopped
        step: _Step = job.steps[name]
        step.move("InProgress")
        return step

    step = begin("validation")
    data = job.request["trainingDataConfig"]
    if "invocationLogsConfig" in data:
        records = _read_logs(data["invocationLogsConfig"], _teacher_id(job))
    else:
        records = _read(data["s3Uri"], job.customization_type)
    for validator in job.request.get("validationDataConfig", {}).get("validators", []):
        _lines(validator["s3Uri"])
    step.move("Completed")
    step = begin("dataProcessing")
    labels = _label(bedrock, job, records)
    step.move("Completed")
    step = begin("training")
    student = train(labels.queries, labels.weights, static_embeddings())
    if job.stop_asked.is_set() or bedrock.closed.is_set():
        raise JobStopped
    _write_metrics(job, student, len(labels.queries))
    step.move("Completed")
    return student


def _lines(uri: str) -> list[str]:
    if not uri.endswith(".jsonl"):
        raise JobFailed(f"The data set {uri} does not have the extension .jsonl.")
    try:
        raw = objects.read(uri)
    except objects.ObjectMissing as error:
        raise JobFailed(str(error)) from error
    if len(raw) > MAX_FILE_BYTES:
        raise JobFailed(f"The data set {uri} is larger than {MAX_FILE_BYTES:,} bytes.")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise JobFailed(f"The data set {uri} is not encoded in UTF-8.") from error
    return [line for line in text.split("\n") if line.strip()]


def _read(uri: str, customization_type: str) -> list[ConversationRecord]:
    """The data set's valid records: the service drops the others without a word."""
    records, dropped, reason = [], 0, ""
    for line in _lines(uri):
        try:
            record = parse_line(line)
            if customization_type == "FINE_TUNING" and record.assistant_text is None:
                raise ContractError("fine-tuning needs an assistant turn in every record")
        except ContractError as error:
            dropped, reason = dropped + 1, reason or str(error)
        else:
            records.append(record)
    if len(records) < MIN_RECORDS:
        why = f"; {dropped} were dropped, the first because: {reason}" if dropped else ""
        raise JobFailed(
            f"The data set {uri} has {len(records)} valid records, "
            f"at least {MIN_RECORDS} are needed{why}."
        )
    if len(records) > MAX_RECORDS:
        raise JobFailed(
            f"The data set {uri} has {len(records):,} records, at most {MAX_RECORDS:,} are allowed."
        )
    return records


def _read_logs(config: dict[str, Any], teacher_id: str) -> list[ConversationRecord]:
    """The records that invocation logs make, the newest `MAX_RECORDS` of them."""
    uri = config["invocationLogSource"]["s3Uri"]
    try:
        records = invocation_logs.read(
            uri,
            config.get("requestMetadataFilters"),
            answers_of=teacher_id if config.get("usePromptResponse") else None,
        )
    except objects.ObjectMissing as error:
        raise JobFailed(str(error)) from error
    if len(records) < MIN_RECORDS:
        raise JobFailed(
            f"The invocation logs under {uri} have {len(records)} valid records that pass the "
            f"filters, at least {MIN_RECORDS} are needed."
        )
    return records[-MAX_RECORDS:]


def _label(bedrock: Bedrock, job: Job, records: Iterable[ConversationRecord]) -> _Labels:
    """The records' answers, the teacher's where a record has none.

    An answer that is not the bare JSON of four weights teaches this student nothing: its
    record is left out.
    """
    ask = _teacher(bedrock, job)
    labels, reason = _Labels([], []), ""
    for number, record in enumerate(records):
        if number % _BATCH == 0 and (job.stop_asked.is_set() or bedrock.closed.is_set()):
            raise JobStopped
        answer = record.assistant_text or ask(record.user_text)
        try:
            weights = parse_strict(answer)
        except AnswerError as error:
            reason = reason or str(error)
        else:
            labels.queries.append(record.user_text)
            labels.weights.append(weights)
    if len(labels.queries) < MIN_RECORDS:
        raise JobFailed(
            f"{len(labels.queries)} records have an answer that can be learnt from, at least "
            f"{MIN_RECORDS} are needed; the first that can't: {reason}."
        )
    return labels


class _Ask(Protocol):
    def __call__(self, query: str) -> str: ...


def _teacher(bedrock: Bedrock, job: Job) -> _Ask:
    config = job.request.get("customizationConfig", {}).get("distillationConfig")
    if config is None:  # fine-tuning: every record has its answer
        return lambda query: ""
    teacher: RoutingModel = bedrock.models.model(_teacher_id(job))
    limit = config["teacherModelConfig"].get("maxResponseLengthForInference")

    def ask(query: str) -> str:
        answer = teacher.answer(query)
        return answer if limit is None else answer[: limit * CHARACTERS_A_TOKEN]

    return ask


def _teacher_id(job: Job) -> str:
    """The foundation model that a distillation job names as its teacher."""
    config = job.request["customizationConfig"]["distillationConfig"]["teacherModelConfig"]
    named = foundation_model(config["teacherModelIdentifier"])
    if named is None:  # refused when the job was created
        raise JobFailed(f"There is no model {config['teacherModelIdentifier']!r}.")
    return named.model_id


def _write_metrics(job: Job, student: LightStudent, records: int) -> None:
    table = io.StringIO()
    writer = csv.writer(table)
    writer.writerow(["step_number", "epoch_number", "training_loss", "records"])
    writer.writerow([1, 1, f"{student.training_loss:.6f}", records])
    job_id = job.arn.rsplit("/", 1)[-1]
    prefix = job.request["outputDataConfig"]["s3Uri"].rstrip("/")
    try:
        objects.write(
            f"{prefix}/model-customization-job-{job_id}",
            "training_artifacts/step_wise_training_metrics.csv",
            table.getvalue().encode(),
        )
    except objects.ObjectMissing as error:
        raise JobFailed(str(error)) from error
