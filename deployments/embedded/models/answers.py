"""How the embedded models write an answer down."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Protocol

from reelroute.weights import MODALITIES, Modality, RoutingWeights


class RoutingModel(Protocol):
    """A model that answers a text with a text."""

    def answer(self, text: str) -> str:
        """What the model says to the first user turn of a conversation."""
        ...


def bare_json(weights: Mapping[Modality, float], reasoning: str) -> str:
    """The answer that the router prompt asks for: one JSON object and nothing around it."""
    return json.dumps(
        {**{modality: weights[modality] for modality in MODALITIES}, "reasoning": reasoning},
        ensure_ascii=False,
    )


def bare_json_of(weights: RoutingWeights) -> str:
    """`bare_json` of routing weights with their reasoning."""
    return bare_json(weights.as_dict(), weights.reasoning)


def fenced(answer: str) -> str:
    """The answer in a Markdown code fence."""
    return f"```json\n{answer}\n```"


def fraction_of(text: str, salt: str) -> float:
    """A number in [0, 1) that the text alone decides; `salt` tells independent uses apart."""
    digest = hashlib.sha256(f"{salt}:{text}".encode()).digest()
    return int.from_bytes(digest[:8]) / 2**64
