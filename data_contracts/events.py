"""The events that ReelRoute's flows emit and that automations react to, by name."""

DRIFT_DETECTED = "reelroute.drift.detected"
GATE_REFUSED = "reelroute.gate.refused"
