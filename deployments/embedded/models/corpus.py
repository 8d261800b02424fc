"""The recorded answers of a large language model: CORPUS.md says where they come from."""

from __future__ import annotations

import json
import lzma
from functools import cache
from pathlib import Path
from typing import Final

from data_contracts.queries import LeadingChannel, leading_channel
from reelroute.weights import MODALITIES, RoutingWeights

CORPUS_PATH: Final = Path(__file__).parents[1] / "corpus.jsonl.xz"


class RecordedAnswer:
    """One recorded query with its weights and reasoning, and the cell of the plan it lies in.

    Attributes:
        query: as a person would type it.
        weights: on the 0.05 grid, with the recorded reasoning.
        channel: the channel with the largest weight, `mixed` for a tie.
        difficulty: easy, medium, hard or edge.
        domain: one of 20 content domains or user groups.
    """

    __slots__ = ("channel", "difficulty", "domain", "query", "weights")

    def __init__(self, query: str, weights: RoutingWeights, difficulty: str, domain: str) -> None:
        self.query = query
        self.weights = weights
        self.channel: LeadingChannel = leading_channel(weights)
        self.difficulty = difficulty
        self.domain = domain


@cache
def recorded_answers() -> tuple[RecordedAnswer, ...]:
    """All recorded answers, in the file's order."""
    with lzma.open(CORPUS_PATH, "rt", encoding="utf-8") as lines:
        return tuple(_recorded(json.loads(line)) for line in lines)


def _recorded(row: dict[str, object]) -> RecordedAnswer:
    numbers = {modality: row[modality] for modality in MODALITIES}
    weights = RoutingWeights.model_validate({**numbers, "reasoning": row["reasoning"]})
    return RecordedAnswer(str(row["query"]), weights, str(row["difficulty"]), str(row["domain"]))
