"""GetFoundationModel and ListFoundationModels."""

from __future__ import annotations

from typing import Any

from deployments.embedded.bedrock.errors import not_found
from deployments.embedded.bedrock.state import Bedrock
from deployments.embedded.calls import Call
from deployments.embedded.models.catalogue import FOUNDATION_MODELS, foundation_model


def get_foundation_model(bedrock: Bedrock, params: dict[str, Any], call: Call) -> dict[str, Any]:
    """GetFoundationModel."""
    model = foundation_model(params["modelIdentifier"])
    if model is None:
        offered = ", ".join(offer.model_id for offer in FOUNDATION_MODELS)
        raise not_found(
            f"Could not resolve the foundation model from {params['modelIdentifier']!r}; "
            f"the embedded AWS offers {offered}."
        )
    return {"modelDetails": model.details(bedrock.region)}


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
