"""The judge's agreement with the rubric: arithmetic that can be done by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_contracts.evaluation import EvaluationSummary, Prediction
from tasks.agreement import judge_agreement, spearman
from tasks.evaluate import summarise
from tasks.reporting.content import report_content
from tests.support import Place
from tests.tasks.reporting import factory

NAME = "distilled-student"


def judged(pairs: Sequence[tuple[int, float | None]]) -> list[Prediction]:
    """A made-up judge's scores of made-up answers, each (rubric, judge)."""
    base = factory.predictions(NAME, factory.labelled_queries(len(pairs)))
    return [
        prediction.model_copy(update={"score": rubric, "judge": judge})
        for prediction, (rubric, judge) in zip(base, pairs, strict=True)
    ]


def test_a_judge_that_gives_the_rubrics_score_agrees_in_everything() -> None:
    found = judge_agreement({NAME: judged([(5, 5), (4, 4), (2, 2), (2, 2)])})
    assert found is not None
    assert (found.answers, found.exact, found.within_one) == (4, 1, 1)
    assert found.spearman == pytest.approx(1)
    assert [(c.rubric, c.judge, c.answers) for c in found.confusion] == [
        (5, 5, 1),
        (4, 4, 1),
        (2, 2, 2),
    ]


def test_disagreement_is_counted_by_step_and_by_candidate() -> None:
    answers = {
        NAME: judged([(5, 1), (3, 3), (1, 5), (4, None)]),
        "base-student": judged([(1, 2), (2, 3), (3, 4), (3, 4)]),
    }
    found = judge_agreement(answers)
    assert found is not None
    assert found.answers == 7
    assert found.by_candidate == {NAME: pytest.approx(-1), "base-student": pytest.approx(1)}
    assert (found.exact, found.within_one) == (pytest.approx(1 / 7), pytest.approx(5 / 7))
    assert {(c.rubric, c.judge): c.answers for c in found.confusion} == {
        (5, 1): 1,
        (3, 4): 2,
        (3, 3): 1,
        (2, 3): 1,
        (1, 5): 1,
        (1, 2): 1,
    }


def test_ties_share_their_mean_rank() -> None:
    # Ranks 1, 2.5, 2.5, 4 against 1, 2, 3, 4: the textbook's correlation of the ranks.
    assert spearman([(1, 1), (2, 2), (2, 3), (3, 4)]) == pytest.approx(4.5 / (4.5 * 5) ** 0.5)


def test_a_correlation_that_is_not_defined_is_none() -> None:
    assert spearman([]) is None
    assert spearman([(3, 1), (3, 5)]) is None
    assert judge_agreement({NAME: judged([(3, None)])}) is None


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5)), min_size=2, max_size=30))
def test_a_correlation_lies_between_minus_one_and_one_and_ignores_the_order(
    pairs: list[tuple[int, int]],
) -> None:
    found = spearman(pairs)
    if found is not None:
        assert -1 - 1e-9 <= found <= 1 + 1e-9
        assert spearman(pairs[::-1]) == pytest.approx(found)


def texts(summary: EvaluationSummary) -> str:
    content = report_content(factory.report(summary=summary), {})
    return str([section for section in content.sections if section.anchor == "judge"])


def test_the_report_shows_the_agreement_only_where_there_is_one() -> None:
    summary = factory.summary()
    found = judge_agreement({NAME: judged([(5, 4), (4, 4), (2, 1)])})
    shown = texts(summary.model_copy(update={"agreement": found}))
    assert "(Spearman) 0.87" in shown
    assert "Judge 4" in shown
    assert texts(summary) == "[]"


def test_the_report_counts_what_the_judge_did_not_score() -> None:
    summary = factory.summary()
    first, *rest = summary.benchmark
    failed = first.model_copy(
        update={"judged": first.queries - 3, "judge_failures": {"no score": 2, "unreadable": 1}}
    )
    shown = texts(summary.model_copy(update={"benchmark": (failed, *rest)}))
    assert f"{first.queries - 3} of {first.queries}" in shown
    assert "'No score', 'No verdict', 'Unreadable'" in shown


class _Judged:
    """What `summarise` needs of a candidate."""

    name, label, model = NAME, "a student", "m"

    def __init__(self, price: Any) -> None:
        self.price = price


@pytest.mark.parametrize("simulated", [True, False])
def test_agreement_is_no_finding_where_the_judge_is_simulated(
    place: Place, simulated: bool
) -> None:
    judge = "embedded.rubric-judge-v1:0" if simulated else "us.amazon.nova-pro-v1:0"
    settings = place.settings(**{"models.judge": {"id": judge}})
    stage = place.stage("evaluate", settings=settings)
    answers = {NAME: judged([(5, 4), (4, 4), (2, 1)])}
    price = settings.price(settings.models.student)
    summary = summarise(stage, [_Judged(price)], answers)  # type: ignore[list-item]
    assert (summary.agreement is None) == simulated
