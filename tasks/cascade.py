"""The cascade's threshold: chosen on data, at the least cost for the quality that it can reach."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from configs.settings import ModelPrice
from data_contracts.evaluation import CascadePoint, Prediction

#: The cascade may lie this far below the best rubric that any threshold gives.
SLACK = 0.01
#: Fewer queries than these say nothing of where the threshold should lie.
MIN_QUERIES = 50
#: An expected error that no answer has: nothing is passed on.
NEVER = 1.0
#: Points of the curve that the report shows.
POINTS = 21


def choose_threshold(local: Sequence[Prediction], behind: Sequence[Prediction]) -> float:
    """The threshold that passes the fewest queries on for (almost) the best rubric.

    Args:
        local: the local student's predictions, which carry its expected error.
        behind: the other candidate's, for the same queries.

    Returns:
        the expected error (0 to 0.5) above which a query is passed on; `NEVER` with too few
        queries to choose on.
    """
    if len(local) < MIN_QUERIES:
        return NEVER
    errors, ours, theirs = _paired(local, behind)
    order = np.argsort(-errors, kind="stable")
    gains = np.concatenate([[0.0], np.cumsum((theirs - ours)[order])]) / len(errors)
    passed = int(np.argmax(gains >= gains.max() - SLACK))
    if passed == 0:
        return NEVER
    # Between the last query that is passed on and the first that is not.
    last = errors[order[passed - 1]]
    rest = errors[order[passed]] if passed < len(errors) else 0.0
    return float((last + rest) / 2)


def cascade_curve(
    local: Sequence[Prediction], behind: Sequence[Prediction], price: ModelPrice
) -> tuple[CascadePoint, ...]:
    """Quality, latency and cost over the share of queries that is passed on."""
    errors, ours, theirs = _paired(local, behind)
    other = {prediction.id: prediction for prediction in behind}
    order = np.argsort(-errors, kind="stable")
    points = []
    for share in np.linspace(0.0, 1.0, POINTS):
        passed = set(order[: round(share * len(errors))].tolist())
        latency, usd, score = 0.0, 0.0, 0.0
        for position, prediction in enumerate(local):
            latency += prediction.latency_ms
            score += theirs[position] if position in passed else ours[position]
            if position in passed:
                second = other[prediction.id]
                latency += second.latency_ms
                usd += price.usd(second.input_tokens, second.output_tokens)
        threshold = errors[order[len(passed)]] if len(passed) < len(errors) else 0.0
        points.append(
            CascadePoint(
                pass_on_above=float(threshold),
                share=len(passed) / len(errors),
                rubric=score / len(errors),
                mean_latency_ms=latency / len(errors),
                cost_per_1k_usd=usd / len(errors) * 1000,
            )
        )
    return tuple(points)


def _paired(
    local: Sequence[Prediction], behind: Sequence[Prediction]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    other = {prediction.id: prediction.score for prediction in behind}
    errors = np.asarray([p.expected_error or 0.0 for p in local])
    ours = np.asarray([float(p.score) for p in local])
    theirs = np.asarray([float(other[p.id]) for p in local])
    return errors, ours, theirs
