"""The estimate: near what a run turns out to buy, said before, beside the budget."""

from __future__ import annotations

from itertools import groupby

import pytest

from configs.settings import load_settings
from deployments.embedded.models.corpus import recorded_answers
from reelroute.errors import ConfigError
from tasks.answer_text import answer_text
from tasks.estimate import (
    ANSWER_CHARACTERS,
    QUERY_CHARACTERS,
    Expected,
    estimate,
    estimate_text,
)
from tests.conftest import Finished

LOCAL = "configs/local.yaml"


def by_stage(lines: list[Expected]) -> dict[str, list[Expected]]:
    return {stage: list(those) for stage, those in groupby(lines, lambda line: line.stage)}


def test_each_stage_costs_in_a_run_what_was_estimated_or_up_to_two_fifths_less(
    finished: Finished,
) -> None:
    """The estimate counts a token for three characters, the embedded models for four."""
    expected = by_stage(estimate(load_settings(finished.config)))
    records = finished.run.manifest().stages
    assert set(expected) == {stage for stage, record in records.items() if record.cost.calls}
    for stage, lines in expected.items():
        cost = records[stage].cost  # type: ignore[index]
        assert 0.6 <= cost.usd / sum(line.usd for line in lines) <= 1.05, stage
        tokens = cost.input_tokens + cost.output_tokens
        assert 0.6 <= tokens / sum(n.input_tokens + n.output_tokens for n in lines) <= 1.05, stage
        assert 0.8 <= cost.calls / sum(line.calls for line in lines) <= 1.1, stage


def test_the_lengths_that_it_rests_on_are_those_of_the_recorded_answers() -> None:
    recorded = recorded_answers()
    queries = sum(len(answer.query) for answer in recorded) / len(recorded)
    answers = sum(len(answer_text(answer.weights)) for answer in recorded) / len(recorded)
    assert pytest.approx(queries, rel=0.03) == QUERY_CHARACTERS
    assert pytest.approx(answers, rel=0.03) == ANSWER_CHARACTERS


def test_own_queries_are_weighed_and_not_written() -> None:
    lines = estimate(load_settings(LOCAL), ["a query"] * 250)
    label = [line for line in lines if line.stage == "label"]
    assert [(line.purpose, line.calls) for line in label] == [("weights", 250)]


def test_ten_times_the_queries_cost_about_ten_times_the_labels() -> None:
    def labels(size: int) -> float:
        lines = estimate(load_settings(LOCAL, {"label.size": size}))
        return sum(line.usd for line in lines if line.purpose == "weights")

    assert labels(10_000) == pytest.approx(10 * labels(1000))


def test_without_a_bedrock_student_nothing_is_trained_deployed_or_asked_of_it() -> None:
    lines = estimate(load_settings(LOCAL, {"distill.students": ["local"]}))
    assert {line.stage for line in lines} == {"label", "evaluate"}
    assert [line.purpose for line in lines if line.stage == "evaluate"] == [
        "base student",
        "large baseline",
        "judging 3 candidates",
    ]


def test_the_first_hour_of_provisioned_throughput_is_in_it_and_what_each_hour_costs() -> None:
    bought = {"units": 2, "confirm_usd_per_hour": 40}
    more = {"deploy.mode": "provisioned", "deploy.provisioned": bought}
    settings = load_settings(LOCAL, more)
    lines = estimate(settings)
    assert [line.usd for line in lines if "first hour" in line.purpose] == [40.0]
    assert "costs $40.00 an hour" in estimate_text(settings, lines)
    bought["confirm_usd_per_hour"] = 39
    with pytest.raises(ConfigError, match=r"costs \$40\.00 an hour, idle or not, and is not"):
        estimate(load_settings(LOCAL, more))


def test_what_is_learnt_is_paid_for_every_epoch() -> None:
    def training(**hyperparameters: str) -> float:
        lines = estimate(load_settings(LOCAL, {"distill.hyperparameters": hyperparameters}))
        return next(line.usd for line in lines if line.stage == "distill")

    assert training(epochCount="5") - training() == pytest.approx(4 * training(), rel=0.01)
    with pytest.raises(ConfigError, match="epochCount 'many' is not a whole number from 1"):
        training(epochCount="many")


def test_a_stable_deployment_is_tested_once_more() -> None:
    settings = load_settings(LOCAL, {"deploy.mode": "stable"})
    lines, smoke = estimate(settings), settings.deploy.smoke_queries
    assert [(line.stage, line.calls) for line in lines[-1:]] == [("promote", smoke)]


def test_the_text_names_prices_with_their_date_and_the_budget() -> None:
    settings = load_settings(LOCAL)
    lines = estimate(settings)
    text = estimate_text(settings, lines)
    assert "as of 2026-11-24" in text
    assert "The budget of $100 a run suffices" in text
    assert "~ simulated" in text
    total = sum(line.usd for line in lines)
    assert f"~{total:.4f}" in next(line for line in text.splitlines() if line.startswith("total"))


def test_a_budget_that_does_not_suffice_is_said_with_the_stage_where_it_would_end() -> None:
    settings = load_settings(LOCAL, {"budget.usd_per_run": 0.5})
    text = estimate_text(settings, estimate(settings))
    assert "$0.5 a run does not suffice: it would end in stage label" in text
    assert "Raise `budget.usd_per_run`" in text


def test_prices_are_the_aws_models_own_where_they_are_not_simulated() -> None:
    settings = load_settings("configs/aws.yaml")
    text = estimate_text(settings, estimate(settings))
    assert "us.amazon.nova-pro-v1:0" in text
    assert "simulated" not in text
