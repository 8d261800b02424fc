"""Deploy: what answers for the run's model, on demand or provisioned, and a smoke test through it.

A run's model always has something of its own that answers: evaluation asks it before anybody
relies on it, the run's release names it, and a rollback finds it again. On demand that is a
deployment, which costs nothing while it is idle. Provisioned Throughput is billed by the hour,
used or not, until cleanup deletes it. (`stable.py` is one more deployment, beside these, whose
model changes.)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from botocore.exceptions import ClientError

from configs.settings import ProvisionedSettings, Settings
from data_contracts.heldout import benchmark_queries
from data_contracts.runs import Cost, StageRecord
from reelroute.aws import error_code, speaking
from reelroute.errors import AnswerError, StageError
from reelroute.parsing import parse_strict
from tasks.answers import AnswerStore
from tasks.base import Progress, StageContext, logger, stable_name, stage_task
from tasks.jobs import find_ours, wait
from tasks.models import Buyer, Model, ask_once
from tasks.pacing import pacer_of
from tasks.storage import aws_access

#: The statuses in which a deployment, or Provisioned Throughput, answers.
SERVING = ("Active", "InService", "Updating")
#: The service's words for the profile's commitments.
_COMMITMENTS = {"none": None, "one_month": "OneMonth", "six_months": "SixMonths"}


@stage_task
def find_deployment(stage: StageContext, model_arn: str) -> str | None:
    """An active deployment of a run of ours of exactly this model, if there is one."""
    stable = stable_name(stage.settings.environment, stage.storage.bucket)
    with speaking(f"looking for deployments of {model_arn}"):
        bedrock = aws_access(stage.settings).client("bedrock")
        pages = bedrock.get_paginator("list_custom_model_deployments").paginate(
            modelArnEquals=model_arn, statusEquals="Active"
        )
        for page in pages:
            for summary in page.get("modelDeploymentSummaries", ()):
                name = summary["customModelDeploymentName"]
                if name.startswith(stage.name_prefix) and name != stable:
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
def find_provisioned(stage: StageContext, model_arn: str) -> str | None:
    """Provisioned Throughput of ours of exactly this model, as the profile wants it, if any."""
    wanted = _wanted(stage.settings)
    with speaking(f"looking for Provisioned Throughput of {model_arn}"):
        bedrock = aws_access(stage.settings).client("bedrock")
        pages = bedrock.get_paginator("list_provisioned_model_throughputs").paginate(
            modelArnEquals=model_arn, statusEquals="InService"
        )
        for page in pages:
            for summary in page.get("provisionedModelSummaries", ()):
                if (
                    summary["provisionedModelName"].startswith(stage.name_prefix)
                    and summary["modelUnits"] == wanted.units
                    and summary.get("commitmentDuration") == _COMMITMENTS[wanted.commitment]
                ):
                    return str(summary["provisionedModelArn"])
    return None


@stage_task
def buy_provisioned(stage: StageContext, model_arn: str) -> str:
    """The ARN of this attempt's Provisioned Throughput: looked up first, bought only once.

    Its first hour counts into the run's budget; those after it are nobody's run.

    Raises:
        ConfigError: its price is not known, or not confirmed in the profile.
        BudgetExceeded: the first hour alone would pass the run's budget.
    """
    settings, wanted = stage.settings, _wanted(stage.settings)
    usd_per_hour, simulated = settings.provisioned_usd_per_hour()
    bedrock = aws_access(settings).client("bedrock")
    name = stage.name()
    with speaking(f"looking for Provisioned Throughput {name}"):
        pages = bedrock.get_paginator("list_provisioned_model_throughputs").paginate(
            nameContains=stage.name_stem()
        )
        found = find_ours(pages, "provisionedModelSummaries", "provisionedModelName", stage)
    cost = Cost(calls=1, usd=usd_per_hour, simulated=simulated)
    if found:
        if found["provisionedModelName"] == name:
            stage.meter.add(cost, once=name)
        return str(found["provisionedModelArn"])
    stage.meter.check(usd_per_hour, f"the first hour of Provisioned Throughput {name}")
    logger().warning(
        "buying Provisioned Throughput %s: %d model units, commitment %s, $%.2f an hour until it "
        "is deleted",
        name,
        wanted.units,
        wanted.commitment,
        usd_per_hour,
    )
    commitment = _COMMITMENTS[wanted.commitment]
    with speaking(f"buying Provisioned Throughput {name}"):
        answer = bedrock.create_provisioned_model_throughput(
            provisionedModelName=name,
            modelId=model_arn,
            modelUnits=wanted.units,
            clientRequestToken=stage.token(),
            tags=stage.tags(),
            **({"commitmentDuration": commitment} if commitment else {}),
        )
    stage.meter.add(cost, once=name)
    return str(answer["provisionedModelArn"])


def _wanted(settings: Settings) -> ProvisionedSettings:
    wanted = settings.deploy.provisioned
    assert wanted is not None  # the settings hold it
    return wanted


@stage_task
def wait_until_active(stage: StageContext, deployment_arn: str) -> None:
    """Wait until the deployment, or the Provisioned Throughput, answers.

    Raises:
        StageError: it failed, with the service's own message.
    """
    settings = stage.settings.deploy
    progress = Progress("deploy", "the deployment", 1)

    def show(answer: Mapping[str, Any]) -> None:
        name = answer.get("modelDeploymentName") or answer["provisionedModelName"]
        progress.show(int(answer["status"] in SERVING), f"{name}: {answer['status']}")

    provisioned = is_provisioned(deployment_arn)
    wait(
        aws_access(stage.settings).client("bedrock"),
        "ProvisionedInService" if provisioned else "DeploymentActive",
        {_identifier(deployment_arn): deployment_arn},
        what=f"{'Provisioned Throughput' if provisioned else 'deployment'} {deployment_arn}",
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
    valid = count_valid(
        settings,
        deployment_arn,
        lambda query: ask_once(student, prompt, query, store, buyer).texts[-1],
    )
    store.compact()
    return valid


def count_valid(settings: Settings, deployment_arn: str, ask: Callable[[str], str]) -> int:
    """Ask a few real queries; how many answers were valid.

    Raises:
        StageError: fewer than the profile wants; the message shows an answer.
    """
    valid, problem = 0, ""
    queries = [row.query for row in benchmark_queries()[: settings.deploy.smoke_queries]]
    for query in queries:
        text = ask(query)
        try:
            parse_strict(text)
            valid += 1
        except AnswerError as error:
            problem = f"{query!r} was answered by {text[:200]!r}: {error}"
    if valid < settings.deploy.smoke_valid_min * len(queries):
        raise StageError(
            f"smoke test of {deployment_arn}: {valid} of {len(queries)} answers are valid, "
            f"{settings.deploy.smoke_valid_min:.0%} are wanted. {problem}"
        )
    return valid


def is_provisioned(arn: str) -> bool:
    """Whether it is Provisioned Throughput, not an on-demand deployment."""
    return ":provisioned-model/" in arn


def _identifier(arn: str) -> str:
    """What the service calls the ARN where it is asked for."""
    return "provisionedModelId" if is_provisioned(arn) else "customModelDeploymentIdentifier"


def deployment_status(settings: Settings, deployment_arn: str) -> str:
    """The status of the deployment, or of the Provisioned Throughput; `gone` without it."""
    bedrock = aws_access(settings).client("bedrock")
    get = (
        bedrock.get_provisioned_model_throughput
        if is_provisioned(deployment_arn)
        else bedrock.get_custom_model_deployment
    )
    with speaking(f"looking for deployment {deployment_arn}"):
        try:
            answer = get(**{_identifier(deployment_arn): deployment_arn})
        except ClientError as error:
            if error_code(error) == "ResourceNotFoundException":
                return "gone"
            raise
    return str(answer["status"])


def deployment_still_active(settings: Settings, record: StageRecord) -> bool:
    """Whether the deployment that the record names, if any, still answers."""
    deployment_arn = record.resources.get("deployment_arn")
    return deployment_arn is None or deployment_status(settings, deployment_arn) in SERVING
