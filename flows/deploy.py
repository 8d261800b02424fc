"""The deploy stage: the student answers through a deployment of its own."""

from __future__ import annotations

from flows.stage import stage_flow
from tasks.base import StageContext, StageResult
from tasks.deploy import (
    buy_provisioned,
    create_deployment,
    deployment_still_active,
    find_deployment,
    find_provisioned,
    smoke_test,
    wait_until_active,
)


@stage_flow(
    "deploy",
    reads=("distill",),
    settings=("deploy", "models.student"),
    prompts=("router",),
    still_there=deployment_still_active,
)
def deploy(stage: StageContext) -> StageResult:
    """Deploy the model, wait until it is active, and ask it a few real queries."""
    model_arn = stage.upstream["distill"].resources.get("model_arn")
    if model_arn is None:
        return StageResult("nothing to deploy: the run has no student in Bedrock")
    provisioned = stage.settings.deploy.mode == "provisioned"
    find, create = (
        (find_provisioned, buy_provisioned) if provisioned else (find_deployment, create_deployment)
    )
    deployment_arn = None if stage.forced else find(stage, model_arn)
    reused = deployment_arn is not None
    if deployment_arn is None:
        deployment_arn = create(stage, model_arn)
        wait_until_active(stage, deployment_arn)
    valid = smoke_test(stage, deployment_arn)
    asked = stage.settings.deploy.smoke_queries
    usd_per_hour, _ = stage.settings.provisioned_usd_per_hour()
    billed = f"; it is billed ${usd_per_hour:,.2f} an hour until cleanup" if provisioned else ""
    return StageResult(
        summary=f"{deployment_arn} is {'still ' if reused else ''}active, "
        f"{valid} of {asked} smoke answers valid{billed}",
        resources={"deployment_arn": deployment_arn},
        metrics={"smoke_valid": valid, "smoke_asked": asked, "reused": reused}
        | ({"usd_per_hour": usd_per_hour} if provisioned else {}),
        cost=stage.meter.cost,
    )
