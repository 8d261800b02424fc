"""Deploy: an on-demand deployment of the run's model, and a smoke test through it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from botocore.exceptions import ClientError

from configs.settings import Settings
from data_contracts.heldout import benchmark_queries
from data_contracts.runs import StageRecord
from reelroute.aws import error_code, speaking
from reelroute.errors import AnswerError, StageError
from reelroute.parsing import parse_strict
from tasks.answers import AnswerStore
from tasks.base import Progress, StageContext, logger, stage_task
from tasks.jobs import find_ours, wait
from tasks.models import Buyer, Model, ask_once
from tasks.pacing import pacer_of
from tasks.storage import aws_access


@stage_task
def find_deployment(stage: StageContext, model_arn: str) -> str | None:
    """An active deployment of ours of exactly this model, if there is one."""
    with speaking(f"looking for deployments of {model_arn}"):
        bedrock = aws_access(stage.settings).client("bedrock")
        pages = bedrock.get_paginator("list_custom_model_deployments").paginate(
            modelArnEquals=model_arn, statusEquals="Active"
        )
        for page in pages:
            for summary in page["modelDeploymentSummaries"]:
                if summary["customModelDeploymentName"].startswith(stage.name_prefix):
                    return str(summary["customModelDeploymentArn"])
    return None


@stage_task
def create_deployment(stage: StageContext, model_arn: str) -> str:
    """The ARN of this attempt's deployment: looked up first, created only where there is none."""
    bedrock = aws_access(stage.settings).client("bedrock")
    name = stage.name()
    with speaking(f"looking for deployment {name}"):
        pages = bedrock.get_paginator("list_custom_model_deployments").paginate(
            nameContains=stage.name_stem()
        )
        found = find_ours(pages, "modelDeploymentSummaries", "customModelDeploymentName", stage)
    if found:
        return str(found["customModelDeploymentArn"])
    with speaking(f"creating deployment {name}"):
        answer = bedrock.create_custom_model_deployment(
            modelDeploymentName=name,
            modelArn=model_arn,
            description=f"ReelRoute router of run {stage.run.run_id}",
            clientRequestToken=stage.token(),
            tags=stage.tags(),
        )
    logger().info("deployment %s: %s", name, answer["customModelDeploymentArn"])
    return str(answer["customModelDeploymentArn"])


@stage_task
def wait_until_active(stage: StageContext, deployment_arn: str) -> None:
    """Wait until the deployment answers.

    Raises:
        StageError: it failed, with the service's own message.
    """
    settings = stage.settings.deploy
    progress = Progress("deploy", "the deployment", 1)

    def show(answer: Mapping[str, Any]) -> None:
        name, status = answer["modelDeploymentName"], answer["status"]
        progress.show(int(status == "Active"), f"deployment {name}: {status}")

    wait(
        aws_access(stage.settings).client("bedrock"),
        "DeploymentActive",
        {"customModelDeploymentIdentifier": deployment_arn},
        what=f"deployment {deployment_arn}",
        poll_seconds=settings.poll_seconds,
        max_seconds=settings.max_minutes * 60,
        on_poll=show,
    )


@stage_task
def smoke_test(stage: StageContext, deployment_arn: str) -> int:
    """Ask the deployment a few real queries; how many answers were valid.

    Answers are stored before they are used: a start after a kill asks only the missing ones.

    Raises:
        StageError: fewer than the profile wants; the message shows an answer.
    """
    settings = stage.settings
    student = Model(
        client=aws_access(settings).client("bedrock-runtime"),
        model_id=deployment_arn,
        settings=settings.models.student,
        price=settings.price(settings.models.student),
        meter=stage.meter,
        pacer=pacer_of(settings, deployment_arn),
    )
    prompt = settings.prompt("router").text
    store = AnswerStore(stage.storage, stage.run.key(f"deploy/answers-a{stage.attempt}"))
    buyer = Buyer(stage.run.run_id, stage.attempt)
    stage.meter.add(buyer.bought(store.values(), student.price), once="smoke answers")
    valid, problem = 0, ""
    queries = [row.query for row in benchmark_queries()[: settings.deploy.smoke_queries]]
    for query in queries:
        text = ask_once(student, prompt, query, store, buyer).texts[-1]
        try:
            parse_strict(text)
            valid += 1
        except AnswerError as error:
            problem = f"{query!r} was answered by {text[:200]!r}: {error}"
    store.compact()
    if valid < settings.deploy.smoke_valid_min * len(queries):
        raise StageError(
            f"smoke test of {deployment_arn}: {valid} of {len(queries)} answers are valid, "
            f"{settings.deploy.smoke_valid_min:.0%} are wanted. {problem}"
        )
    return valid


def deployment_status(settings: Settings, deployment_arn: str) -> str:
    """The deployment's status, or `gone`."""
    with speaking(f"looking for deployment {deployment_arn}"):
        try:
            answer = (
                aws_access(settings)
                .client("bedrock")
                .get_custom_model_deployment(customModelDeploymentIdentifier=deployment_arn)
            )
        except ClientError as error:
            if error_code(error) == "ResourceNotFoundException":
                return "gone"
            raise
    return str(answer["status"])


def deployment_still_active(settings: Settings, record: StageRecord) -> bool:
    """Whether the deployment that the record names, if any, still answers."""
    deployment_arn = record.resources.get("deployment_arn")
    return deployment_arn is None or deployment_status(settings, deployment_arn) == "Active"
