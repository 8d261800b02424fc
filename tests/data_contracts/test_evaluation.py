"""Evaluation records."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from data_contracts.evaluation import (
    BASE_STUDENT,
    CURRENT_RELEASE,
    DISTILLED_STUDENT,
    LARGE_BASELINE,
    CandidateScores,
    EvaluationSummary,
    Latency,
    Prediction,
    Slug,
)
from reelroute.weights import RoutingWeights


def prediction(**fields: Any) -> Prediction:
    values = {
        "candidate": BASE_STUDENT,
        "id": "0123456789ab",
        "query": "dog barking loudly",
        "reading": "benchmark",
        "channel": "audio",
        "difficulty": "easy",
        "domain": "terse",
        "reference": RoutingWeights(visual=0.3, audio=0.6, transcription=0, metadata=0.1),
        "answer": "no JSON here",
        "weights": None,
        "problem": "not bare JSON",
        "latency_ms": 3.5,
        "input_tokens": 200,
        "output_tokens": 40,
        "score": 1,
        "max_error": 100,
        "mean_error": 50.0,
        "dominant": 0.0,
    }
    return Prediction.model_validate(values | fields)


def scores(name: str) -> CandidateScores:
    return CandidateScores(
        name=name,
        label="A student",
        model="model",
        queries=300,
        rubric=3.5,
        rubric_interval=(3.4, 3.6),
        mae=0.1,
        channel_mae={"visual": 0.1, "audio": 0.1, "transcription": 0.1, "metadata": 0.1},
        dominant_match=0.9,
        valid_rate=1.0,
        output_format="consistent JSON",
        latency_ms=Latency(mean=1, p50=1, p95=2, p99=3),
        input_tokens=1,
        output_tokens=1,
        usd_per_1k_input_tokens=0.1,
        usd_per_1k_output_tokens=0.2,
        cost_per_1k_usd=0.3,
        simulated_cost=True,
    )


def test_an_answer_is_valid_exactly_where_the_strict_parser_has_no_problem_with_it() -> None:
    assert not prediction().valid
    weights = RoutingWeights.uniform()
    assert not prediction(weights=weights, repairs=("code fence",)).valid
    assert prediction(weights=weights, problem=None).valid


def test_a_prediction_survives_its_file() -> None:
    for kept in (prediction(), prediction(weights=RoutingWeights.uniform(), judge=3.0)):
        assert Prediction.model_validate_json(kept.model_dump_json()) == kept


@pytest.mark.parametrize(
    "fields",
    [
        {"score": 0},
        {"score": 6},
        {"latency_ms": -1},
        {"reading": "training"},
        {"channel": "smell"},
        {"candidate": "Base Student"},
        {"stars": 5},
    ],
)
def test_a_prediction_outside_the_contract_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        prediction(**fields)


@pytest.mark.parametrize(
    "slug", [BASE_STUDENT, DISTILLED_STUDENT, LARGE_BASELINE, CURRENT_RELEASE, "a", "a" * 60]
)
def test_a_candidate_goes_by_a_slug(slug: str) -> None:
    assert TypeAdapter(Slug).validate_python(slug) == slug


@pytest.mark.parametrize("slug", ["", "-a", "a-", "a--b", "A", "a_b", "a\n", "a/b", "a" * 61])
def test_a_name_that_the_service_would_refuse_is_no_slug(slug: str) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(Slug).validate_python(slug)


def test_a_summary_finds_a_candidate_of_the_benchmark_by_name() -> None:
    summary = EvaluationSummary(
        run_id="run-1", benchmark=(scores(BASE_STUDENT),), fresh=(scores(DISTILLED_STUDENT),)
    )
    found = summary.candidate(BASE_STUDENT)
    assert found is not None
    assert found.name == BASE_STUDENT
    assert summary.candidate(DISTILLED_STUDENT) is None
