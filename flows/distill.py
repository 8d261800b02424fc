"""The distill stage: the students are trained."""

from __future__ import annotations

from typing import Any

from data_contracts.runs import StoredFile
from flows.stage import stage_flow
from tasks.base import StageContext, StageResult
from tasks.distill import (
    find_identical_model,
    models_still_there,
    start_job,
    wait_for_model,
)
from tasks.local_student import FILE_PREFIX, find_identical_student, train_local_student


@stage_flow(
    "distill",
    reads=("validate", "upload"),
    settings=("distill", "models.student", "models.distillation_teacher"),
    still_there=models_still_there,
)
def distill(stage: StageContext) -> StageResult:
    """Train the profile's students, each unless an identical one is there already.

    The Bedrock student learns in a customization job; the local one learns here meanwhile.
    """
    students = stage.settings.distill.students
    resources: dict[str, str] = {}
    files: dict[str, StoredFile] = {}
    metrics: dict[str, Any] = {}
    said, job_arn = [], None

    model = None
    if "bedrock" in students:
        model = None if stage.forced else find_identical_model(stage)
        job_arn = None if model else start_job(stage)

    if "local" in students:
        local = None if stage.forced else find_identical_student(stage)
        local = local or train_local_student(stage)
        files |= {f"{FILE_PREFIX}{name}": file for name, file in local.files.items()}
        resources["local_fingerprint"] = local.fingerprint
        metrics |= {"local": local.metrics, "local_reused": local.reused}
        said.append(
            f"local student {'reused' if local.reused else 'trained'}, "
            f"rubric {local.metrics['rubric']:.2f} on its development rows"
        )

    if job_arn:
        model = wait_for_model(stage, job_arn)
    if model:
        resources |= {
            "job_arn": model.job_arn,
            "model_arn": model.model_arn,
            "fingerprint": model.fingerprint,
        }
        metrics["reused"] = model.reused
        done = "identical model reused" if model.reused else "trained"
        said.insert(0, f"Bedrock student {done}: {model.model_arn}")

    return StageResult("; ".join(said), files, resources, metrics, stage.meter.cost)
