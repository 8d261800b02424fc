"""Batch inference jobs: create, get, list, stop. `batch.py` is what a job does."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from threading import Event, Thread
from typing import Any, Final, Literal

from deployments.embedded.bedrock import batch
from deployments.embedded.bedrock.errors import conflict, invalid, not_found
from deployments.embedded.bedrock.fate import FAILURE, Fate, be_stuck, draw_fate
from deployments.embedded.bedrock.listing import page
from deployments.embedded.bedrock.once import made_once
from deployments.embedded.bedrock.state import Bedrock, new_id, now
from deployments.embedded.bedrock.tags import put_tags
from deployments.embedded.calls import Call
from deployments.embedded.faults import UNFINISHED_JOBS
from deployments.embedded.models.catalogue import foundation_model

Status = Literal[
    "Submitted",
    "Validating",
    "Scheduled",
    "InProgress",
    "Completed",
    "PartiallyCompleted",
    "Failed",
    "Stopping",
    "Stopped",
    "Expired",
]
RUNNING: Final = frozenset({"Submitted", "Validating", "Scheduled", "InProgress", "Stopping"})
_HOURS: Final = 24


@dataclass(slots=True)
class InvocationJob:
    """A job that asks a model many prompts.

    Attributes:
        unfinished: the style of the fault that keeps it from its end, or empty.
        counts: its records, as far as they are known.
    """

    arn: str
    name: str
    request: dict[str, Any]
    fate: Fate = Fate.DONE
    unfinished: str = ""
    status: Status = "Submitted"
    message: str | None = None
    counts: batch.Counts = field(default_factory=batch.Counts)
    created: datetime = field(default_factory=now)
    modified: datetime = field(default_factory=now)
    ended: datetime | None = None
    stop_asked: Event = field(default_factory=Event)

    @property
    def input_uri(self) -> str:
        """Where its records lie."""
        return str(self.request["inputDataConfig"]["s3InputDataConfig"]["s3Uri"])

    @property
    def output_folder(self) -> str:
        """Where its answers go: a folder of the job's own."""
        prefix = str(self.request["outputDataConfig"]["s3OutputDataConfig"]["s3Uri"])
        return f"{prefix.rstrip('/')}/{self.arn.rsplit('/', 1)[-1]}"

    @property
    def hours(self) -> int:
        """After how many hours it is given up."""
        return int(self.request.get("timeoutDurationInHours", _HOURS))

    def move(self, status: Status) -> None:
        """Go to another status, unless it is being stopped."""
        if self.status != "Stopping":
            self.status, self.modified = status, now()

    def end(self, status: Status, message: str | None = None) -> None:
        """Come to an end."""
        self.status, self.message = status, message
        self.ended = self.modified = now()


@made_once("jobArn")
def create_model_invocation_job(bedrock: Bedrock, params: dict[str, Any], call: Call) -> str:
    """CreateModelInvocationJob."""
    _check(params)
    name = params["jobName"]
    if any(job.name == name for job in bedrock.invocations.values()):
        raise conflict(f"The job name {name!r} is taken by another job.")
    job = InvocationJob(
        arn=bedrock.arn(f"model-invocation-job/{new_id()}"),
        name=name,
        request=params,
        fate=draw_fate(bedrock, call),
    )
    hit = bedrock.faults.draw(UNFINISHED_JOBS, call.service, call.operation)
    if hit is not None:
        call.fault = f"{UNFINISHED_JOBS}:{hit.fault.style}"
        job.unfinished = hit.fault.style
    put_tags(bedrock, job.arn, params.get("tags"))
    bedrock.invocations[job.arn] = job
    Thread(target=_run, args=(bedrock, job), daemon=True, name=f"batch-{name}").start()
    return job.arn


def _check(params: dict[str, Any]) -> None:
    """What the service checks of a batch job beyond the shapes of the request."""
    model = foundation_model(params["modelId"])
    if model is None:
        raise invalid(f"The provided model identifier is invalid: {params['modelId']}")
    if model.retired:
        raise not_found("This model version has reached the end of its life.")
    if params.get("modelInvocationType", "InvokeModel") != "Converse":
        raise invalid("The embedded AWS runs batch jobs with modelInvocationType Converse only.")
    if "s3InputDataConfig" not in params["inputDataConfig"]:
        raise invalid("inputDataConfig names no s3InputDataConfig.")
    if "s3OutputDataConfig" not in params["outputDataConfig"]:
        raise invalid("outputDataConfig names no s3OutputDataConfig.")


def _run(bedrock: Bedrock, job: InvocationJob) -> None:
    """Go through the records, in a thread of its own, and write the end into the job."""
    try:
        if job.fate is Fate.FAILED:
            raise batch.JobFailed(FAILURE)
        if job.fate is Fate.STUCK:
            be_stuck(bedrock, job.stop_asked)
        outcome: tuple[Status, str | None] = (_work(bedrock, job), None)
    except batch.JobFailed as failure:
        outcome = ("Failed", str(failure))
    except Exception as error:  # a thread has nobody else to tell
        outcome = ("Failed", f"Internal error: {type(error).__name__}: {error}"[:2048])
    with bedrock.lock:
        job.end(*outcome)


def _work(bedrock: Bedrock, job: InvocationJob) -> Status:
    """The way of a job through its states; gives the last."""
    job.move("Validating")
    records = batch.read_records(job.input_uri)
    job.counts.total = len(records)
    job.move("Scheduled")
    if job.unfinished == "unbegun":
        return "Expired"
    job.move("InProgress")
    halfway = job.unfinished == "halfway"
    whole = batch.run(
        bedrock,
        job,
        model_id=job.request["modelId"],
        records=records[: len(records) // 2] if halfway else records,
    )
    if not whole:
        return "Stopped"
    return "PartiallyCompleted" if halfway else "Completed"


def _existing(bedrock: Bedrock, params: dict[str, Any]) -> InvocationJob:
    identifier = params["jobIdentifier"]
    for job in bedrock.invocations.values():
        if identifier in (job.arn, job.arn.rsplit("/", 1)[-1]):
            return job
    raise not_found(f"The batch inference job {identifier!r} does not exist.")


def get_model_invocation_job(
    bedrock: Bedrock, params: dict[str, Any], call: Call
) -> dict[str, Any]:
    """GetModelInvocationJob."""
    with bedrock.lock:
        return _shown(_existing(bedrock, params))


def list_model_invocation_jobs(
    bedrock: Bedrock, params: dict[str, Any], call: Call
) -> dict[str, Any]:
    """ListModelInvocationJobs."""
    with bedrock.lock:
        shown, token = page(
            bedrock.invocations.values(), params, after="submitTimeAfter", before="submitTimeBefore"
        )
        summaries = [
            {name: value for name, value in _shown(job).items() if value is not None}
            for job in shown
        ]
    return {"invocationJobSummaries": summaries, "nextToken": token}


def _shown(job: InvocationJob) -> dict[str, Any]:
    return {
        "jobArn": job.arn,
        "jobName": job.name,
        "modelId": job.request["modelId"],
        "clientRequestToken": job.request.get("clientRequestToken"),
        "roleArn": job.request["roleArn"],
        "status": job.status,
        "message": job.message,
        "submitTime": job.created,
        "lastModifiedTime": job.modified,
        "endTime": job.ended,
        "inputDataConfig": job.request["inputDataConfig"],
        "outputDataConfig": job.request["outputDataConfig"],
        "vpcConfig": job.request.get("vpcConfig"),
        "timeoutDurationInHours": job.hours,
        "jobExpirationTime": job.created + timedelta(hours=job.hours),
        "modelInvocationType": job.request["modelInvocationType"],
        **job.counts.shown(),
    }


def stop_model_invocation_job(
    bedrock: Bedrock, params: dict[str, Any], call: Call
) -> dict[str, Any]:
    """StopModelInvocationJob; what was answered until then is left in the output."""
    with bedrock.lock:
        job = _existing(bedrock, params)
        if job.status not in RUNNING:
            raise conflict(f"The job {job.name!r} is {job.status}: it can't be stopped.")
        job.status, job.modified = "Stopping", now()
        job.stop_asked.set()
    return {}
