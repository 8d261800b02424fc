"""Drift: how far a window's histograms lie from a reference's. Pure arithmetic.

The population stability index of shares p and q over the same bins is sum((p - q) ln(p / q)), 0
for equal shares; by convention 0.1 is a moderate and 0.25 a large change. Of two samples of the
same population it is not 0 either: it follows (1/n + 1/m) times chi-square with bins - 1 degrees
of freedom (Yurdakul and Naranjo, Statistical Properties of the Population Stability Index,
2020). What chance alone would reach is no drift, whatever the profile's threshold.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from statistics import NormalDist
from typing import Final

from configs.settings import MonitorSettings
from data_contracts.monitoring import Aggregate, Comparison, Histogram, Reference
from reelroute.weights import MODALITIES

#: One comparison in so many may call chance drift.
_CHANCE: Final = 1e-5
#: Added to every bin, in queries: a bin that one side doesn't have is rare, not impossible.
_SMOOTHING: Final = 0.5

#: Histograms over queries whose index is taken, with the threshold's name in the profile.
PSI_MEASURES: Final[dict[str, str]] = {
    "channel": "channel",
    "visual": "weights",
    "audio": "weights",
    "transcription": "weights",
    "metadata": "weights",
    "words": "words",
    "script": "language",
    "language": "language",
    "expected_error": "confidence",
    "confidence": "confidence",
}
#: Histograms whose one bin is watched, as a share of all.
SHARE_MEASURES: Final[dict[str, str]] = {
    "fallback": "fallback",
    "vocabulary": "new",
    "refused": "refused",
}
#: The bins of weights from 0.4 on.
LARGE_WEIGHTS: Final = frozenset({"0.40 to 0.60", "0.60 to 0.80", "0.80 and more"})
#: A bin of latency is so much slower than the one before.
LATENCY_STEP: Final = 1.1


def population_stability_index(now: Mapping[str, int], then: Mapping[str, int]) -> float:
    """The index of two histograms, at least 0; both must hold something."""
    bins = sorted({*now, *then})
    here = [now.get(name, 0) + _SMOOTHING for name in bins]
    there = [then.get(name, 0) + _SMOOTHING for name in bins]
    all_here, all_there = math.fsum(here), math.fsum(there)
    pairs = ((a / all_here, b / all_there) for a, b in zip(here, there, strict=True))
    return math.fsum((p - q) * math.log(p / q) for p, q in pairs)


def chance_index(bins: int, n: int, m: int) -> float:
    """What the index of two samples of one population stays below, but for `_CHANCE`.

    Args:
        bins: of the histograms.
        n, m: the samples' sizes.
    """
    free = max(bins - 1, 1)
    # Chi-square's quantile by Wilson and Hilferty's cube.
    spread = 2 / (9 * free)
    quantile = free * (1 - spread + NormalDist().inv_cdf(1 - _CHANCE) * math.sqrt(spread)) ** 3
    return quantile * (1 / n + 1 / m)


def chance_difference(share: float, n: int, m: int) -> float:
    """What two samples' shares differ by at most, but for `_CHANCE`."""
    return NormalDist().inv_cdf(1 - _CHANCE) * math.sqrt(share * (1 - share) * (1 / n + 1 / m))


def large_weights(weights: Mapping[str, int]) -> Histogram:
    """A histogram of weights in two bins: how often the channel gets a large one.

    A student's answers lie nearer to the middle than the labels that it learned from: over the
    finer bins their index to the labels is 0.2 to 0.4 without any change of the queries, over
    these two it is 0.01.
    """
    large = sum(count for name, count in weights.items() if name in LARGE_WEIGHTS)
    small = sum(weights.values()) - large
    return {"under 0.40": small, "0.40 and more": large} if weights else {}


def percentile(latency: Mapping[str, int], share: float) -> float:
    """A percentile of a latency histogram in milliseconds: the upper end of its bin."""
    rank = share * sum(latency.values())
    seen = 0
    for step in sorted(map(int, latency)):
        seen += latency[str(step)]
        if seen >= rank:
            return float(LATENCY_STEP ** (step + 1))
    raise ValueError("no percentile of an empty histogram")


def compare(
    settings: MonitorSettings, window: Aggregate, reference: Aggregate, name: Reference
) -> Iterator[Comparison]:
    """Every measure of the window beside the reference's, where both know it.

    A training set knows no latency, no fallbacks and no confidence.
    """
    limits = settings.thresholds
    for measure, limit in PSI_MEASURES.items():
        now, then = window.histogram(measure), reference.histogram(measure)
        if name == "training" and measure in MODALITIES:
            now, then = large_weights(now), large_weights(then)
        if now and then:
            yield _index(settings, measure, now, then, name, getattr(limits, limit))
    for measure, watched in SHARE_MEASURES.items():
        now, then = window.histogram(measure), reference.histogram(measure)
        if now and then:
            yield _share(settings, measure, watched, now, then, name)
    now, then = window.histogram("latency"), reference.histogram("latency")
    if now and then:
        yield _latency(settings, now, then, name)


def _index(
    settings: MonitorSettings,
    measure: str,
    now: Histogram,
    then: Histogram,
    name: Reference,
    limit: float,
) -> Comparison:
    n, m = sum(now.values()), sum(then.values())
    enough = min(n, m) >= settings.min_queries
    moved = max({*now, *then}, key=lambda b: (abs(now.get(b, 0) / n - then.get(b, 0) / m), b))
    return Comparison(
        measure=measure,
        reference=name,
        kind="psi",
        value=population_stability_index(now, then) if enough else None,
        threshold=max(limit, chance_index(len({*now, *then}), n, m)),
        queries=(n, m),
        evidence=f"{moved}: {then.get(moved, 0) / m:.1%} → {now.get(moved, 0) / n:.1%}",
    )


def _share(
    settings: MonitorSettings,
    measure: str,
    watched: str,
    now: Histogram,
    then: Histogram,
    name: Reference,
) -> Comparison:
    n, m = sum(now.values()), sum(then.values())
    here, there = now.get(watched, 0) / n, then.get(watched, 0) / m
    pooled = (now.get(watched, 0) + then.get(watched, 0)) / (n + m)
    limit: float = getattr(settings.thresholds, measure)
    return Comparison(
        measure=measure,
        reference=name,
        kind="share",
        value=here - there if min(n, m) >= settings.min_queries else None,
        threshold=max(limit, chance_difference(pooled, n, m)),
        queries=(n, m),
        evidence=f"{watched}: {there:.1%} → {here:.1%}",
    )


def _latency(
    settings: MonitorSettings, now: Histogram, then: Histogram, name: Reference
) -> Comparison:
    n, m = sum(now.values()), sum(then.values())
    here, there = percentile(now, 0.95), percentile(then, 0.95)
    return Comparison(
        measure="latency",
        reference=name,
        kind="ratio",
        value=here / there if min(n, m) >= settings.min_queries else None,
        threshold=settings.thresholds.latency,
        queries=(n, m),
        evidence=f"p95 {there:.3g} → {here:.3g} ms",
    )
