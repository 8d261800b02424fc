"""The rubric: how close a router's weights are to the reference, in five steps.

All arithmetic is in whole percents, so that the steps' limits are exact. The LLM judge's
score, which also reads the reasoning, is another number and is called `judge`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from reelroute.weights import RoutingWeights

Percents = tuple[int, int, int, int]

#: The five steps by score, from the best to the worst.
STEPS: Final = (5, 4, 3, 2, 1)


@dataclass(frozen=True, slots=True)
class RubricScore:
    """The rubric's verdict on one answer.

    Attributes:
        score: 1 to 5.
        max_error: the largest of the four differences, in percent points.
        mean_error: the mean of the four differences, in percent points.
        dominant: of the channels that share the largest predicted weight, the fraction that
            also have the largest reference weight (0 to 1).
    """

    score: int
    max_error: int
    mean_error: float
    dominant: float


#: What an answer without four weights scores. Its errors are those of a wholly wrong answer.
UNREADABLE: Final = RubricScore(score=1, max_error=100, mean_error=50.0, dominant=0.0)


def percents(weights: RoutingWeights) -> Percents:
    """Each weight in whole percents, rounded half up."""
    visual, audio, transcription, metadata = (
        math.floor(100 * weight + 0.5 + 1e-9) for weight in weights.values()
    )
    return visual, audio, transcription, metadata


def score(predicted: RoutingWeights | None, reference: RoutingWeights) -> RubricScore:
    """The rubric's score of a prediction; `None` stands for an answer that can't be read."""
    if predicted is None:
        return UNREADABLE
    return score_percents(percents(predicted), percents(reference))


def score_percents(predicted: Percents, reference: Percents) -> RubricScore:
    """The rubric over whole percents: the first rule that holds gives the score."""
    errors = [abs(p - t) for p, t in zip(predicted, reference, strict=True)]
    max_error, mean_error = max(errors), sum(errors) / 4
    dominant = dominant_fraction(predicted, reference)
    if mean_error > 30:
        step = 1
    elif max_error <= 5:
        step = 5
    elif max_error <= 10:
        step = 4
    elif dominant >= 0.5 and mean_error < 15:
        step = 3
    else:
        step = 2
    return RubricScore(step, max_error, mean_error, dominant)


def dominant_fraction(predicted: Percents, reference: Percents) -> float:
    """Of the channels with the largest predicted weight, the fraction that lead the reference."""
    leaders = [i for i, p in enumerate(predicted) if p == max(predicted)]
    right = [i for i in leaders if reference[i] == max(reference)]
    return len(right) / len(leaders)
