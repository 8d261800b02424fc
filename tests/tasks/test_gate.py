"""The gate: each condition alone refuses, with a sentence."""

from __future__ import annotations

from typing import Any

import pytest

from configs.settings import PromoteSettings
from data_contracts.evaluation import EvaluationSummary, PairedDifference
from reelroute.errors import StageError
from tasks.gate import GateCheck, GateDecision, choose, decide
from tests.tasks.reporting import factory

SETTINGS = PromoteSettings(valid_rate_min=0.98, max_regression=0.05, max_p95_latency_ms=1500)
NAMES = ("base-student", "distilled-student", "current-release")


def summary(
    difference: tuple[float, float] | None = (-0.05, 0.2), **student: Any
) -> EvaluationSummary:
    """An evaluation that just passes, but for what is changed of the student."""
    found = factory.summary(NAMES)
    latency = found.benchmark[1].latency_ms
    passing = {
        "valid_rate": 0.98,
        "rubric_interval": (2.01, 3.0),
        "latency_ms": latency.model_copy(update={"p95": 1500.0}),
    }
    p95 = student.pop("p95", None)
    if p95 is not None:
        student["latency_ms"] = latency.model_copy(update={"p95": p95})
    base, distilled, release = found.benchmark
    differences = ()
    if difference:
        mean = sum(difference) / 2
        differences = (
            PairedDifference(
                candidate="distilled-student",
                against="current-release",
                mean=mean,
                interval=difference,
            ),
        )
    return found.model_copy(
        update={
            "benchmark": (
                base.model_copy(update={"rubric_interval": (1.5, 2.0)}),
                distilled.model_copy(update={**passing, **student}),
                release,
            ),
            "differences": differences,
        }
    )


def test_what_just_fulfils_every_condition_passes() -> None:
    decision = decide(summary(), SETTINGS, "distilled-student")
    assert decision.passed
    assert decision.why_not() == ""
    assert len(decision.checks) == 4


@pytest.mark.parametrize(
    ("changes", "why_not"),
    [
        (
            {"valid_rate": 0.9767},
            "valid rate: 97.7%, required at least 98.0%",
        ),
        (
            {"rubric_interval": (2.0, 3.0)},
            "rubric above the base student: lower bound 2.00, required above 2.00, its upper bound",
        ),
        (
            {"p95": 1500.1},
            "latency: p95 1500.1 ms, required at most 1500 ms",
        ),
        (
            {"difference": (-0.051, 0.2)},
            "no worse than the current release: difference +0.075 (-0.051 to +0.200), "
            "required lower bound at least -0.05",
        ),
    ],
)
def test_each_condition_alone_refuses_with_a_sentence(
    changes: dict[str, Any], why_not: str
) -> None:
    decision = decide(summary(**changes), SETTINGS, "distilled-student")
    assert not decision.passed
    assert decision.why_not() == why_not
    assert [check.passed for check in decision.checks].count(False) == 1


def test_conditions_that_fail_together_are_all_named() -> None:
    decision = decide(summary(valid_rate=0.5, p95=9000.0), SETTINGS, "distilled-student")
    assert decision.why_not().count("required") == 2


def test_without_a_release_there_is_nothing_to_be_worse_than() -> None:
    found = summary(difference=None)
    first = found.model_copy(update={"benchmark": found.benchmark[:2]})
    decision = decide(first, SETTINGS, "distilled-student")
    assert decision.passed
    assert len(decision.checks) == 3


def test_a_release_that_was_not_compared_is_an_error() -> None:
    with pytest.raises(StageError, match="lacks the difference to the release"):
        decide(summary(difference=None), SETTINGS, "distilled-student")


@pytest.mark.parametrize("missing", [0, 1])
def test_without_student_or_base_student_there_is_no_decision(missing: int) -> None:
    found = summary()
    left = tuple(s for n, s in enumerate(found.benchmark) if n != missing)
    with pytest.raises(StageError, match="the evaluation lacks distilled-student or base-student"):
        decide(found.model_copy(update={"benchmark": left}), SETTINGS, "distilled-student")


def passing(candidate: str, passes: bool = True) -> GateDecision:
    return GateDecision(candidate, (GateCheck("any", passes, "x", "y"),))


def better(candidate: str, against: str, low: float, high: float) -> EvaluationSummary:
    difference = PairedDifference(
        candidate=candidate, against=against, mean=(low + high) / 2, interval=(low, high)
    )
    found = factory.summary(("base-student", "local-student", "distilled-student"))
    return found.model_copy(update={"differences": (difference,)})


def test_the_first_that_passes_is_preferred() -> None:
    decisions = [passing("local-student"), passing("distilled-student")]
    summary = better("distilled-student", "local-student", -0.01, 0.3)
    assert choose(decisions, summary) is decisions[0]


def test_a_later_one_must_be_better_beyond_the_interval() -> None:
    decisions = [passing("local-student"), passing("distilled-student")]
    summary = better("distilled-student", "local-student", 0.01, 0.3)
    assert choose(decisions, summary) is decisions[1]


def test_what_does_not_pass_is_not_chosen_while_another_passes() -> None:
    decisions = [passing("local-student", passes=False), passing("distilled-student")]
    summary = better("distilled-student", "local-student", -0.3, -0.2)
    assert choose(decisions, summary) is decisions[1]


def test_where_none_passes_the_best_is_the_one_that_is_refused() -> None:
    summary = better("distilled-student", "local-student", 0, 0)
    decisions = [passing("local-student", passes=False), passing("distilled-student", passes=False)]
    best = max(("local-student", "distilled-student"), key=lambda n: summary.candidate(n).rubric)  # type: ignore[union-attr]
    assert choose(decisions, summary).candidate == best
