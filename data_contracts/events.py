"""The events that ReelRoute emits to Prefect, which automations react to."""

from __future__ import annotations

from typing import Final

#: Production queries have moved away from the training set; the payload holds the evidence.
DRIFT_DETECTED: Final = "reelroute.drift.detected"
#: The gate has kept a run's model from becoming the release; the payload says why.
GATE_REFUSED: Final = "reelroute.gate.refused"


def environment_resource(environment: str) -> dict[str, str]:
    """The resource that events of an environment are about."""
    return {
        "prefect.resource.id": f"reelroute.environment.{environment}",
        "prefect.resource.name": f"ReelRoute, environment {environment}",
    }
