"""The nearest recorded answers to a query, by the cosine of static embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from deployments.embedded.models.corpus import RecordedAnswer
from deployments.embedded.models.embeddings import Matrix, StaticEmbeddings
from reelroute.weights import Modality, round_to_grid

#: Cosines are raised to this power before they weigh, so that the nearest count most.
_SHARPNESS = 8


@dataclass(frozen=True, slots=True)
class NearestAnswer:
    """The weighted mean of the nearest answers (on the grid), and the nearest of them."""

    weights: dict[Modality, float]
    nearest: RecordedAnswer


class NearestAnswers:
    """A memory of recorded answers that is searched by meaning."""

    def __init__(self, memory: Sequence[RecordedAnswer], embeddings: StaticEmbeddings) -> None:
        """Embed the memory.

        Args:
            memory: at least one recorded answer.
            embeddings: turns the query into a vector.
        """
        self._memory = memory
        self._embeddings = embeddings
        vectors = embeddings.embed_all([answer.query for answer in memory])
        # What all queries share says nothing about which of them is near.
        self._centre: Matrix = vectors.mean(axis=0)
        self._vectors: Matrix = _unit_rows(vectors - self._centre)
        self._weights = np.array([answer.weights.values() for answer in memory])

    def find(self, query: str, neighbours: int) -> NearestAnswer:
        """The mean of the `neighbours` nearest answers, weighted by cosine."""
        vector = self._embeddings.embed(query) - self._centre
        vector /= max(float(np.sqrt(vector @ vector)), 1e-9)
        cosines = self._vectors @ vector
        count = min(neighbours, len(cosines))
        nearest = np.argpartition(-cosines, count - 1)[:count]
        nearest = nearest[np.argsort(-cosines[nearest], kind="stable")]
        shares = np.maximum(cosines[nearest], 1e-3).astype(np.float64) ** _SHARPNESS
        mean = shares @ self._weights[nearest] / shares.sum()
        return NearestAnswer(round_to_grid(mean.tolist()), self._memory[int(nearest[0])])


def _unit_rows(matrix: Matrix) -> Matrix:
    lengths = np.sqrt((matrix * matrix).sum(axis=1, keepdims=True))
    rows: Matrix = matrix / np.maximum(lengths, np.float32(1e-9))
    return rows
