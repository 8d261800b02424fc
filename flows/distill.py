"""The distill stage: the student is trained."""

from __future__ import annotations

from data_contracts.runs import Cost
from flows.stage import stage_flow
from tasks.base import StageContext, StageResult
from tasks.distill import (
    find_identical_model,
    model_still_there,
    start_job,
    training_cost,
    wait_for_model,
)


@stage_flow(
    "distill",
    reads=("upload",),
    settings=("distill", "models.student", "models.distillation_teacher"),
    still_there=model_still_there,
)
def distill(stage: StageContext) -> StageResult:
    """Train the student in a Bedrock customization job, unless an identical model is there."""
    model = None if stage.forced else find_identical_model(stage)
    cost = Cost()
    if model is None:
        job_arn = start_job(stage)
        model = wait_for_model(stage, job_arn)
        cost = training_cost(stage)
    return StageResult(
        summary=f"{'identical model reused' if model.reused else 'trained'}: {model.model_arn}",
        resources={
            "job_arn": model.job_arn,
            "model_arn": model.model_arn,
            "fingerprint": model.fingerprint,
        },
        metrics={"reused": model.reused},
        cost=cost,
    )
