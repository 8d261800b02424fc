"""Scores from predictions: pure arithmetic over what candidates answered."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from configs.settings import ModelPrice
from data_contracts.evaluation import (
    CandidateScores,
    Latency,
    PairedDifference,
    Prediction,
    SliceScore,
)
from reelroute.weights import MODALITIES

_SLICES: dict[Literal["channel", "difficulty", "domain"], Callable[[Prediction], str]] = {
    "channel": lambda prediction: prediction.channel,
    "difficulty": lambda prediction: prediction.difficulty,
    "domain": lambda prediction: prediction.domain,
}


def bootstrap_interval(values: Sequence[float], *, samples: int, seed: int) -> tuple[float, float]:
    """Percentile bootstrap: the 95% interval of the mean.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap, chapter 13.
    """
    numbers: NDArray[np.float64] = np.asarray(values, dtype=float)
    draws = np.random.default_rng(seed).integers(0, len(numbers), (samples, len(numbers)))
    low, high = np.percentile(numbers[draws].mean(axis=1), [2.5, 97.5])
    return float(low), float(high)


def candidate_scores(
    predictions: Sequence[Prediction],
    *,
    name: str,
    label: str,
    model: str,
    price: ModelPrice,
    samples: int,
    seed: int,
) -> CandidateScores:
    """What a candidate reached over one reading of the held-out queries (not empty)."""
    count = len(predictions)
    latencies = np.asarray([prediction.latency_ms for prediction in predictions])
    p50, p95, p99 = (float(p) for p in np.percentile(latencies, [50, 95, 99]))
    judged = [p.judge for p in predictions if p.judge is not None]
    readable = [(p.weights, p.reference) for p in predictions if p.weights is not None]
    input_tokens = sum(p.input_tokens for p in predictions)
    output_tokens = sum(p.output_tokens for p in predictions)
    valid = sum(p.valid for p in predictions)
    return CandidateScores(
        name=name,
        label=label,
        model=model,
        queries=count,
        rubric=_mean([p.score for p in predictions]),
        rubric_interval=bootstrap_interval(
            [p.score for p in predictions], samples=samples, seed=seed
        ),
        judge=_mean(judged) if judged else None,
        judged=len(judged),
        judge_failures=dict(Counter(p.judge_problem for p in predictions if p.judge_problem)),
        mae=_mean([p.mean_error for p in predictions]) / 100,
        channel_mae={
            m: _mean([abs(w.as_dict()[m] - r.as_dict()[m]) for w, r in readable])
            for m in MODALITIES
            if readable
        },
        dominant_match=_mean([p.dominant for p in predictions]),
        valid_rate=valid / count,
        output_format="consistent JSON" if valid == count else "inconsistent",
        latency_ms=Latency(mean=float(latencies.mean()), p50=p50, p95=p95, p99=p99),
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        usd_per_1k_input_tokens=price.input,
        usd_per_1k_output_tokens=price.output,
        cost_per_1k_usd=price.usd(input_tokens, output_tokens) / count * 1000,
        simulated_cost=price.simulated,
        slices=_slices(predictions),
    )


def paired_difference(
    candidate: Sequence[Prediction], against: Sequence[Prediction], *, samples: int, seed: int
) -> PairedDifference:
    """Bootstrap of the difference of two candidates' rubric over the same queries."""
    other = {prediction.id: prediction.score for prediction in against}
    differences = [p.score - other[p.id] for p in candidate if p.id in other]
    return PairedDifference(
        candidate=candidate[0].candidate,
        against=against[0].candidate,
        mean=_mean(differences),
        interval=bootstrap_interval(differences, samples=samples, seed=seed),
    )


def _slices(predictions: Sequence[Prediction]) -> tuple[SliceScore, ...]:
    slices = []
    for by, key in _SLICES.items():
        groups: defaultdict[str, list[Prediction]] = defaultdict(list)
        for prediction in predictions:
            groups[key(prediction)].append(prediction)
        if by != "channel" and set(groups) == {"unknown"}:
            continue
        slices += [
            SliceScore(
                by=by,
                value=value,
                queries=len(group),
                rubric=_mean([p.score for p in group]),
                mae=_mean([p.mean_error for p in group]) / 100,
            )
            for value, group in sorted(groups.items())
        ]
    return tuple(slices)


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(np.asarray(values, dtype=float)))
