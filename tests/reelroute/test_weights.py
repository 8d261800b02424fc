"""Routing weights: sums, the grid, active channels, fusion."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from reelroute.weights import MODALITIES, RoutingWeights, round_to_grid

settings.register_profile("steady", deadline=None, derandomize=True)
settings.load_profile("steady")

positive = st.floats(0, allow_infinity=False)
four = st.lists(positive, min_size=4, max_size=4).filter(any)
clips = st.text("abc", min_size=1, max_size=2)
scores = st.dictionaries(clips, st.floats(allow_nan=False, allow_infinity=False), max_size=6)
searches = st.dictionaries(st.sampled_from(MODALITIES), scores)


def named(numbers: list[float] | tuple[float, ...]) -> dict[str, float]:
    return dict(zip(MODALITIES, numbers, strict=True))


def weights(*numbers: float) -> RoutingWeights:
    return RoutingWeights.normalised(named(numbers))


@given(four)
@example([5e-324, 0.0, 0.0, 5e-324])
@example([1.7e308] * 4)
def test_normalised_weights_add_up_to_1_and_keep_their_order(numbers: list[float]) -> None:
    values = weights(*numbers).values()
    assert math.isclose(math.fsum(values), 1, abs_tol=1e-12)
    for (a, before), (b, after) in itertools.pairwise(sorted(zip(numbers, values, strict=True))):
        assert after >= before if b > a else after == before


@given(st.lists(st.integers(0, 1000), min_size=4, max_size=4).filter(any), st.integers(1, 1000))
def test_normalising_does_not_depend_on_the_scale(numbers: list[int], factor: int) -> None:
    scaled = weights(*(number * factor for number in numbers)).values()
    assert scaled == pytest.approx(weights(*numbers).values(), abs=1e-12)


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ((0.0, 0.0, 0.0, 0.0), "all four weights are 0"),
        ((1.0, -0.1, 0.0, 0.0), "not negative"),
        ((1.0, float("nan"), 0.0, 0.0), "finite"),
        ((1.0, float("inf"), 0.0, 0.0), "finite"),
    ],
)
def test_numbers_that_are_no_weights_are_refused(numbers: tuple[float, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        weights(*numbers)
    with pytest.raises(ValueError, match=message):
        round_to_grid(numbers)


def test_missing_modalities_are_named() -> None:
    with pytest.raises(ValueError, match="no weight for audio, metadata"):
        RoutingWeights.normalised({"visual": 1.0, "transcription": 1.0})


@pytest.mark.parametrize("total", [0.999, 1.001])
def test_weights_that_do_not_add_up_are_refused_unless_normalised(total: float) -> None:
    with pytest.raises(ValidationError, match="add up to"):
        RoutingWeights(visual=total - 0.5, audio=0.5, transcription=0.0, metadata=0.0)


def test_a_further_modality_is_refused() -> None:
    with pytest.raises(ValidationError, match="smell"):
        RoutingWeights.model_validate(weights(1, 1, 1, 1).as_dict() | {"smell": 0.0})


def test_a_number_as_text_is_refused() -> None:
    with pytest.raises(ValidationError, match="visual"):
        RoutingWeights.model_validate(named((1.0, 0.0, 0.0, 0.0)) | {"visual": "1"})


def test_uniform_weights_are_a_quarter_each() -> None:
    assert RoutingWeights.uniform(router="rules").values() == (0.25,) * 4
    assert RoutingWeights.uniform(router="rules").router == "rules"


def test_the_dominant_modality_of_equals_is_the_first() -> None:
    assert weights(1, 4, 2, 4).dominant == "audio"
    assert weights(1, 1, 1, 1).dominant == "visual"


@settings(max_examples=300)
@given(four)
def test_rounding_gives_multiples_of_a_step_within_a_step_that_add_up_to_1(
    numbers: list[float],
) -> None:
    rounded = round_to_grid(numbers)
    exact = weights(*numbers).as_dict()
    steps = {modality: round(weight * 20) for modality, weight in rounded.items()}
    assert rounded == {modality: count / 20 for modality, count in steps.items()}
    assert sum(steps.values()) == 20
    assert math.fsum(rounded.values()) == 1
    for modality in MODALITIES:
        assert abs(rounded[modality] - exact[modality]) < 0.05 + 1e-9


@given(four)
def test_rounding_keeps_the_order_of_the_weights(numbers: list[float]) -> None:
    rounded = round_to_grid(numbers)
    exact = weights(*numbers).as_dict()
    for a, b in itertools.permutations(MODALITIES, 2):
        if exact[a] > exact[b] + 1e-6:
            assert rounded[a] >= rounded[b]


def test_weights_on_the_grid_stay_as_they_are() -> None:
    for counts in itertools.product(range(21), repeat=3):
        if sum(counts) <= 20:
            on_grid = [count / 20 for count in (*counts, 20 - sum(counts))]
            assert list(round_to_grid(on_grid).values()) == on_grid


def test_the_missing_steps_go_to_the_largest_remainders_and_of_equals_to_the_first() -> None:
    assert round_to_grid((0.49, 0.32, 0.16, 0.03)) == named((0.5, 0.3, 0.15, 0.05))
    assert round_to_grid((1, 1, 1, 0)) == named((0.35, 0.35, 0.3, 0.0))


def test_rounding_takes_weights_by_modality_in_any_order() -> None:
    by_modality = {"metadata": 2.0, "transcription": 1.0, "audio": 0.0, "visual": 1.0}
    assert round_to_grid(by_modality) == named((0.25, 0.0, 0.25, 0.5))


def test_another_step_that_divides_1_is_a_grid_too() -> None:
    assert round_to_grid((6, 3, 1, 0), step=0.5) == named((0.5, 0.5, 0.0, 0.0))


@pytest.mark.parametrize("step", [0.0, -0.05, 0.3, 2.0, 5e-324, float("inf"), float("nan")])
def test_a_step_that_does_not_divide_1_is_refused(step: float) -> None:
    with pytest.raises(ValueError, match="does not divide 1"):
        round_to_grid((1, 0, 0, 0), step=step)


@pytest.mark.parametrize("count", [3, 5])
def test_rounding_takes_exactly_four_numbers(count: int) -> None:
    with pytest.raises(ValueError, match="zip"):
        round_to_grid([1.0] * count)


@given(four)
def test_active_channels_add_up_to_1_and_leave_out_those_under_5_percent(
    numbers: list[float],
) -> None:
    every, active = weights(*numbers).as_dict(), weights(*numbers).active()
    assert math.isclose(math.fsum(active.values()), 1, abs_tol=1e-12)
    for modality, weight in every.items():
        if weight >= 0.05:
            assert active[modality] >= weight - 1e-12
        if weight < 0.05 - 1e-5:
            assert modality not in active


def test_a_channel_of_exactly_5_percent_is_active() -> None:
    assert weights(19, 1, 0, 0).active() == pytest.approx({"visual": 0.95, "audio": 0.05})
    assert weights(96, 4, 0, 0).active() == {"visual": 1.0}


@settings(max_examples=500)
@given(four, searches)
@example([1, 0, 0, 0], {"visual": {"a": 0.0, "b": 5e-324}})
@example([1, 0, 0, 0], {"visual": {"a": -1.7e308, "b": 1.7e308}})
def test_fused_scores_lie_in_0_to_1_in_descending_order(
    numbers: list[float], found: dict[str, dict[str, float]]
) -> None:
    routing = weights(*numbers)
    fused = routing.fuse(found)
    assert fused.keys() == {clip for m in routing.active() for clip in found.get(m, {})}
    assert all(0 <= score <= 1 for score in fused.values())
    assert list(fused.items()) == sorted(fused.items(), key=lambda item: (-item[1], item[0]))


@given(four, searches, st.integers(1, 100), st.integers(-100, 100))
def test_the_scale_of_a_channels_scores_does_not_matter(
    numbers: list[float], found: dict[str, dict[str, float]], factor: int, shift: int
) -> None:
    whole = {m: {c: float(len(c) * 7 + ord(c[0])) for c in clips} for m, clips in found.items()}
    scaled = {m: {c: s * factor + shift for c, s in clips.items()} for m, clips in whole.items()}
    fused = weights(*numbers).fuse(whole)
    assert weights(*numbers).fuse(scaled) == pytest.approx(fused, abs=1e-12)


def test_fusion_is_the_weighted_mean_over_normalised_scores() -> None:
    fused = weights(6, 3, 0, 1).fuse(
        {
            "visual": {"a": 10.0, "b": 20.0, "c": 15.0},
            "audio": {"b": -1.0, "d": 1.0},
            "transcription": {"e": 1.0},
        }
    )
    assert fused == pytest.approx({"b": 0.6, "c": 0.3, "d": 0.3, "a": 0.0})
    assert list(fused) == ["b", "c", "d", "a"]


def test_clips_with_equal_scores_go_by_their_ids() -> None:
    assert list(weights(1, 0, 0, 0).fuse({"visual": {"z": 1, "m": 1, "a": 1}})) == ["a", "m", "z"]


def test_a_channel_whose_scores_are_all_equal_gives_each_its_whole_weight() -> None:
    assert weights(3, 1, 0, 0).fuse({"visual": {"a": 0.0, "b": 0.0}}) == {"a": 0.75, "b": 0.75}


def test_nothing_found_fuses_to_nothing() -> None:
    assert weights(1, 1, 1, 1).fuse({}) == {}
    assert weights(1, 1, 1, 1).fuse({"visual": {}}) == {}


def test_an_unknown_channel_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown channel 'video': expected visual, audio"):
        weights(1, 1, 1, 1).fuse({"video": {"a": 1.0}})


@given(st.sampled_from([float("nan"), float("inf"), float("-inf")]), scores)
def test_a_score_that_is_not_finite_is_refused_with_its_clip(
    bad: float, found: dict[str, float]
) -> None:
    assume("bad" not in found)
    with pytest.raises(ValueError, match="audio score of 'bad' is"):
        weights(1, 1, 1, 1).fuse({"audio": found | {"bad": bad}})
