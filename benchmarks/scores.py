"""How good answers are, and how well a router knows how good they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from benchmarks.worker import Answered
from reelroute.rubric import RubricScore, score
from reelroute.student.rows import LabelledRow
from reelroute.weights import MODALITIES, RoutingWeights
from tasks.metrics import bootstrap_interval

SAMPLES: Final = 2_000
SEED: Final = 0
_PARTS: Final = 5


@dataclass(frozen=True, slots=True)
class Quality:
    """A candidate's answers against the reference.

    Attributes:
        rubric: mean rubric score, 1 to 5.
        interval: its bootstrap 95% interval.
        mae: mean absolute error of a weight, 0 to 1.
        dominant_match: share of answers with the right leading channel.
    """

    rubric: float
    interval: tuple[float, float]
    mae: float
    dominant_match: float


@dataclass(frozen=True, slots=True)
class Part:
    """A fifth of the queries by the error that the router expected of its answers.

    Attributes:
        queries: how many.
        expected_error: mean of what was expected of a weight, 0 to 1.
        real_error: mean of what it was.
        rubric: mean rubric score.
    """

    queries: int
    expected_error: float
    real_error: float
    rubric: float


@dataclass(frozen=True, slots=True)
class Calibration:
    """Expected against real errors: by fifths, the surest first, and their correlation."""

    parts: tuple[Part, ...]
    correlation: float


def scores(answers: Sequence[Answered], reference: Sequence[LabelledRow]) -> list[RubricScore]:
    """The rubric's verdict on each answer."""
    return [
        score(_weights(answer.weights), _weights(row.weights))
        for answer, row in zip(answers, reference, strict=True)
    ]


def quality(verdicts: Sequence[RubricScore]) -> Quality:
    """The means over all queries, at least one."""
    rubrics = [float(verdict.score) for verdict in verdicts]
    return Quality(
        rubric=float(np.mean(rubrics)),
        interval=bootstrap_interval(rubrics, samples=SAMPLES, seed=SEED),
        mae=float(np.mean([verdict.mean_error for verdict in verdicts])) / 100,
        dominant_match=float(np.mean([verdict.dominant for verdict in verdicts])),
    )


def calibration(answers: Sequence[Answered], verdicts: Sequence[RubricScore]) -> Calibration | None:
    """How expected and real errors agree; None for a router that expects none."""
    expected = np.array(
        [a.expected_error for a in answers if a.expected_error is not None], dtype=np.float64
    )
    if len(expected) < len(answers) or len(expected) < _PARTS:
        return None
    real = np.array([verdict.mean_error for verdict in verdicts]) / 100
    rubrics = np.array([verdict.score for verdict in verdicts])
    parts = tuple(
        Part(
            queries=len(rows),
            expected_error=float(expected[rows].mean()),
            real_error=float(real[rows].mean()),
            rubric=float(rubrics[rows].mean()),
        )
        for rows in np.array_split(np.argsort(expected, kind="stable"), _PARTS)
    )
    varies = expected.std() > 0 and real.std() > 0
    return Calibration(parts, float(np.corrcoef(expected, real)[0, 1]) if varies else 0.0)


def _weights(numbers: Sequence[float]) -> RoutingWeights:
    return RoutingWeights.normalised(dict(zip(MODALITIES, numbers, strict=True)))
