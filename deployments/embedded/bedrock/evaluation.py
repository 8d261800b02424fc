"""Evaluation jobs: create, get, list, stop, delete. `judging.py` is what a job does."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from threading import Event, Thread
from typing import Any, Final, Literal

from deployments.embedded.bedrock import judging
from deployments.embedded.bedrock.errors import conflict, invalid, not_found
from deployments.embedded.bedrock.fate import FAILURE, Fate, be_stuck, draw_fate
from deployments.embedded.bedrock.listing import page
from deployments.embedded.bedrock.once import made_once
from deployments.embedded.bedrock.state import Bedrock, new_id, now
from deployments.embedded.bedrock.tags import put_tags
from deployments.embedded.calls import Call
from deployments.embedded.models.catalogue import foundation_model

Status = Literal["InProgress", "Completed", "Failed", "Stopping", "Stopped", "Deleting"]
#: The API model's limit of a page.
_PAGE: Final = 5
_REQUIRED_VARIABLES: Final = ("{{prompt}}", "{{prediction}}")


@dataclass(slots=True)
class EvaluationJob:
    """A job that judges the answers of one candidate."""

    arn: str
    name: str
    request: dict[str, Any]
    fate: Fate = Fate.DONE
    status: Status = "InProgress"
    failures: list[str] = field(default_factory=list)
    created: datetime = field(default_factory=now)
    modified: datetime = field(default_factory=now)
    stop_asked: Event = field(default_factory=Event)

    @property
    def automated(self) -> dict[str, Any]:
        """`evaluationConfig.automated` of the request."""
        config: dict[str, Any] = self.request["evaluationConfig"]["automated"]
        return config

    @property
    def judge(self) -> str:
        """The judge's model id."""
        return _evaluator(self.automated["customMetricConfig"])

    @property
    def source(self) -> str:
        """The candidate's identifier."""
        sources = self.request["inferenceConfig"]["models"]
        return str(sources[0]["precomputedInferenceSource"]["inferenceSourceIdentifier"])

    def end(self, status: Status, failures: list[str] | None = None) -> None:
        """Come to an end."""
        self.status, self.failures, self.modified = status, failures or [], now()


@made_once("jobArn")
def create_evaluation_job(bedrock: Bedrock, params: dict[str, Any], call: Call) -> str:
    """CreateEvaluationJob."""
    _check(params)
    if any(job.name == params["jobName"] for job in bedrock.evaluations.values()):
        raise conflict(f"The job name {params['jobName']!r} is taken by another job.")
    job = EvaluationJob(
        arn=bedrock.arn(f"evaluation-job/{new_id()}"),
        name=params["jobName"],
        request=params,
        fate=draw_fate(bedrock, call),
    )
    put_tags(bedrock, job.arn, params.get("jobTags"))
    bedrock.evaluations[job.arn] = job
    Thread(target=_run, args=(bedrock, job), daemon=True, name=f"judge-{job.name}").start()
    return job.arn


def _check(params: dict[str, Any]) -> None:
    """What the service checks of a judge job beyond the shapes of the request."""
    automated = params["evaluationConfig"].get("automated")
    if params.get("applicationType", "ModelEvaluation") != "ModelEvaluation" or not automated:
        raise invalid("The embedded AWS runs automated model evaluations only.")
    custom = automated.get("customMetricConfig")
    if not custom:
        raise invalid("The embedded judge needs evaluationConfig.automated.customMetricConfig.")
    models = params["inferenceConfig"].get("models") or []
    if len(models) != 1:
        raise invalid("An automated evaluation job takes exactly one model.")
    if "precomputedInferenceSource" not in models[0]:
        raise invalid("The embedded judge reads own responses: name a precomputedInferenceSource.")
    for config in filter(None, (automated.get("evaluatorModelConfig"), custom)):
        named = _evaluator(config)
        judge = foundation_model(named)
        if judge is None or not judge.judges:
            raise invalid(f"The evaluator model {named!r} is not supported.")
    metrics = [metric["customMetricDefinition"] for metric in custom["customMetrics"]]
    for metric in metrics:
        for variable in _REQUIRED_VARIABLES:
            if variable not in metric["instructions"]:
                raise invalid(
                    f"The instructions of the custom metric {metric['name']!r} lack {variable}."
                )
    names = [metric["name"] for metric in metrics]
    for dataset in automated["datasetMetricConfigs"]:
        unknown = [name for name in dataset["metricNames"] if name not in names]
        if unknown:
            raise invalid(f"The metric {unknown[0]!r} is not defined; defined are {names}.")
        if "s3Uri" not in dataset["dataset"].get("datasetLocation", {}):
            raise invalid(f"The dataset {dataset['dataset']['name']!r} has no location.")


def _evaluator(config: dict[str, Any]) -> str:
    """The judge's model id, of an evaluatorModelConfig or of what holds one."""
    models = config.get("evaluatorModelConfig", config)["bedrockEvaluatorModels"]
    return str(models[0]["modelIdentifier"])


def _run(bedrock: Bedrock, job: EvaluationJob) -> None:
    """Judge, in a thread of its own, and write the end into the job."""
    try:
        if job.fate is Fate.FAILED:
            raise judging.JobFailed([FAILURE])
        if job.fate is Fate.STUCK:
            be_stuck(bedrock, job.stop_asked)
        judging.run(bedrock, job)
    except judging.JobStopped:
        outcome: tuple[Status, list[str]] = ("Stopped", [])
    except judging.JobFailed as failure:
        outcome = ("Failed", list(failure.messages))
    except Exception as error:  # a thread has nobody else to tell
        outcome = ("Failed", [f"Internal error: {type(error).__name__}: {error}"[:2048]])
    else:
        outcome = ("Stopped" if job.stop_asked.is_set() else "Completed", [])
    with bedrock.lock:
        job.end(*outcome)


def _existing(bedrock: Bedrock, arn: str) -> EvaluationJob:
    job = bedrock.evaluations.get(arn)
    if job is None:
        raise not_found(f"The evaluation job {arn!r} does not exist.")
    return job


def get_evaluation_job(bedrock: Bedrock, params: dict[str, Any], call: Call) -> dict[str, Any]:
    """GetEvaluationJob."""
    with bedrock.lock:
        job = _existing(bedrock, params["jobIdentifier"])
        return {
            "jobName": job.name,
            "status": job.status,
            "jobArn": job.arn,
            "jobDescription": job.request.get("jobDescription"),
            "roleArn": job.request["roleArn"],
            "jobType": "Automated",
            "applicationType": "ModelEvaluation",
            "evaluationConfig": job.request["evaluationConfig"],
            "inferenceConfig": job.request["inferenceConfig"],
            "outputDataConfig": job.request["outputDataConfig"],
            "creationTime": job.created,
            "lastModifiedTime": job.modified,
            "failureMessages": job.failures or None,
        }


def list_evaluation_jobs(bedrock: Bedrock, params: dict[str, Any], call: Call) -> dict[str, Any]:
    """ListEvaluationJobs."""
    with bedrock.lock:
        shown, token = page(bedrock.evaluations.values(), params, most=_PAGE)
        summaries = [
            {
                "jobArn": job.arn,
                "jobName": job.name,
                "status": job.status,
                "creationTime": job.created,
                "jobType": "Automated",
                "evaluationTaskTypes": [
                    dataset["taskType"] for dataset in job.automated["datasetMetricConfigs"]
                ],
                "customMetricsEvaluatorModelIdentifiers": [job.judge],
                "inferenceConfigSummary": {
                    "modelConfigSummary": {"precomputedInferenceSourceIdentifiers": [job.source]}
                },
                "applicationType": "ModelEvaluation",
            }
            for job in shown
        ]
    # The API model has no empty list here.
    return {"jobSummaries": summaries or None, "nextToken": token}


def stop_evaluation_job(bedrock: Bedrock, params: dict[str, Any], call: Call) -> dict[str, Any]:
    """StopEvaluationJob."""
    with bedrock.lock:
        job = _existing(bedrock, params["jobIdentifier"])
        if job.status not in ("InProgress", "Stopping"):
            raise conflict(f"The evaluation job {job.name!r} is {job.status}: it can't be stopped.")
        job.status, job.modified = "Stopping", now()
        job.stop_asked.set()
    return {}


def batch_delete_evaluation_job(
    bedrock: Bedrock, params: dict[str, Any], call: Call
) -> dict[str, Any]:
    """BatchDeleteEvaluationJob: jobs that have ended go, the others stay and are named."""
    errors, deleted = [], []
    with bedrock.lock:
        for arn in params["jobIdentifiers"]:
            job = bedrock.evaluations.get(arn)
            if job is None:
                reason = ("ResourceNotFoundException", "The evaluation job does not exist.")
            elif job.status in ("InProgress", "Stopping"):
                reason = ("ConflictException", f"The evaluation job is {job.status}.")
            else:
                del bedrock.evaluations[arn]
                bedrock.tags.pop(arn, None)
                deleted.append({"jobIdentifier": arn, "jobStatus": "Deleting"})
                continue
            errors.append({"jobIdentifier": arn, "code": reason[0], "message": reason[1]})
    return {"errors": errors, "evaluationJobs": deleted}
