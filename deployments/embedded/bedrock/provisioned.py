"""Provisioned Throughput of custom models.

As with deployments, its state is a function of the time since it was asked for.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

from deployments.embedded.bedrock.custom_models import CustomModel, find_custom_model
from deployments.embedded.bedrock.errors import conflict, invalid, not_found
from deployments.embedded.bedrock.fate import FAILURE, Fate, draw_fate
from deployments.embedded.bedrock.listing import find, page
from deployments.embedded.bedrock.once import made_once
from deployments.embedded.bedrock.state import Bedrock, new_id, now
from deployments.embedded.bedrock.tags import put_tags
from deployments.embedded.calls import Call

#: How long it is Creating or Updating, in seconds.
SECONDS_TO_SERVICE: Final = 1.0
#: How long a commitment binds.
COMMITMENTS: Final = {"OneMonth": timedelta(days=30), "SixMonths": timedelta(days=180)}


@dataclass(slots=True)
class Provisioned:
    """Model units that serve a custom model.

    Attributes:
        earlier: the model that answers until an update has taken effect.
        changed: when it was created or last updated.
    """

    arn: str
    name: str
    desired: CustomModel
    units: int
    commitment: str | None = None
    fate: Fate = Fate.DONE
    earlier: CustomModel | None = None
    created: datetime = field(default_factory=now)
    changed: datetime = field(default_factory=now)

    @property
    def _due(self) -> bool:
        return now() >= self.changed + timedelta(seconds=SECONDS_TO_SERVICE)

    @property
    def status(self) -> str:
        """Creating, InService, Updating or Failed."""
        if self.earlier is not None and not self._due:
            return "Updating"
        if self.fate is Fate.STUCK or not self._due:
            return "Creating"
        return "Failed" if self.fate is Fate.FAILED else "InService"

    @property
    def model_arn(self) -> str:
        """The model that answers now."""
        waits = self.earlier is not None and not self._due
        return self.earlier.arn if waits and self.earlier else self.desired.arn

    @property
    def expires(self) -> datetime | None:
        """Until when the commitment binds, or None without one."""
        return self.created + COMMITMENTS[self.commitment] if self.commitment else None

    def summary(self) -> dict[str, Any]:
        """As `ListProvisionedModelThroughputs` shows it."""
        committed = {
            "commitmentDuration": self.commitment,
            "commitmentExpirationTime": self.expires,
        }
        return {
            "provisionedModelName": self.name,
            "provisionedModelArn": self.arn,
            "modelArn": self.model_arn,
            "desiredModelArn": self.desired.arn,
            "foundationModelArn": self.desired.base_model_arn,
            "modelUnits": self.units,
            "desiredModelUnits": self.units,
            "status": self.status,
            "creationTime": self.created,
            "lastModifiedTime": self.changed,
            **(committed if self.commitment else {}),
        }


def find_provisioned(bedrock: Bedrock, identifier: str) -> Provisioned | None:
    """The Provisioned Throughput with this ARN or name."""
    return find(bedrock.provisioned, identifier)


def _existing(bedrock: Bedrock, params: dict[str, Any]) -> Provisioned:
    identifier = params["provisionedModelId"]
    found = find_provisioned(bedrock, identifier)
    if found is None:
        raise not_found(f"The Provisioned Throughput {identifier!r} does not exist.")
    return found


def _model(bedrock: Bedrock, identifier: str) -> CustomModel:
    model = find_custom_model(bedrock, identifier)
    if model is None:
        raise not_found(
            f"There is no custom model {identifier!r}; the embedded AWS sells Provisioned "
            "Throughput for custom models alone."
        )
    return model


@made_once("provisionedModelArn")
def create_provisioned_model_throughput(
    bedrock: Bedrock, params: dict[str, Any], call: Call
) -> str:
    """CreateProvisionedModelThroughput."""
    name = params["provisionedModelName"]
    if find_provisioned(bedrock, name) is not None:  # no ConflictException in the API model
        raise invalid(f"A Provisioned Throughput named {name!r} exists already.")
    made = Provisioned(
        arn=bedrock.arn(f"provisioned-model/{new_id()}"),
        name=name,
        desired=_model(bedrock, params["modelId"]),
        units=params["modelUnits"],
        commitment=params.get("commitmentDuration"),
        fate=draw_fate(bedrock, call),
    )
    put_tags(bedrock, made.arn, params.get("tags"))
    bedrock.provisioned[made.arn] = made
    return made.arn


def get_provisioned_model_throughput(
    bedrock: Bedrock, params: dict[str, Any], call: Call
) -> dict[str, Any]:
    """GetProvisionedModelThroughput."""
    found = _existing(bedrock, params)
    failure = {"failureMessage": FAILURE} if found.status == "Failed" else {}
    return {**found.summary(), **failure}


def list_provisioned_model_throughputs(
    bedrock: Bedrock, params: dict[str, Any], call: Call
) -> dict[str, Any]:
    """ListProvisionedModelThroughputs."""
    with bedrock.lock:
        listed = [
            provisioned
            for provisioned in bedrock.provisioned.values()
            if params.get("modelArnEquals") in (None, provisioned.model_arn)
        ]
    shown, token = page(listed, params)
    return {
        "provisionedModelSummaries": [provisioned.summary() for provisioned in shown],
        "nextToken": token,
    }


def update_provisioned_model_throughput(
    bedrock: Bedrock, params: dict[str, Any], call: Call
) -> dict[str, Any]:
    """UpdateProvisionedModelThroughput: another name, or another model of the same base."""
    with bedrock.lock:
        found = _existing(bedrock, params)
        if found.status != "InService":
            raise invalid(f"The Provisioned Throughput {found.name!r} is {found.status}.")
        if "desiredModelId" in params:
            model = _model(bedrock, params["desiredModelId"])
            if model.base_model_id != found.desired.base_model_id:
                raise invalid(f"{model.name!r} does not stem from {found.desired.base_model_id}.")
            found.earlier, found.desired, found.changed = found.desired, model, now()
        found.name = params.get("desiredProvisionedModelName", found.name)
    return {}


def delete_provisioned_model_throughput(
    bedrock: Bedrock, params: dict[str, Any], call: Call
) -> dict[str, Any]:
    """DeleteProvisionedModelThroughput; refused while a commitment binds."""
    with bedrock.lock:
        found = _existing(bedrock, params)
        if found.expires is not None and now() < found.expires:
            raise conflict(
                f"The Provisioned Throughput {found.name!r} is committed until "
                f"{found.expires:%Y-%m-%dT%H:%M:%SZ} and can't be deleted before."
            )
        del bedrock.provisioned[found.arn]
        bedrock.tags.pop(found.arn, None)
    return {}
