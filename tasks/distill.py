"""Distill: one customization job for a training file, found again after a kill."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import ClientError

from configs.settings import Settings
from data_contracts.runs import Cost, StageRecord
from reelroute.aws import error_code, speaking
from tasks.base import Progress, StageContext, logger, stage_task
from tasks.cost import estimate_tokens
from tasks.jobs import find_ours, wait
from tasks.storage import aws_access


@dataclass(frozen=True, slots=True)
class DistilledModel:
    """A distilled student in Bedrock.

    Attributes:
        fingerprint: hash of all that the training depended on.
        reused: whether an earlier run's identical model is taken.
    """

    model_arn: str
    job_arn: str
    fingerprint: str
    reused: bool = False


def fingerprint(stage: StageContext) -> str:
    """What the trained model depends on: the file's content, teacher, student, settings."""
    settings = stage.settings
    depends_on = {
        "training": stage.upstream["upload"].files["training"].sha256,
        "teacher": settings.models.distillation_teacher,
        "student": settings.models.student.customization_id,
        "hyperparameters": settings.distill.hyperparameters,
        "max_response_tokens": settings.distill.max_response_tokens,
    }
    return hashlib.sha256(json.dumps(depends_on, sort_keys=True).encode()).hexdigest()


@stage_task
def find_identical_model(stage: StageContext) -> DistilledModel | None:
    """The model that an earlier run trained from the same inputs, if it is still there."""
    its_fingerprint = fingerprint(stage)
    stored = stage.storage.get(_registry_key(its_fingerprint))
    if stored is None:
        return None
    known = json.loads(stored.data)
    if not model_exists(stage.settings, known["model_arn"]):
        return None
    logger().info("an identical model was trained before: %s", known["model_arn"])
    return DistilledModel(known["model_arn"], known["job_arn"], its_fingerprint, reused=True)


@stage_task
def start_job(stage: StageContext) -> str:
    """The ARN of this attempt's job: looked up first, created only where there is none."""
    settings = stage.settings
    bedrock = aws_access(settings).client("bedrock")
    name = stage.name()
    with speaking(f"looking for customization job {name}"):
        pages = bedrock.get_paginator("list_model_customization_jobs").paginate(
            nameContains=stage.name_stem()
        )
        found = find_ours(pages, "modelCustomizationJobSummaries", "jobName", stage)
    cost = training_cost(stage)
    if found:
        logger().info("job %s is there already, %s", found["jobName"], found["status"])
        if found["jobName"] == name:  # an earlier attempt's record has counted its own
            stage.meter.add(cost, once=name)
        return str(found["jobArn"])
    stage.meter.check(cost.usd, f"customization job {name}")
    with speaking(f"creating customization job {name}"):
        answer = bedrock.create_model_customization_job(
            jobName=name,
            customModelName=name,
            roleArn=settings.distill.role_arn,
            clientRequestToken=stage.token(),
            baseModelIdentifier=settings.models.student.customization_id,
            customizationType="DISTILLATION",
            trainingDataConfig={"s3Uri": stage.upstream["upload"].resources["training_uri"]},
            outputDataConfig={"s3Uri": stage.storage.uri(stage.run.key("distill/"))},
            customizationConfig={
                "distillationConfig": {
                    "teacherModelConfig": {
                        "teacherModelIdentifier": settings.models.distillation_teacher,
                        "maxResponseLengthForInference": settings.distill.max_response_tokens,
                    }
                }
            },
            jobTags=stage.tags(),
            customModelTags=stage.tags(),
            **(
                {"hyperParameters": settings.distill.hyperparameters}
                if settings.distill.hyperparameters
                else {}
            ),
        )
    stage.meter.add(cost, once=name)
    logger().info("job %s started: %s", name, answer["jobArn"])
    return str(answer["jobArn"])


@stage_task
def wait_for_model(stage: StageContext, job_arn: str) -> DistilledModel:
    """Wait until the job has made its model.

    Raises:
        StageError: the job failed, with the service's own message.
    """
    settings = stage.settings.distill
    progress = Progress("distill", "the customization job", 3)

    def show(answer: Mapping[str, Any]) -> None:
        steps = answer.get("statusDetails") or {}
        done = sum(
            (steps.get(f"{step}Details") or {}).get("status") == "Completed"
            for step in ("validation", "dataProcessing", "training")
        )
        progress.show(done, f"customization job {answer['jobName']}: {answer['status']}")

    bedrock = aws_access(stage.settings).client("bedrock")
    answer = wait(
        bedrock,
        "CustomizationJobCompleted",
        {"jobIdentifier": job_arn},
        what=f"customization job {job_arn}",
        poll_seconds=settings.poll_seconds,
        max_seconds=settings.max_hours * 3600,
        on_poll=show,
    )
    progress.show(3, f"customization job {answer['jobName']}: {answer['status']}")
    model = DistilledModel(str(answer["outputModelArn"]), job_arn, fingerprint(stage))
    known = {"model_arn": model.model_arn, "job_arn": job_arn, "run_id": stage.run.run_id}
    stage.storage.put(
        _registry_key(model.fingerprint), json.dumps(known).encode(), "application/json"
    )
    return model


def training_cost(stage: StageContext) -> Cost:
    """About what the job costs: the file's tokens, once, at the student's training price."""
    price = stage.settings.price(stage.settings.models.student)
    tokens = estimate_tokens(stage.upstream["upload"].files["training"].bytes)
    return Cost(
        calls=1,
        input_tokens=tokens,
        usd=price.training * tokens / 1000,
        simulated=price.simulated,
    )


def model_exists(settings: Settings, model_arn: str) -> bool:
    """Whether a custom model is (still) there and can be deployed."""
    with speaking(f"looking for custom model {model_arn}"):
        try:
            bedrock = aws_access(settings).client("bedrock")
            answer = bedrock.get_custom_model(modelIdentifier=model_arn)
        except ClientError as error:
            if error_code(error) == "ResourceNotFoundException":
                return False
            raise
    return bool(answer.get("modelStatus", "Active") == "Active")


def models_still_there(settings: Settings, record: StageRecord) -> bool:
    """Whether the model that the record names, if any, is still there."""
    model_arn = record.resources.get("model_arn")
    return model_arn is None or model_exists(settings, model_arn)


def _registry_key(its_fingerprint: str) -> str:
    return f"models/{its_fingerprint}.json"
