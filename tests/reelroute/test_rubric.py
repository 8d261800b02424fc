"""The rubric, against its test vectors and by its rules."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reelroute.rubric import (
    STEPS,
    UNREADABLE,
    Percents,
    RubricScore,
    dominant_fraction,
    percents,
    score,
    score_percents,
)
from reelroute.weights import MODALITIES, RoutingWeights

settings.register_profile("steady", deadline=None, derandomize=True)
settings.load_profile("steady")


@st.composite
def distributions(draw: st.DrawFn) -> Percents:
    """Four whole percents that add up to 100."""
    cuts = sorted(draw(st.lists(st.integers(0, 100), min_size=3, max_size=3)))
    return cuts[0], cuts[1] - cuts[0], cuts[2] - cuts[1], 100 - cuts[2]


def weights(numbers: tuple[float, ...]) -> RoutingWeights:
    return RoutingWeights.normalised(dict(zip(MODALITIES, numbers, strict=True)))


VECTORS: list[tuple[Percents, Percents, RubricScore]] = [
    ((50, 20, 20, 10), (55, 20, 15, 10), RubricScore(5, 5, 2.5, 1.0)),
    ((60, 15, 15, 10), (50, 20, 20, 10), RubricScore(4, 10, 5.0, 1.0)),
    ((50, 30, 10, 10), (70, 10, 10, 10), RubricScore(3, 20, 10.0, 1.0)),
    ((40, 45, 5, 10), (45, 40, 5, 10), RubricScore(5, 5, 2.5, 0.0)),
    ((10, 70, 10, 10), (70, 10, 10, 10), RubricScore(2, 60, 30.0, 0.0)),
    ((0, 100, 0, 0), (100, 0, 0, 0), RubricScore(1, 100, 50.0, 0.0)),
    ((25, 25, 25, 25), (85, 5, 5, 5), RubricScore(2, 60, 30.0, 0.25)),
    ((40, 40, 10, 10), (50, 30, 10, 10), RubricScore(4, 10, 5.0, 0.5)),
]


@pytest.mark.parametrize(("predicted", "reference", "expected"), VECTORS)
def test_the_rubrics_own_examples_score_as_it_says(
    predicted: Percents, reference: Percents, expected: RubricScore
) -> None:
    assert score_percents(predicted, reference) == expected
    assert score(weights(predicted), weights(reference)) == expected


@pytest.mark.parametrize(
    ("predicted", "reference", "step", "why"),
    [
        ((0, 100, 0, 0), (61, 39, 0, 0), 1, "a mean error above 30 comes first"),
        ((0, 100, 0, 0), (60, 40, 0, 0), 2, "a mean error of exactly 30 is not above it"),
        ((40, 60, 0, 0), (45, 55, 0, 0), 5, "5 within 5, before the dominant is asked for"),
        ((49, 51, 0, 0), (59, 41, 0, 0), 4, "10 within 10, whatever the dominant"),
        ((44, 56, 0, 0), (33, 67, 0, 0), 3, "beyond 10 with the dominant right"),
        ((45, 55, 0, 0), (56, 44, 0, 0), 2, "beyond 10 with the dominant wrong"),
        ((70, 30, 0, 0), (100, 0, 0, 0), 2, "a mean error of exactly 15 is not below it"),
        ((71, 29, 0, 0), (100, 0, 0, 0), 3, "a mean error below 15"),
        ((40, 40, 20, 0), (60, 20, 20, 0), 3, "half the dominants right is enough"),
        ((30, 30, 30, 10), (45, 20, 20, 15), 2, "a third of the dominants right is too little"),
    ],
)
def test_the_first_rule_that_holds_gives_the_score(
    predicted: Percents, reference: Percents, step: int, why: str
) -> None:
    assert score_percents(predicted, reference).score == step, why


def test_an_unreadable_answer_scores_1_with_the_errors_of_a_wholly_wrong_one() -> None:
    wholly_wrong = score_percents((0, 100, 0, 0), (100, 0, 0, 0))
    assert score(None, weights((1, 1, 1, 1))) == UNREADABLE == wholly_wrong


@pytest.mark.parametrize(
    ("weight", "percent"),
    [
        (0.0, 0),
        (0.004, 0),
        (0.005, 1),
        (0.145, 15),
        (0.285, 29),
        (0.29, 29),
        (0.575, 58),
        (1.0, 100),
    ],
)
def test_weights_are_rounded_half_up_to_whole_percents(weight: float, percent: int) -> None:
    assert percents(weights((weight, 1 - weight, 0, 0)))[0] == percent


def test_the_step_from_45_to_50_percent_is_5_exactly() -> None:
    result = score(weights((0.45, 0.55, 0, 0)), weights((0.5, 0.5, 0, 0)))
    assert (result.score, result.max_error) == (5, 5)


@given(distributions())
def test_a_perfect_answer_scores_5(reference: Percents) -> None:
    result = score_percents(reference, reference)
    assert (result.score, result.max_error, result.mean_error, result.dominant) == (5, 0, 0.0, 1.0)


@given(distributions(), distributions())
def test_every_score_is_a_step_and_its_errors_are_in_range(p: Percents, t: Percents) -> None:
    result = score_percents(p, t)
    assert result.score in STEPS
    assert result.max_error / 4 <= result.mean_error <= result.max_error <= 100
    assert 0 <= result.mean_error <= 50
    assert result.dominant in (0.0, 1 / 4, 1 / 3, 1 / 2, 2 / 3, 3 / 4, 1.0)


@given(distributions(), distributions(), st.permutations(range(4)))
def test_the_score_does_not_depend_on_the_order_of_the_channels(
    p: Percents, t: Percents, order: list[int]
) -> None:
    reordered = score_percents(
        tuple(p[i] for i in order),  # type: ignore[arg-type]
        tuple(t[i] for i in order),  # type: ignore[arg-type]
    )
    assert reordered == score_percents(p, t)


@given(distributions(), distributions())
def test_the_errors_are_the_same_either_way_round(p: Percents, t: Percents) -> None:
    there, back = score_percents(p, t), score_percents(t, p)
    assert (there.max_error, there.mean_error) == (back.max_error, back.mean_error)


@given(distributions(), distributions())
def test_weights_and_their_percents_score_the_same(p: Percents, t: Percents) -> None:
    assert score(weights(p), weights(t)) == score_percents(p, t)


@pytest.mark.parametrize(
    ("predicted", "reference", "fraction"),
    [
        ((25, 25, 25, 25), (85, 5, 5, 5), 1 / 4),
        ((25, 25, 25, 25), (25, 25, 25, 25), 1.0),
        ((40, 40, 10, 10), (40, 40, 10, 10), 1.0),
        ((60, 20, 10, 10), (40, 40, 10, 10), 1.0),
        ((40, 40, 20, 0), (10, 40, 40, 10), 1 / 2),
        ((10, 10, 40, 40), (40, 40, 10, 10), 0.0),
    ],
)
def test_dominant_is_the_share_of_predicted_leaders_that_lead_the_reference(
    predicted: Percents, reference: Percents, fraction: float
) -> None:
    assert dominant_fraction(predicted, reference) == fraction
