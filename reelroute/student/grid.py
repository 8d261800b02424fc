"""The label grid: answering with the vector that the rubric can be expected to like best.

Labels are multiples of 0.05 that add up to 1, and the rubric is a step function of the distance
on that grid. So the student predicts a distribution over the label vectors of its training
rows, and answers with the vector of the largest *expected* rubric score under it, instead of
rounding the mean: minimum-Bayes-risk decoding (Bickel and Doksum, Mathematical Statistics,
1977; Kumar and Byrne, HLT-NAACL 2004), here with the rubric as the gain.

Vectors are counted in steps of 0.05: int64 arrays of shape (n, 4) whose rows add up to 20, the
columns in the order of `MODALITIES`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from reelroute.student.errors import StudentError
from reelroute.weights import GRID_STEP, MODALITIES, round_to_grid

Steps = NDArray[np.int64]
Floats = NDArray[np.float32]

#: Steps of the grid from 0 to 1, and the values that one channel can take (0, 0.05, ..., 1).
STEPS: Final = round(1 / GRID_STEP)
LEVELS: Final = STEPS + 1
#: The student's outputs: one logit for each channel and value.
OUTPUTS: Final = len(MODALITIES) * LEVELS
#: Answers are chosen among so many vectors, the most frequent ones: the rest would win hardly ever
#: and take most of the time.
ANSWERS: Final = 256

# The rubric's limits (reelroute.rubric, in whole percents) in steps of 5 percents.
_FIVE, _FOUR = 1, 2
_THREE_BELOW_TOTAL = 15 * 4 // 5
_ONE_ABOVE_TOTAL = 30 * 4 // 5


def to_steps(weights: NDArray[np.float64]) -> Steps:
    """Weights of shape (n, 4) rounded to the grid (largest remainder), in steps."""
    return np.array(
        [[round(share * STEPS) for share in round_to_grid(row).values()] for row in weights],
        dtype=np.int64,
    ).reshape(-1, len(MODALITIES))


def _differences(predicted: Steps, reference: Steps) -> Iterator[NDArray[np.int16]]:
    """The absolute differences of each pair, channel by channel: four of shape (p, r).

    Small integers and no array of shape (p, r, 4): a decoder must be loaded in milliseconds.
    """
    ours, theirs = predicted.astype(np.int16), reference.astype(np.int16)
    for channel in range(len(MODALITIES)):
        yield np.abs(ours[:, channel, None] - theirs[None, :, channel])


def total_steps(predicted: Steps, reference: Steps) -> NDArray[np.int16]:
    """Sum of the four absolute differences of each pair, in steps, 0 to 40: shape (p, r)."""
    first, *others = _differences(predicted, reference)
    for other in others:
        first += other
    return first


def dominant_matrix(predicted: Steps, reference: Steps) -> Floats:
    """Of each prediction's leading channels, the fraction that also lead the reference: (p, r)."""
    leads = predicted == predicted.max(axis=1, keepdims=True)
    right = reference == reference.max(axis=1, keepdims=True)
    each = (leads / leads.sum(axis=1, keepdims=True)).astype(np.float32)
    shares: Floats = each @ right.T.astype(np.float32)
    return shares


def rubric_matrix(predicted: Steps, reference: Steps) -> NDArray[np.int8]:
    """The rubric's score, 1 to 5, of each prediction against each reference: shape (p, r).

    The same rules as `reelroute.rubric.score_percents`, for vectors on the grid.
    """
    largest, *others = _differences(predicted, reference)
    for other in others:
        np.maximum(largest, other, out=largest)
    total = total_steps(predicted, reference)
    score = np.full(total.shape, 2, dtype=np.int8)
    leads = dominant_matrix(predicted, reference) >= 0.5 - 1e-6
    score[leads & (total < _THREE_BELOW_TOTAL)] = 3
    score[largest <= _FOUR] = 4
    score[largest <= _FIVE] = 5
    score[total > _ONE_ABOVE_TOTAL] = 1
    return score


def indicator(vectors: Steps) -> Floats:
    """Which outputs make up each vector: shape (`OUTPUTS`, n), four ones in each column."""
    marks = np.zeros((OUTPUTS, len(vectors)), dtype=np.float32)
    for channel in range(len(MODALITIES)):
        marks[channel * LEVELS + vectors[:, channel], np.arange(len(vectors))] = 1.0
    return marks


@dataclass(frozen=True, slots=True)
class Decoded:
    """Answers to n queries.

    Attributes:
        steps: the chosen vectors, (n, 4).
        expected_rubric: the expected rubric score of each answer, 1 to 5, (n,).
        expected_error: the expected mean absolute error of a weight, 0 to 0.5, (n,).
    """

    steps: Steps
    expected_rubric: Floats
    expected_error: Floats


@dataclass(frozen=True, slots=True)
class Line:
    """A straight line, by which an expectation of the student's is corrected."""

    intercept: float = 0.0
    slope: float = 1.0

    def __call__(self, values: Floats) -> Floats:
        """The line at each of the values."""
        return np.asarray(self.intercept + self.slope * values, dtype=np.float32)


IDENTITY: Final = Line()


class Decoder:
    """From the student's outputs to vectors of the grid.

    The log-probability of a vector is the sum of its four outputs and its log prior, divided by
    the temperature, up to a constant.

    Args:
        vectors: the label vectors that can be predicted, (n, 4), without duplicates.
        log_prior: each vector's log frequency among the training labels, (n,).
        temperature: above 1 where the raw distribution is too sure of itself.
        rubric_line: corrects the expected rubric score, which is too hopeful: it is that of the
            vector chosen for it.
        error_line: corrects the expected error, for the same reason.
        language_error: what an unknown language adds to it.

    Raises:
        StudentError: the vectors are not on the grid, or shapes don't fit.
    """

    def __init__(
        self,
        vectors: Steps,
        log_prior: Floats,
        temperature: float,
        rubric_line: Line = IDENTITY,
        error_line: Line = IDENTITY,
        language_error: float = 0.0,
    ) -> None:
        if (
            vectors.ndim != 2
            or vectors.shape[1:] != (len(MODALITIES),)
            or len(vectors) == 0
            or (vectors < 0).any()
            or (vectors.sum(axis=1) != STEPS).any()
        ):
            raise StudentError(f"label vectors must be four steps that add up to {STEPS}")
        if log_prior.shape != (len(vectors),) or not np.isfinite(log_prior).all():
            raise StudentError("every label vector needs one finite log prior")
        if not (np.isfinite(temperature) and temperature > 0):
            raise StudentError(f"the temperature must be a positive number, not {temperature}")
        self.vectors = vectors
        self.log_prior = log_prior.astype(np.float32)
        self.temperature = temperature
        self.rubric_line, self.error_line = rubric_line, error_line
        self.language_error = language_error
        self._columns = [channel * LEVELS + vectors[:, channel] for channel in range(4)]
        self._answers = vectors[np.argsort(-log_prior, kind="stable")[:ANSWERS]]
        self._gain = rubric_matrix(self._answers, vectors).T.astype(np.float32)
        self._error = (total_steps(self._answers, vectors) * (GRID_STEP / 4)).astype(np.float32)

    @classmethod
    def of_labels(cls, labels: Steps) -> Decoder:
        """The decoder, of temperature 1, of the vectors among labels of shape (n, 4)."""
        vectors, counts = np.unique(labels, axis=0, return_counts=True)
        return cls(vectors, np.log(counts / counts.sum()).astype(np.float32), 1.0)

    def calibrated(
        self,
        temperature: float,
        rubric_line: Line = IDENTITY,
        error_line: Line = IDENTITY,
        language_error: float = 0.0,
    ) -> Decoder:
        """The same vectors and priors, calibrated anew."""
        return Decoder(
            self.vectors, self.log_prior, temperature, rubric_line, error_line, language_error
        )

    def probabilities(self, outputs: Floats) -> Floats:
        """The distribution over the vectors, (n, vectors), from outputs of shape (n, OUTPUTS)."""
        logits = self.log_prior + sum(outputs[:, columns] for columns in self._columns)
        logits = (logits - logits.max(axis=1, keepdims=True)) / np.float32(self.temperature)
        shares = np.exp(logits)
        return np.asarray(shares / shares.sum(axis=1, keepdims=True), dtype=np.float32)

    def mean(self, outputs: Floats) -> NDArray[np.float64]:
        """The distribution's mean weights, (n, 4), for outputs of shape (n, OUTPUTS)."""
        shares = self.probabilities(outputs).astype(np.float64)
        mean: NDArray[np.float64] = shares @ (self.vectors * GRID_STEP)
        return mean

    def decode(self, outputs: Floats, unknown_language: Floats | None = None) -> Decoded:
        """The answers of the largest expected rubric score.

        Args:
            outputs: the network's, (n, OUTPUTS).
            unknown_language: how likely each query's language is an unknown one, (n,); it raises
                the expected error alone.
        """
        shares = self.probabilities(outputs)
        # Not a matrix product: numpy's would wake threads for it, which cost far more than the
        # tenth of a millisecond that this takes.
        gain = np.einsum("nv,vc->nc", shares, self._gain)
        chosen = gain.argmax(axis=1)
        rubric = self.rubric_line(gain[np.arange(len(chosen)), chosen])
        error = self.error_line(np.einsum("nv,nv->n", shares, self._error[chosen]))
        if unknown_language is not None:
            error = error + self.language_error * unknown_language
        return Decoded(
            steps=self._answers[chosen],
            expected_rubric=rubric.clip(1, 5),
            expected_error=error.clip(0, 0.5),
        )
