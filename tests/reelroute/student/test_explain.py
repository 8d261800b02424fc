"""Attribution: what the words are said to have done adds up to what the student answers."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from reelroute.routers import check_query
from reelroute.student import StudentModel
from reelroute.student.explain import MAX_WORDS, Attribution, attribute, sentence
from reelroute.student.grid import OUTPUTS
from reelroute.weights import MODALITIES, RoutingWeights

QUERIES = [
    "",
    "barking",
    "red mountain sunset",
    "dog dog dog dog dog",
    "chef explaining a sauce, debate about 2014",
    " ".join(f"word{n}" for n in range(60)),
    " ".join(["thunder"] * 60),
    "قطة تجري في الحديقة",
    "ネコ ピアノ 🎹 🎹",
    "naïve café — “quoted” words",
    "a\x00b \x07 control\u202e characters",
    "x" * 900,
    check_query("half \ud800 a pair"),
    "half \ud800 a pair",
]


@pytest.fixture(scope="module")
def model(folder: Path) -> StudentModel:
    return StudentModel.load(folder)


def some_weights(**given: float) -> RoutingWeights:
    return RoutingWeights.normalised({m: given.get(m, 0.0) for m in MODALITIES})


def made(
    words: str, contributions: list[list[float]], removals: list[list[float]] | None = None
) -> Attribution:
    """An attribution by hand, from a base that visual leads."""
    added = np.array(contributions).reshape(-1, 4)
    base = np.array([0.4, 0.2, 0.2, 0.2])
    none = np.zeros(OUTPUTS)
    return Attribution(
        words=tuple(words.split()),
        contributions=added,
        base=base,
        mean=base + added.sum(axis=0),
        removals=added if removals is None else np.array(removals),
        logit_contributions=np.zeros((len(added), OUTPUTS)),
        base_logits=none,
        logits=none,
    )


# --- sums --------------------------------------------------------------------------------------


@pytest.mark.parametrize("query", QUERIES)
def test_base_and_contributions_add_up_to_the_students_mean_weights(
    query: str, model: StudentModel
) -> None:
    found = attribute(model, query)
    sums = found.base + found.contributions.sum(axis=0)
    assert sums == pytest.approx(model.mean_weights(query), abs=1e-6)
    assert found.mean == pytest.approx(model.mean_weights(query), abs=1e-6)
    assert found.base == pytest.approx(model.mean_weights(""), abs=1e-6)
    assert found.contributions.sum(axis=1) == pytest.approx(0, abs=1e-6)  # one's gain


def test_an_attribution_needs_no_more_of_the_student_than_all_may_use(model: StudentModel) -> None:
    public = SimpleNamespace(outputs=model.outputs, means_of=model.means_of)
    query = QUERIES[4]
    found, wanted = attribute(public, query), attribute(model, query)  # type: ignore[arg-type]
    for name in ("contributions", "base", "mean", "removals", "logits"):
        assert np.array_equal(getattr(found, name), getattr(wanted, name))


@pytest.mark.parametrize("query", QUERIES)
def test_base_and_contributions_add_up_to_the_models_logits(
    query: str, model: StudentModel
) -> None:
    found = attribute(model, query)
    sums = found.base_logits + found.logit_contributions.sum(axis=0)
    assert sums.shape == (OUTPUTS,)
    assert sums == pytest.approx(model.outputs([query])[0], abs=1e-3)


def test_the_labelled_queries_add_up_too(model: StudentModel, rows: list[object]) -> None:
    for row in rows[:40]:
        query = row.query  # type: ignore[attr-defined]
        found = attribute(model, query)
        sums = found.base + found.contributions.sum(axis=0)
        assert sums == pytest.approx(model.mean_weights(query), abs=1e-6)


def test_few_words_get_their_exact_shapley_values(model: StudentModel) -> None:
    words = ["red", "dog", "barking", "2014"]
    exact = np.zeros((4, 4))
    for position in range(4):
        others = [other for other in range(4) if other != position]
        for size in range(4):
            share = math.factorial(size) * math.factorial(3 - size) / math.factorial(4)
            for kept in itertools.combinations(others, size):
                without = " ".join(words[i] for i in sorted(kept))
                with_it = " ".join(words[i] for i in sorted((*kept, position)))
                change = model.mean_weights(with_it) - model.mean_weights(without)
                exact[position] += share * change
    assert attribute(model, " ".join(words)).contributions == pytest.approx(exact, abs=1e-6)


def test_the_same_query_gets_the_same_reasons(model: StudentModel) -> None:
    query = "wide shot of a dog barking at thunder in 2014"
    assert (
        attribute(model, query).contributions.tolist()
        == attribute(model, query).contributions.tolist()
    )


def test_removals_are_what_the_student_says_without_a_word(model: StudentModel) -> None:
    words = ["smiling", "mayor", "humming", "episode", "7"]
    found = attribute(model, " ".join(words))
    for position in range(len(words)):
        rest = " ".join(words[:position] + words[position + 1 :])
        change = found.mean - model.mean_weights(rest)
        assert found.removals[position] == pytest.approx(change, abs=1e-6)


def test_what_follows_many_words_is_explained_as_one(model: StudentModel) -> None:
    found = attribute(model, " ".join(f"w{n}" for n in range(60)))
    assert len(found.words) == MAX_WORDS
    assert found.words[-1].startswith("w23 w24 ")


# --- the sentence ------------------------------------------------------------------------------


def test_it_names_the_words_that_moved_the_leading_channels() -> None:
    found = made("red dog barking", [[0.2, -0.1, -0.1, 0], [0, 0, 0, 0], [-0.2, 0.6, -0.1, -0.3]])
    assert sentence(some_weights(audio=0.7, visual=0.3), found) == (
        "Audio leads with 0.70, raised by “barking” (+0.60), though lowered by “red” (−0.10), "
        "while visual has 0.30, raised by “red” (+0.20)."
    )


def test_a_word_whose_removal_says_otherwise_is_not_named() -> None:
    added = [[0.2, -0.2, 0, 0], [0.3, -0.3, 0, 0]]
    found = made("red car", added, removals=[[-0.1, 0.1, 0, 0], [0.3, -0.3, 0, 0]])
    assert sentence(some_weights(visual=1), found) == (
        "All weight is on visual, raised by “car” (+0.30)."
    )
    assert found.movers("visual") == [(1, pytest.approx(0.3))]


def test_where_no_word_moves_much_it_says_so() -> None:
    found = made("some thing", [[0.01, 0, 0, 0], [0, 0, 0.02, 0]])
    assert sentence(some_weights(visual=0.4, audio=0.6), found) == (
        "Audio leads with 0.60, by its words together: no single one of them raises it much."
    )
    assert sentence(some_weights(visual=0.6, audio=0.4), found) == (
        "Visual leads with 0.60, as it does without any words: no single word of the query "
        "changes that much."
    )
    assert "as there are no words" in sentence(some_weights(visual=1), made("", []))


def test_equal_channels_are_called_equal() -> None:
    found = made("red", [[0.2, 0, 0, -0.2]])
    assert sentence(some_weights(visual=0.5, audio=0.5), found).startswith(
        "Visual leads with 0.50, as much as audio, raised by “red”"
    )


@pytest.mark.parametrize(
    ("word", "shown"),
    [
        ("dog,", "“dog”"),
        ("\u202ego\x07d", "“god”"),
        ("x" * 500, f"“{'x' * 29}…”"),
        ("“dog”", "“dog”"),
        ("قطة", "“قطة”"),
    ],
)
def test_words_are_shown_clean_and_short(word: str, shown: str) -> None:
    found = replace(made("x", [[0.3, 0, 0, -0.3]]), words=(word,))
    assert f"raised by {shown} (+0.30)" in sentence(some_weights(visual=1), found)


def test_a_word_that_cannot_be_shown_is_not_named() -> None:
    found = replace(made("x", [[0.3, 0, 0, -0.3]]), words=("\u202e\x07",))
    assert "“" not in sentence(some_weights(visual=1), found)


def test_a_repeated_word_is_named_once_with_all_it_did() -> None:
    found = made("dog dog", [[0.1, 0, 0, -0.1], [0.2, 0, 0, -0.2]])
    assert "raised by “dog” (+0.30)." in sentence(some_weights(visual=1), found)


@pytest.mark.parametrize("query", QUERIES)
def test_every_reason_is_one_sentence_that_json_and_utf8_can_hold(
    query: str, model: StudentModel
) -> None:
    reason = sentence(model.predict([query])[0].weights, attribute(model, query))
    assert json.loads(json.dumps(reason)) == reason
    assert reason.encode()
    assert reason.endswith(".")
    assert "\n" not in reason
    assert len(reason) < 500
