"""Customization jobs: create, get, list, stop. `training.py` is what a job does."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from threading import Event, Thread
from typing import Any, Final, Literal

from deployments.embedded.bedrock import training
from deployments.embedded.bedrock.custom_models import CustomModel
from deployments.embedded.bedrock.errors import ServiceError, conflict, invalid, not_found
from deployments.embedded.bedrock.fate import FAILURE, Fate, be_stuck, draw_fate
from deployments.embedded.bedrock.listing import page
from deployments.embedded.bedrock.once import made_once
from deployments.embedded.bedrock.state import Bedrock, new_id, now
from deployments.embedded.bedrock.tags import put_tags
from deployments.embedded.calls import Call
from deployments.embedded.models.catalogue import FoundationModel, foundation_model

Status = Literal["InProgress", "Completed", "Failed", "Stopping", "Stopped"]

#: The request's fields that job and model show again.
_SHARED: Final = (
    "trainingDataConfig",
    "validationDataConfig",
    "outputDataConfig",
    "hyperParameters",
    "customizationConfig",
)


@dataclass(slots=True)
class _Step:
    """One step of a job, as `statusDetails` shows it."""

    status: str = "NotStarted"
    created: datetime = field(default_factory=now)
    modified: datetime = field(default_factory=now)

    def move(self, status: str) -> None:
        """Go to another status."""
        self.status, self.modified = status, now()

    def shown(self) -> dict[str, Any]:
        """The step as the service shows it."""
        return {
            "status": self.status,
            "creationTime": self.created,
            "lastModifiedTime": self.modified,
        }


@dataclass(slots=True)
class CustomizationJob:
    """A job that trains the light student."""

    arn: str
    name: str
    model_name: str
    base: FoundationModel
    request: dict[str, Any]
    fate: Fate = Fate.DONE
    status: Status = "InProgress"
    failure: str | None = None
    model: CustomModel | None = None
    created: datetime = field(default_factory=now)
    modified: datetime = field(default_factory=now)
    ended: datetime | None = None
    stop_asked: Event = field(default_factory=Event)
    steps: dict[str, _Step] = field(
        default_factory=lambda: {name: _Step() for name in training.STEPS}
    )

    @property
    def customization_type(self) -> str:
        """DISTILLATION or FINE_TUNING."""
        return str(self.request["customizationType"])

    def end(self, status: Status, failure: str | None = None) -> None:
        """Come to an end; the step that is under way ends with the job."""
        self.status, self.failure = status, failure
        self.ended = self.modified = now()
        for step in self.steps.values():
            if step.status == "InProgress":
                step.move(status)


@made_once("jobArn")
def create_model_customization_job(bedrock: Bedrock, params: dict[str, Any], call: Call) -> str:
    """CreateModelCustomizationJob."""
    base = _base_model(params)
    name, model_name = params["jobName"], params["customModelName"]
    if any(job.name == name for job in bedrock.jobs.values()):
        raise conflict(f"The job name {name!r} is taken, for good, by an earlier job.")
    if model_name in bedrock.used_model_names:
        raise conflict(f"The custom model name {model_name!r} is taken, for good.")
    job = CustomizationJob(
        arn=bedrock.arn(f"model-customization-job/{base.model_id}/{new_id()}"),
        name=name,
        model_name=model_name,
        base=base,
        request=params,
        fate=draw_fate(bedrock, call),
    )
    put_tags(bedrock, job.arn, params.get("jobTags"))
    bedrock.jobs[job.arn] = job
    bedrock.used_model_names.add(model_name)
    Thread(target=_run, args=(bedrock, job), daemon=True, name=f"job-{name}").start()
    return job.arn


def _base_model(params: dict[str, Any]) -> FoundationModel:
    """The base model, once everything that the job names is known to fit together."""
    params.setdefault("customizationType", "FINE_TUNING")
    kind, identifier = params["customizationType"], params["baseModelIdentifier"]
    base = foundation_model(identifier)
    if base is None:
        raise invalid(f"The provided model identifier {identifier!r} is invalid.")
    if kind not in base.customizations:
        offered = ", ".join(base.customizations) or "no customization"
        raise invalid(f"The model {base.model_id} does not support {kind}; it supports {offered}.")
    data = params["trainingDataConfig"]
    if ("s3Uri" in data) == ("invocationLogsConfig" in data):
        raise invalid("trainingDataConfig needs either s3Uri or invocationLogsConfig.")
    if kind != "DISTILLATION" and "invocationLogsConfig" in data:
        raise invalid(f"A job of the type {kind} does not learn from invocation logs.")
    distillation = params.get("customizationConfig", {}).get("distillationConfig")
    if kind == "DISTILLATION":
        if distillation is None:
            raise invalid("A distillation job needs customizationConfig.distillationConfig.")
        teacher_id = distillation["teacherModelConfig"]["teacherModelIdentifier"]
        teacher = foundation_model(teacher_id)
        if teacher is None or teacher.judges or teacher is base:
            raise invalid(f"{teacher_id!r} can't be the teacher of {base.model_id}.")
    elif distillation is not None:
        raise invalid(f"distillationConfig does not belong into a job of the type {kind}.")
    return base


def _run(bedrock: Bedrock, job: CustomizationJob) -> None:
    """Train, in a thread of its own, and write the end into the job."""
    try:
        if job.fate is Fate.FAILED:
            raise training.JobFailed(FAILURE)
        if job.fate is Fate.STUCK:
            be_stuck(bedrock, job.stop_asked)
        student = training.run(bedrock, job)
    except training.JobStopped:
        with bedrock.lock:
            job.end("Stopped")
        return
    except training.JobFailed as failure:
        with bedrock.lock:
            job.end("Failed", str(failure))
        return
    except Exception as error:  # a thread has nobody else to tell
        with bedrock.lock:
            job.end("Failed", f"Internal error: {type(error).__name__}: {error}"[:2048])
        return
    with bedrock.lock:
        if job.stop_asked.is_set():
            job.end("Stopped")
            return
        job.model = CustomModel(
            arn=bedrock.arn(f"custom-model/{job.base.model_id}/{new_id()}"),
            name=job.model_name,
            created=now(),
            base_model_id=job.base.model_id,
            base_model_arn=job.base.arn(bedrock.region),
            job={
                "jobName": job.name,
                "jobArn": job.arn,
                "customizationType": job.customization_type,
                **_shared(job),
            },
            student=student,
        )
        bedrock.custom_models[job.model.arn] = job.model
        put_tags(bedrock, job.model.arn, job.request.get("customModelTags"))
        job.end("Completed")


def _shared(job: CustomizationJob) -> dict[str, Any]:
    return {name: job.request[name] for name in _SHARED if name in job.request}


def _existing(bedrock: Bedrock, params: dict[str, Any]) -> CustomizationJob:
    identifier = params["jobIdentifier"]
    for job in list(bedrock.jobs.values()):
        if identifier in (job.arn, job.name):
            return job
    raise not_found(f"The model customization job {identifier!r} does not exist.")


def get_model_customization_job(
    bedrock: Bedrock, params: dict[str, Any], call: Call
) -> dict[str, Any]:
    """GetModelCustomizationJob."""
    job = _existing(bedrock, params)
    with bedrock.lock:
        answer: dict[str, Any] = {
            "validationDataConfig": {"validators": []},
            **_shared(job),
            "jobArn": job.arn,
            "jobName": job.name,
            "outputModelName": job.model_name,
            "outputModelArn": job.model and job.model.arn,
            "clientRequestToken": job.request.get("clientRequestToken"),
            "roleArn": job.request["roleArn"],
            "status": job.status,
            "statusDetails": _details(job),
            "failureMessage": job.failure,
            "creationTime": job.created,
            "lastModifiedTime": job.modified,
            "endTime": job.ended,
            "baseModelArn": job.base.arn(bedrock.region),
            "customizationType": job.customization_type,
        }
        if job.model is not None:
            answer["trainingMetrics"] = {"trainingLoss": job.model.student.training_loss}
    return answer


def _details(job: CustomizationJob) -> dict[str, Any]:
    return {f"{name}Details": step.shown() for name, step in job.steps.items()}


def list_model_customization_jobs(
    bedrock: Bedrock, params: dict[str, Any], call: Call
) -> dict[str, Any]:
    """ListModelCustomizationJobs."""
    with bedrock.lock:
        shown, token = page(bedrock.jobs.values(), params)
        summaries = [_summary(bedrock, job) for job in shown]
    return {"modelCustomizationJobSummaries": summaries, "nextToken": token}


def _summary(bedrock: Bedrock, job: CustomizationJob) -> dict[str, Any]:
    summary = {
        "jobArn": job.arn,
        "baseModelArn": job.base.arn(bedrock.region),
        "jobName": job.name,
        "status": job.status,
        "statusDetails": _details(job),
        "lastModifiedTime": job.modified,
        "creationTime": job.created,
        "customModelName": job.model_name,
        "customizationType": job.customization_type,
    }
    if job.ended is not None:
        summary["endTime"] = job.ended
    if job.model is not None:
        summary["customModelArn"] = job.model.arn
    return summary


def stop_model_customization_job(
    bedrock: Bedrock, params: dict[str, Any], call: Call
) -> dict[str, Any]:
    """StopModelCustomizationJob; the job stops after the piece of work that it is at."""
    with bedrock.lock:
        job = _existing(bedrock, params)
        if job.status not in ("InProgress", "Stopping"):
            raise _ended(job)
        job.status, job.modified = "Stopping", now()
        job.stop_asked.set()
    return {}


def _ended(job: CustomizationJob) -> ServiceError:
    return conflict(f"The job {job.name!r} is {job.status}: only a running job can be stopped.")
