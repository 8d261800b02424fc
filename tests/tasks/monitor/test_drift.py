"""Drift: the index, what chance alone reaches, and measures beside each other."""

from __future__ import annotations

import math
import random
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.settings import MonitorSettings
from data_contracts.monitoring import Aggregate, Comparison
from tasks.monitor.drift import (
    LATENCY_STEP,
    chance_difference,
    chance_index,
    compare,
    percentile,
    population_stability_index,
)

SETTINGS = MonitorSettings()
counts = st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 10_000), min_size=1)


def only(**histograms: dict[str, int]) -> Aggregate:
    return Aggregate(histograms=histograms)


def compared(now: Aggregate, then: Aggregate, **settings: Any) -> dict[str, Comparison]:
    found = compare(MonitorSettings(**settings), now, then, "before")
    return {comparison.measure: comparison for comparison in found}


def test_the_index_is_the_sum_of_share_differences_by_their_log_ratio() -> None:
    index = population_stability_index({"a": 700_000, "b": 300_000}, {"a": 500_000, "b": 500_000})
    expected = 0.2 * math.log(0.7 / 0.5) - 0.2 * math.log(0.3 / 0.5)
    assert index == pytest.approx(expected, rel=1e-4)


@given(counts, counts)
def test_the_index_is_never_negative_and_the_same_from_both_sides(
    one: dict[str, int], other: dict[str, int]
) -> None:
    index = population_stability_index(one, other)
    assert index >= -1e-12
    assert index == pytest.approx(population_stability_index(other, one))
    assert population_stability_index(one, one) == pytest.approx(0)


def test_a_bin_that_only_one_side_has_gives_a_finite_index() -> None:
    assert 1 < population_stability_index({"a": 1000}, {"b": 1000}) < 30


@pytest.mark.parametrize(("bins", "n"), [(2, 1000), (4, 1000), (10, 5000)])
def test_two_samples_of_one_population_stay_below_what_chance_reaches(bins: int, n: int) -> None:
    draw = random.Random(bins)
    weights = [1 + place for place in range(bins)]

    def sample() -> Counter[str]:
        return Counter(map(str, draw.choices(range(bins), weights, k=n)))

    limit = chance_index(bins, n, n)
    indexes = [population_stability_index(sample(), sample()) for _ in range(100)]
    assert max(indexes) < limit
    # … and the limit is not beyond all that happens.
    assert limit < 25 * sum(indexes) / len(indexes)


def test_chi_squares_quantile_is_the_tables() -> None:
    # With 3 degrees of freedom 25.90 at 1 - 1e-5; so far out the cube is a little above.
    assert chance_index(4, 2, 2) == pytest.approx(25.90, rel=0.06)


def test_a_difference_of_shares_by_chance_falls_with_the_samples() -> None:
    assert chance_difference(0.5, 100, 100) > chance_difference(0.5, 10_000, 10_000) > 0
    assert chance_difference(0, 10, 10) == 0


def test_a_percentile_of_a_histogram_is_within_a_step_of_the_samples() -> None:
    draw = random.Random(3)
    samples = sorted(draw.lognormvariate(1, 0.5) for _ in range(5000))
    bins = Counter(str(math.floor(math.log(ms) / math.log(LATENCY_STEP))) for ms in samples)
    exact = samples[int(0.95 * 5000)]
    assert exact / LATENCY_STEP <= percentile(bins, 0.95) <= exact * LATENCY_STEP


def test_a_changed_mix_is_drift_and_says_what_moved() -> None:
    now, then = (
        only(channel={"visual": 9000, "audio": 1000}),
        only(channel={"visual": 5000, "audio": 5000}),
    )
    found = compared(now, then)["channel"]
    assert found.drifted
    assert found.name == "channel/before"
    assert found.evidence == "visual: 50.0% → 90.0%"


def test_an_unchanged_mix_is_none() -> None:
    mix = only(channel={"visual": 5000, "audio": 5000})
    found = compared(mix, mix)["channel"]
    assert not found.drifted
    assert found.value == pytest.approx(0)


def test_too_few_queries_on_either_side_are_not_compared() -> None:
    few, many = only(channel={"visual": 499}), only(channel={"audio": 5000})
    for now, then in ((few, many), (many, few)):
        found = compared(now, then)["channel"]
        assert found.value is None
        assert not found.drifted
    assert compared(few, many, min_queries=499)["channel"].drifted


def test_what_a_side_does_not_know_is_not_compared() -> None:
    now = only(channel={"visual": 5000}, latency={"7": 5000}, fallback={"own": 5000})
    assert set(compared(now, only(channel={"visual": 5000}))) == {"channel"}


def test_more_fallbacks_are_drift_and_fewer_are_not() -> None:
    many, few = only(fallback={"fallback": 500, "own": 4500}), only(fallback={"own": 5000})
    assert compared(many, few)["fallback"].drifted
    assert not compared(few, many)["fallback"].drifted


def test_a_slower_service_is_drift() -> None:
    slow, fast = only(latency={"20": 5000}), only(latency={"10": 5000})
    found = compared(slow, fast)["latency"]
    assert found.value == pytest.approx(LATENCY_STEP**10)
    assert found.drifted
    assert not compared(fast, slow)["latency"].drifted


def test_in_small_samples_chance_raises_the_threshold() -> None:
    settings = {"min_queries": 100}
    mix = {"visual": 55, "audio": 45, "transcription": 50, "metadata": 50}
    few = compared(only(channel=mix), only(channel=mix), **settings)["channel"]
    many = compared(
        only(channel={name: 1000 * n for name, n in mix.items()}),
        only(channel={name: 1000 * n for name, n in mix.items()}),
        **settings,
    )["channel"]
    assert few.threshold > many.threshold == SETTINGS.thresholds.channel


def test_beside_labels_only_large_weights_are_told_apart_from_small_ones() -> None:
    labels = only(visual={"under 0.05": 4000, "0.80 and more": 1000})
    answers = only(visual={"0.05 to 0.20": 4000, "0.60 to 0.80": 1000})
    (beside_labels,) = compare(SETTINGS, answers, labels, "training")
    (beside_answers,) = compare(SETTINGS, answers, labels, "before")
    assert beside_labels.value == pytest.approx(0)
    assert beside_answers.drifted
