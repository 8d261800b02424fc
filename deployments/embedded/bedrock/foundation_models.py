"""What Bedrock says about its foundation models and inference profiles."""

from __future__ import annotations

from typing import Any

from deployments.embedded.bedrock.errors import not_found
from deployments.embedded.bedrock.objects import ACCOUNT
from deployments.embedded.bedrock.state import Bedrock
from deployments.embedded.calls import Call
from deployments.embedded.faults import DENIED_MODELS
from deployments.embedded.models.catalogue import (
    FOUNDATION_MODELS,
    FoundationModel,
    foundation_model,
    inference_profile,
)


def get_foundation_model(bedrock: Bedrock, params: dict[str, Any], call: Call) -> dict[str, Any]:
    """GetFoundationModel."""
    return {"modelDetails": _offered(params["modelIdentifier"]).details(bedrock.region)}


def _offered(identifier: str) -> FoundationModel:
    model = foundation_model(identifier)
    if model is None:
        offered = ", ".join(offer.model_id for offer in FOUNDATION_MODELS)
        raise not_found(
            f"Could not resolve the foundation model from {identifier!r}; "
            f"the embedded AWS offers {offered}."
        )
    return model


def get_foundation_model_availability(
    bedrock: Bedrock, params: dict[str, Any], call: Call
) -> dict[str, Any]:
    """GetFoundationModelAvailability: none is authorized while models are denied."""
    model = _offered(params["modelId"])
    denied = any(fault["kind"] == DENIED_MODELS for fault in bedrock.faults.on())
    return {
        "modelId": model.model_id,
        "agreementAvailability": {"status": "AVAILABLE"},
        "authorizationStatus": "NOT_AUTHORIZED" if denied else "AUTHORIZED",
        "entitlementAvailability": "AVAILABLE",
        "regionAvailability": "AVAILABLE",
    }


def get_inference_profile(bedrock: Bedrock, params: dict[str, Any], call: Call) -> dict[str, Any]:
    """GetInferenceProfile: a model's profile is `us.` and its id."""
    identifier = params["inferenceProfileIdentifier"]
    found = inference_profile(identifier)
    if found is None:
        raise not_found(f"Could not resolve the inference profile from {identifier!r}.")
    model, regions = found
    profile_id = identifier.rpartition("/")[2]
    owner = f"arn:aws:bedrock:{bedrock.region}:{ACCOUNT}:inference-profile"
    return {
        "inferenceProfileName": f"US {model.name}",
        "inferenceProfileId": profile_id,
        "inferenceProfileArn": f"{owner}/{profile_id}",
        "models": [{"modelArn": model.arn(region)} for region in regions],
        "status": "ACTIVE",
        "type": "SYSTEM_DEFINED",
    }


def list_foundation_models(bedrock: Bedrock, params: dict[str, Any], call: Call) -> dict[str, Any]:
    """ListFoundationModels."""
    shown = [model.details(bedrock.region) for model in FOUNDATION_MODELS]
    return {
        "modelSummaries": [
            details
            for details in shown
            if params.get("byProvider", "embedded").lower() == "embedded"
            and params.get("byOutputModality") in (None, *details["outputModalities"])
            and params.get("byInferenceType") in (None, *details["inferenceTypesSupported"])
            and params.get("byCustomizationType") in (None, *details["customizationsSupported"])
        ]
    }
