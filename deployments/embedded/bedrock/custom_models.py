"""Custom models: what customization jobs leave behind."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from deployments.embedded.bedrock.errors import conflict, not_found
from deployments.embedded.bedrock.listing import find, page
from deployments.embedded.bedrock.objects import ACCOUNT
from deployments.embedded.bedrock.state import Bedrock
from deployments.embedded.calls import Call
from deployments.embedded.models.light_student import LightStudent


@dataclass(frozen=True, slots=True)
class CustomModel:
    """A trained student.

    Attributes:
        arn: `...:custom-model/<base model id>/<12 characters>`.
        name: unique for good.
        created: when its training ended.
        base_model_id: the foundation model that was customized.
        base_model_arn: its ARN.
        job: the fields that it shares with its job (jobName, jobArn, data and settings).
        student: what answers.
    """

    arn: str
    name: str
    created: datetime
    base_model_id: str
    base_model_arn: str
    job: dict[str, Any]
    student: LightStudent

    @property
    def status(self) -> str:
        """Always Active: a model appears when it is trained."""
        return "Active"


def find_custom_model(bedrock: Bedrock, identifier: str) -> CustomModel | None:
    """The custom model with this ARN or name."""
    return find(bedrock.custom_models, identifier)


def _existing(bedrock: Bedrock, identifier: str) -> CustomModel:
    model = find_custom_model(bedrock, identifier)
    if model is None:
        raise not_found(f"The custom model {identifier!r} does not exist.")
    return model


def get_custom_model(bedrock: Bedrock, params: dict[str, Any], call: Call) -> dict[str, Any]:
    """GetCustomModel."""
    model = _existing(bedrock, params["modelIdentifier"])
    return {
        **model.job,
        "modelArn": model.arn,
        "modelName": model.name,
        "baseModelArn": model.base_model_arn,
        "creationTime": model.created,
        "trainingMetrics": {"trainingLoss": model.student.training_loss},
        "modelStatus": model.status,
    }


def list_custom_models(bedrock: Bedrock, params: dict[str, Any], call: Call) -> dict[str, Any]:
    """ListCustomModels."""
    with bedrock.lock:
        models = [
            model
            for model in bedrock.custom_models.values()
            if params.get("baseModelArnEquals") in (None, model.base_model_arn)
            and params.get("foundationModelArnEquals") in (None, model.base_model_arn)
            and params.get("modelStatus") in (None, model.status)
        ]
    shown, token = page(models, params)
    summaries = [
        {
            "modelArn": model.arn,
            "modelName": model.name,
            "creationTime": model.created,
            "baseModelArn": model.base_model_arn,
            "baseModelName": model.base_model_id.split(":")[0],
            "customizationType": model.job["customizationType"],
            "ownerAccountId": ACCOUNT,
            "modelStatus": model.status,
        }
        for model in shown
    ]
    return {"modelSummaries": summaries, "nextToken": token}


def delete_custom_model(bedrock: Bedrock, params: dict[str, Any], call: Call) -> dict[str, Any]:
    """DeleteCustomModel; refused while something serves the model."""
    with bedrock.lock:
        model = _existing(bedrock, params["modelIdentifier"])
        for deployment in bedrock.deployments.values():
            if model.arn in deployment.models_in_use():
                raise conflict(
                    f"The custom model {model.name!r} is deployed as {deployment.name!r}: "
                    "delete the deployment first."
                )
        for provisioned in bedrock.provisioned.values():
            if model.arn == provisioned.model_arn:
                raise conflict(
                    f"The custom model {model.name!r} has the Provisioned Throughput "
                    f"{provisioned.name!r}: delete that first."
                )
        del bedrock.custom_models[model.arn]
        bedrock.tags.pop(model.arn, None)
    return {}
