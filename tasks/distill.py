"""Distill: one customization job for what the student learns from, found again after a kill."""

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
    """What the trained model depends on: what is learnt, teacher, student, settings.

    What the invocation logs hold can't be told beforehand: with them each run's model is new.
    """
    settings, distill = stage.settings, stage.settings.distill
    depends_on: dict[str, Any] = {
        "training": stage.upstream["upload"].files["training"].sha256,
        "student": settings.models.student.customization_id,
        "hyperparameters": distill.hyperparameters,
    }
    if distill.customization == "distillation":
        depends_on["teacher"] = settings.models.distillation_teacher
        depends_on["max_response_tokens"] = distill.max_response_tokens
    else:
        depends_on["customization"] = distill.customization
    if distill.training_data == "invocation_logs":
        depends_on["training"] = [stage.run.run_id, _training_data(stage)]
    if distill.kms_key_id:
        depends_on["key"] = distill.kms_key_id
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
            trainingDataConfig=_training_data(stage),
            outputDataConfig={"s3Uri": stage.storage.uri(stage.run.key("distill/"))},
            jobTags=stage.tags(),
            customModelTags=stage.tags(),
            **_customization(settings),
        )
    stage.meter.add(cost, once=name)
    logger().info("job %s started: %s", name, answer["jobArn"])
    return str(answer["jobArn"])


def _customization(settings: Settings) -> dict[str, Any]:
    """The request's members that follow from the kind of job and the profile's choices."""
    distill = settings.distill
    members: dict[str, Any] = {"customizationType": distill.customization.upper()}
    if distill.customization == "distillation":
        teacher = {
            "teacherModelIdentifier": settings.models.distillation_teacher,
            "maxResponseLengthForInference": distill.max_response_tokens,
        }
        members["customizationConfig"] = {"distillationConfig": {"teacherModelConfig": teacher}}
    if distill.hyperparameters:
        members["hyperParameters"] = distill.hyperparameters
    if distill.kms_key_id:
        members["customModelKmsKeyId"] = distill.kms_key_id
    if distill.vpc:
        members["vpcConfig"] = {
            "subnetIds": list(distill.vpc.subnets),
            "securityGroupIds": list(distill.vpc.security_groups),
        }
    return members


def _training_data(stage: StageContext) -> dict[str, Any]:
    """What the job learns from: the uploaded file, or the invocation logs."""
    logs = stage.settings.distill.invocation_logs
    if stage.settings.distill.training_data != "invocation_logs" or logs is None:
        return {"s3Uri": stage.upstream["upload"].resources["training_uri"]}
    config: dict[str, Any] = {
        "invocationLogSource": {"s3Uri": logs.uri},
        "usePromptResponse": logs.use_responses,
    }
    filters = [
        {"equals": one.equals} if one.equals else {"notEquals": one.not_equals}
        for one in logs.filters
    ]
    if len(filters) == 1:
        config["requestMetadataFilters"] = filters[0]
    elif filters:
        config["requestMetadataFilters"] = {f"{'and' if logs.match == 'all' else 'or'}All": filters}
    return {"invocationLogsConfig": config}


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
    """About what the job costs: what is learnt, once, at the student's training price.

    Where the service has its teacher answer, the answers are counted, too, at their longest. Of
    invocation logs as many calls are counted as the profile expects, each at its longest.
    """
    settings = stage.settings
    price, teacher = settings.price(settings.models.student), settings.distillation_price()
    upload = stage.upstream["upload"]
    asked, logs = upload.metrics.get("prompts", 0), settings.distill.invocation_logs
    if settings.distill.training_data == "invocation_logs" and logs:
        asked = logs.expected_records
        prompt, query = settings.prompt("router").text, settings.validation.query_characters_max
        tokens = asked * estimate_tokens(len(prompt) + query)
    else:
        tokens = estimate_tokens(upload.files["training"].bytes)
    answers = asked * settings.distill.max_response_tokens
    usd = price.training * settings.distill.epochs * (tokens + answers) / 1000
    if teacher and not (logs and logs.use_responses):
        usd += teacher.usd(tokens, answers)
    return Cost(
        calls=1,
        input_tokens=tokens,
        output_tokens=answers,
        usd=usd,
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
