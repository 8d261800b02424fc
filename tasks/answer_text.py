"""The answer that a student learns to give."""

from __future__ import annotations

import json

from reelroute.rubric import percents
from reelroute.weights import MODALITIES, RoutingWeights


def answer_text(weights: RoutingWeights) -> str:
    """Weights and reasoning as the bare JSON that the router prompt asks for."""
    numbers = zip(MODALITIES, (p / 100 for p in percents(weights)), strict=True)
    return json.dumps({**dict(numbers), "reasoning": weights.reasoning}, ensure_ascii=False)
