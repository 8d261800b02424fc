"""On-demand deployments of custom models.

A deployment's state is a function of the time since it was asked for: no thread moves it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

from deployments.embedded.bedrock.custom_models import find_custom_model
from deployments.embedded.bedrock.errors import invalid, not_found
from deployments.embedded.bedrock.fate import FAILURE, Fate, draw_fate
from deployments.embedded.bedrock.listing import find, page
from deployments.embedded.bedrock.once import made_once
from deployments.embedded.bedrock.state import Bedrock, new_id, now
from deployments.embedded.bedrock.tags import put_tags
from deployments.embedded.calls import Call

#: How long a deployment is Creating or Updating, in seconds.
SECONDS_TO_ACTIVE: Final = 1.0


@dataclass(frozen=True, slots=True)
class _Update:
    """A change of the model behind a deployment: at `due` it takes effect or has failed."""

    model_arn: str
    due: datetime
    usable: bool
    fate: Fate

    @property
    def status(self) -> str:
        """Updating, UpdateCompleted or UpdateFailed."""
        if now() < self.due or self.fate is Fate.STUCK:
            return "Updating"
        return "UpdateCompleted" if self.usable and self.fate is Fate.DONE else "UpdateFailed"


@dataclass(slots=True)
class Deployment:
    """A custom model that Converse can ask, under an ARN of its own."""

    arn: str
    name: str
    first_model_arn: str
    usable: bool
    fate: Fate = Fate.DONE
    description: str | None = None
    created: datetime = field(default_factory=now)
    update: _Update | None = None
    last_updated: datetime = field(default_factory=now)

    @property
    def status(self) -> str:
        """Creating, Active or Failed."""
        due = self.created + timedelta(seconds=SECONDS_TO_ACTIVE)
        if now() < due or self.fate is Fate.STUCK:
            return "Creating"
        return "Active" if self.usable and self.fate is Fate.DONE else "Failed"

    @property
    def failure(self) -> str | None:
        """Why it is Failed."""
        if self.status != "Failed":
            return None
        if self.fate is Fate.FAILED:
            return FAILURE
        return f"The custom model {self.first_model_arn} does not exist."

    @property
    def model_arn(self) -> str:
        """The model that answers now."""
        if self.update is not None and self.update.status == "UpdateCompleted":
            return self.update.model_arn
        return self.first_model_arn

    def models_in_use(self) -> set[str]:
        """The model that answers now and the one that an update under way will bring."""
        coming = self.update is not None and self.update.status == "Updating"
        return {self.model_arn} | ({self.update.model_arn} if coming and self.update else set())

    def begin_update(self, model_arn: str, fate: Fate, *, usable: bool) -> None:
        """Change the model behind the deployment."""
        self.first_model_arn = self.model_arn
        self.last_updated = now()
        due = self.last_updated + timedelta(seconds=SECONDS_TO_ACTIVE)
        self.update = _Update(model_arn, due, usable, fate)


def find_deployment(bedrock: Bedrock, identifier: str) -> Deployment | None:
    """The deployment with this ARN or name."""
    return find(bedrock.deployments, identifier)


def _existing(bedrock: Bedrock, params: dict[str, Any]) -> Deployment:
    identifier = params["customModelDeploymentIdentifier"]
    deployment = find_deployment(bedrock, identifier)
    if deployment is None:
        raise not_found(f"The custom model deployment {identifier!r} does not exist.")
    return deployment


@made_once("customModelDeploymentArn")
def create_custom_model_deployment(bedrock: Bedrock, params: dict[str, Any], call: Call) -> str:
    """CreateCustomModelDeployment."""
    name, model_arn = params["modelDeploymentName"], params["modelArn"]
    if find_deployment(bedrock, name) is not None:
        # The operation's API model has no ConflictException.
        raise invalid(f"A custom model deployment named {name!r} exists already.")
    deployment = Deployment(
        arn=bedrock.arn(f"custom-model-deployment/{new_id()}"),
        name=name,
        first_model_arn=model_arn,
        usable=model_arn in bedrock.custom_models,
        description=params.get("description"),
        fate=draw_fate(bedrock, call),
    )
    put_tags(bedrock, deployment.arn, params.get("tags"))
    bedrock.deployments[deployment.arn] = deployment
    return deployment.arn


def get_custom_model_deployment(
    bedrock: Bedrock, params: dict[str, Any], call: Call
) -> dict[str, Any]:
    """GetCustomModelDeployment."""
    deployment = _existing(bedrock, params)
    update = deployment.update
    return {
        "customModelDeploymentArn": deployment.arn,
        "modelDeploymentName": deployment.name,
        "modelArn": deployment.model_arn,
        "createdAt": deployment.created,
        "lastUpdatedAt": deployment.last_updated,
        "status": deployment.status,
        "description": deployment.description,
        "failureMessage": deployment.failure,
        "updateDetails": update and {"modelArn": update.model_arn, "updateStatus": update.status},
    }


def list_custom_model_deployments(
    bedrock: Bedrock, params: dict[str, Any], call: Call
) -> dict[str, Any]:
    """ListCustomModelDeployments."""
    with bedrock.lock:
        deployments = [
            deployment
            for deployment in bedrock.deployments.values()
            if params.get("modelArnEquals") in (None, deployment.model_arn)
        ]
    shown, token = page(deployments, params, after="createdAfter", before="createdBefore")
    summaries = [
        {
            "customModelDeploymentArn": deployment.arn,
            "customModelDeploymentName": deployment.name,
            "modelArn": deployment.model_arn,
            "createdAt": deployment.created,
            "lastUpdatedAt": deployment.last_updated,
            "status": deployment.status,
            **({"failureMessage": deployment.failure} if deployment.failure else {}),
        }
        for deployment in shown
    ]
    return {"modelDeploymentSummaries": summaries, "nextToken": token}


def update_custom_model_deployment(
    bedrock: Bedrock, params: dict[str, Any], call: Call
) -> dict[str, Any]:
    """UpdateCustomModelDeployment: another model behind the same ARN."""
    with bedrock.lock:
        deployment = _existing(bedrock, params)
        updating = deployment.update is not None and deployment.update.status == "Updating"
        if deployment.status != "Active" or updating:
            state = "Updating" if updating else deployment.status
            # The operation's API model has no ConflictException.
            raise invalid(
                f"The custom model deployment {deployment.name!r} is {state}: "
                "only an Active one can be updated."
            )
        usable = find_custom_model(bedrock, params["modelArn"]) is not None
        deployment.begin_update(params["modelArn"], draw_fate(bedrock, call), usable=usable)
    return {"customModelDeploymentArn": deployment.arn}


def delete_custom_model_deployment(
    bedrock: Bedrock, params: dict[str, Any], call: Call
) -> dict[str, Any]:
    """DeleteCustomModelDeployment."""
    with bedrock.lock:
        deployment = _existing(bedrock, params)
        del bedrock.deployments[deployment.arn]
        bedrock.tags.pop(deployment.arn, None)
    return {}
