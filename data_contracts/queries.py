"""Labelled queries: the records that the label stage writes and the student learns from."""

from __future__ import annotations

import hashlib
import math
import unicodedata
from typing import Annotated, Any, Final, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from reelroute.weights import MODALITIES, SUM_TOLERANCE, Modality, RoutingWeights, Weight

Difficulty = Literal["easy", "medium", "hard", "edge", "unknown"]
#: The channel that leads a query's weights; `mixed` where several share the largest weight.
LeadingChannel = Literal["visual", "audio", "transcription", "metadata", "mixed"]

LEADING_CHANNELS: Final[tuple[LeadingChannel, ...]] = get_args(LeadingChannel)
DIFFICULTIES: Final[tuple[Difficulty, ...]] = get_args(Difficulty)
#: Difficulty and domain of a query that came without them (own queries from a file).
UNKNOWN: Final = "unknown"
MAX_QUERY_CHARACTERS: Final = 1_000

Domain = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$", max_length=60)]
QueryText = Annotated[str, StringConstraints(min_length=1, max_length=MAX_QUERY_CHARACTERS)]


class Frozen(BaseModel):
    """Base of the contracts: immutable, and no key that the contract doesn't name."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def query_id(query: str) -> str:
    """A query's id: the first 12 hex digits of the SHA-256 of its text."""
    return hashlib.sha256(query.encode()).hexdigest()[:12]


def leading_channel(weights: RoutingWeights) -> LeadingChannel:
    """The modality with the largest weight, or `mixed` where several share it."""
    by_modality = weights.as_dict()
    peak = max(by_modality.values())
    leaders: list[Modality] = [m for m in MODALITIES if by_modality[m] > peak - SUM_TOLERANCE]
    return leaders[0] if len(leaders) == 1 else "mixed"


def query_problem(text: str) -> str | None:
    """Why a text can't be a query, or None."""
    if not text.strip():
        return "empty"
    if len(text) > MAX_QUERY_CHARACTERS:
        return f"{len(text)} characters long, at most {MAX_QUERY_CHARACTERS} are allowed"
    if any(unicodedata.category(character) == "Cc" for character in text):
        return "holds control characters"
    return None


class LabelledQuery(Frozen):
    """A query, its reference weights, and who gave them.

    Attributes:
        id: first 12 hex digits of the SHA-256 of `query`.
        labelled_by: the model id (or the corpus) that wrote weights and reasoning.
        prompt_sha256: the router prompt that it answered, or empty for a label without one.
    """

    id: str
    query: QueryText
    visual: Weight
    audio: Weight
    transcription: Weight
    metadata: Weight
    reasoning: str
    difficulty: Difficulty = "unknown"
    domain: Domain = UNKNOWN
    labelled_by: str = Field(min_length=1)
    prompt_sha256: str = ""

    @model_validator(mode="after")
    def _consistent(self) -> LabelledQuery:
        if self.id != query_id(self.query):
            raise ValueError(f"id {self.id!r} is not the hash of query {self.query[:60]!r}")
        total = math.fsum((self.visual, self.audio, self.transcription, self.metadata))
        if abs(total - 1) > SUM_TOLERANCE:
            raise ValueError(f"the weights of query {self.id} add up to {total:.6g}, not to 1")
        return self

    @classmethod
    def from_weights(cls, query: str, weights: RoutingWeights, **fields: Any) -> LabelledQuery:
        """A labelled query from its weights; `fields` are the others of this class."""
        numbers = weights.as_dict()
        return cls(
            id=query_id(query), query=query, reasoning=weights.reasoning, **numbers, **fields
        )

    @property
    def weights(self) -> RoutingWeights:
        """The reference weights with their reasoning."""
        return RoutingWeights(
            visual=self.visual,
            audio=self.audio,
            transcription=self.transcription,
            metadata=self.metadata,
            reasoning=self.reasoning,
        )

    @property
    def channel(self) -> LeadingChannel:
        """The channel that leads the reference weights."""
        return leading_channel(self.weights)


class UnlabelledQuery(Frozen):
    """A query that the distillation job has its teacher label."""

    query: QueryText
    difficulty: Difficulty = "unknown"
    domain: Domain = UNKNOWN


class QuarantinedQuery(Frozen):
    """A query that could not be labelled, with its reason and the raw answers to it."""

    query: str
    reason: str
    raw: tuple[str, ...] = ()
    labelled_by: str = ""
    difficulty: Difficulty = "unknown"
    domain: str = UNKNOWN
