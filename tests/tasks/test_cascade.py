"""The cascade's threshold: as few queries passed on as the best quality needs."""

from __future__ import annotations

import pytest

from configs.settings import ModelPrice
from data_contracts.evaluation import Prediction
from tasks.cascade import MIN_QUERIES, NEVER, cascade_curve, choose_threshold
from tests.tasks.reporting import factory

PRICE = ModelPrice(input=1.0, output=1.0)


def predictions(
    name: str, scores: list[int], errors: list[float] | None = None
) -> list[Prediction]:
    base = factory.prediction()
    return [
        base.model_copy(
            update={
                "candidate": name,
                "id": str(n),
                "score": score,
                "expected_error": errors[n] if errors else None,
                "latency_ms": 10.0 if errors else 100.0,
                "input_tokens": 0 if errors else 500,
                "output_tokens": 0 if errors else 500,
            }
        )
        for n, score in enumerate(scores)
    ]


ERRORS = [n / 1000 for n in range(100)]
#: The local student fails where it expects to: at the ten largest expected errors.
LOCAL = predictions("local-student", [5] * 90 + [1] * 10, ERRORS)
BEHIND = predictions("distilled-student", [4] * 100)


def test_only_what_gains_is_passed_on() -> None:
    threshold = choose_threshold(LOCAL, BEHIND)
    passed = [p for p in LOCAL if (p.expected_error or 0) > threshold]
    assert 9 <= len(passed) <= 10
    assert {p.score for p in passed} == {1}


def test_nothing_is_passed_on_to_one_that_is_no_better() -> None:
    assert choose_threshold(LOCAL, predictions("distilled-student", [1] * 100)) == NEVER


def test_everything_is_passed_on_to_one_that_is_always_better() -> None:
    worse = predictions("local-student", [1] * 100, [0.1 + e for e in ERRORS])
    threshold = choose_threshold(worse, BEHIND)
    assert threshold <= 0.11


def test_too_few_queries_say_nothing() -> None:
    few = MIN_QUERIES - 1
    assert choose_threshold(LOCAL[:few], BEHIND[:few]) == NEVER


def test_the_curve_runs_from_the_local_student_alone_to_the_other_alone() -> None:
    curve = cascade_curve(LOCAL, BEHIND, PRICE)
    first, last = curve[0], curve[-1]
    assert (first.share, first.rubric, first.cost_per_1k_usd) == (0, pytest.approx(4.6), 0)
    assert (last.share, last.rubric) == (1, pytest.approx(4))
    assert last.cost_per_1k_usd == pytest.approx(1000)
    assert (first.mean_latency_ms, last.mean_latency_ms) == (10, 110)
    assert [point.share for point in curve] == sorted(point.share for point in curve)
    assert max(point.rubric for point in curve) == pytest.approx(4.9)
