"""Metrics against numbers worked out by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.settings import ModelPrice
from data_contracts.evaluation import Prediction
from reelroute.rubric import score
from reelroute.weights import MODALITIES, RoutingWeights
from tasks.metrics import bootstrap_interval, candidate_scores, paired_difference
from tests.tasks.reporting import factory

PRICE = ModelPrice(input=1.0, output=10.0, simulated=True)
DICE = {"samples": 200, "seed": 7}


def weights(*percents: int) -> RoutingWeights:
    return RoutingWeights(**dict(zip(MODALITIES, (p / 100 for p in percents), strict=True)))


REFERENCE = weights(50, 20, 20, 10)


def prediction(
    number: int,
    answered: RoutingWeights | None,
    *,
    latency_ms: float = 10.0,
    judge: float | None = None,
    problem: str | None = None,
    domain: str = "news",
    candidate: str = "distilled-student",
) -> Prediction:
    verdict = score(answered, REFERENCE)
    return factory.prediction(
        candidate=candidate,
        query=f"query {number}",
        reference=REFERENCE,
        channel="visual",
        difficulty="easy",
        domain=domain,
        weights=answered,
        problem=problem if answered else "not bare JSON",
        repairs=(),
        latency_ms=latency_ms,
        input_tokens=100,
        output_tokens=20,
        score=verdict.score,
        max_error=verdict.max_error,
        mean_error=verdict.mean_error,
        dominant=verdict.dominant,
        judge=judge,
    )


FOUR = [
    prediction(0, weights(50, 20, 20, 10), latency_ms=10, judge=5.0),  # 5, mean error 0
    prediction(1, weights(60, 15, 15, 10), latency_ms=20, judge=4.0),  # 4, mean error 5
    prediction(2, weights(10, 70, 10, 10), latency_ms=30, problem="fenced", domain="sport"),  # 2
    prediction(3, None, latency_ms=40),  # 1, mean error 50
]


def scores_of(predictions: list[Prediction]):  # type: ignore[no-untyped-def]
    return candidate_scores(
        predictions, name="distilled-student", label="l", model="m", price=PRICE, **DICE
    )


def test_scores_are_what_they_are_by_hand() -> None:
    scores = scores_of(FOUR)
    assert scores.queries == 4
    assert scores.rubric == pytest.approx((5 + 4 + 2 + 1) / 4)
    # Mean errors in points: 0, (10+5+5+0)/4, (40+50+10+0)/4, 50 for an unreadable answer.
    assert scores.mae == pytest.approx((0 + 5 + 25 + 50) / 4 / 100)
    assert scores.dominant_match == pytest.approx((1 + 1 + 0 + 0) / 4)
    assert scores.valid_rate == 0.5
    assert scores.output_format == "inconsistent"
    assert (scores.judge, scores.judged) == (4.5, 2)


def test_channel_errors_are_over_readable_answers_only() -> None:
    errors = scores_of(FOUR).channel_mae
    assert errors["visual"] == pytest.approx((0 + 0.10 + 0.40) / 3)
    assert errors["audio"] == pytest.approx((0 + 0.05 + 0.50) / 3)
    assert errors["metadata"] == pytest.approx(0)


def test_latency_has_mean_and_percentiles() -> None:
    latency = scores_of(FOUR).latency_ms
    assert (latency.mean, latency.p50) == (25, 25)
    assert latency.p95 == pytest.approx(38.5)
    assert latency.p99 == pytest.approx(39.7)


def test_cost_is_per_thousand_queries_at_the_price_lists_prices() -> None:
    scores = scores_of(FOUR)
    assert (scores.input_tokens, scores.output_tokens) == (400, 80)
    # 100 tokens in at $1 and 20 out at $10 per 1,000 are $0.3 a query.
    assert scores.cost_per_1k_usd == pytest.approx(300)
    assert (scores.usd_per_1k_input_tokens, scores.usd_per_1k_output_tokens) == (1, 10)
    assert scores.simulated_cost


def test_slices_cover_all_queries_once_by_each_property() -> None:
    slices = scores_of(FOUR).slices
    by_domain = {s.value: s for s in slices if s.by == "domain"}
    assert by_domain["sport"].rubric == 2
    assert by_domain["news"].rubric == pytest.approx((5 + 4 + 1) / 3)
    for by in ("channel", "difficulty", "domain"):
        assert sum(s.queries for s in slices if s.by == by) == 4


def test_slices_of_own_queries_skip_what_is_unknown() -> None:
    own = [p.model_copy(update={"difficulty": "unknown", "domain": "unknown"}) for p in FOUR]
    assert {s.by for s in scores_of(own).slices} == {"channel"}


def test_all_valid_answers_are_consistent_json() -> None:
    scores = scores_of(FOUR[:2])
    assert (scores.valid_rate, scores.output_format) == (1.0, "consistent JSON")


def test_without_a_readable_answer_there_are_no_channel_errors() -> None:
    scores = scores_of([FOUR[3]])
    assert scores.channel_mae == {}
    assert scores.rubric == 1
    assert scores.judge is None


@given(st.lists(st.integers(1, 5), min_size=1, max_size=50))
def test_the_interval_holds_the_mean_and_stays_within_the_values(values: list[int]) -> None:
    low, high = bootstrap_interval(values, samples=300, seed=1)
    mean = sum(values) / len(values)
    assert min(values) <= low <= high <= max(values)
    spread = max(values) - min(values)
    assert low - spread * 0.2 <= mean <= high + spread * 0.2
    assert bootstrap_interval(values, samples=300, seed=1) == (low, high)


def test_the_interval_narrows_with_more_answers() -> None:
    few = bootstrap_interval([1, 5] * 5, samples=500, seed=1)
    many = bootstrap_interval([1, 5] * 200, samples=500, seed=1)
    assert many[1] - many[0] < few[1] - few[0]


def test_a_paired_difference_is_over_the_queries_that_both_answered() -> None:
    other = [prediction(n, weights(60, 15, 15, 10), candidate="base-student") for n in (3, 1, 0, 9)]
    difference = paired_difference(FOUR, other, **DICE)
    assert (difference.candidate, difference.against) == ("distilled-student", "base-student")
    assert difference.mean == pytest.approx(((5 - 4) + (4 - 4) + (1 - 4)) / 3)
    assert difference.interval[0] <= difference.mean <= difference.interval[1]


def test_a_candidate_differs_from_itself_by_nothing() -> None:
    difference = paired_difference(FOUR, FOUR, **DICE)
    assert (difference.mean, difference.interval) == (0, (0, 0))
