"""Weights whose reasoning is computed when it is first asked for: an ordinary model otherwise."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import BaseModel, TypeAdapter

from reelroute.routers import ExplainedWeights
from reelroute.student import Prediction
from reelroute.weights import RoutingWeights


class Why:
    """Counts how often it is asked."""

    def __init__(self, text: str = "because") -> None:
        self.text = text
        self.asked = 0

    def __call__(self) -> str:
        self.asked += 1
        return self.text


def lazily(why: Callable[[], str], visual: float = 0.7) -> ExplainedWeights:
    weights = RoutingWeights(
        visual=visual, audio=1 - visual, transcription=0.0, metadata=0.0, router="local"
    )
    return ExplainedWeights.lazily(Prediction(weights, 4.0, 0.03, 0.0), why)


class Around(BaseModel):
    weights: RoutingWeights


#: What doesn't read the reasoning.
INCURIOUS: dict[str, Callable[[ExplainedWeights], Any]] = {
    "values": lambda weights: weights.values(),
    "as_dict": lambda weights: weights.as_dict(),
    "active": lambda weights: weights.active(),
    "dominant": lambda weights: weights.dominant,
    "fuse": lambda weights: weights.fuse({"visual": {"clip": 1.0}}),
    "expected_error": lambda weights: weights.expected_error,
    "router": lambda weights: weights.router,
    "repr": repr,
    "str": str,
    "hash": hash,
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "model_copy": lambda weights: weights.model_copy(update={"router": "other"}),
    "renamed": lambda weights: weights.renamed("other"),
    "unlike another": lambda weights: weights == lazily(Why(), visual=0.6),
    "unlike a plain model": lambda weights: weights == weights.values(),
    "in a model": lambda weights: Around(weights=weights),
}

#: What reads it, and where it then is.
CURIOUS: dict[str, Callable[[ExplainedWeights], str]] = {
    "reasoning": lambda weights: weights.reasoning,
    "model_dump": lambda weights: weights.model_dump()["reasoning"],
    "model_dump_json": lambda weights: json.loads(weights.model_dump_json())["reasoning"],
    "dict": lambda weights: dict(weights)["reasoning"],
    "vars": lambda weights: vars(weights)["reasoning"],
    "pickle": lambda weights: pickle.loads(pickle.dumps(weights)).reasoning,
    "copy": lambda weights: copy.copy(weights).reasoning,
    "deepcopy": lambda weights: copy.deepcopy(weights).reasoning,
    "model_copy": lambda weights: weights.model_copy(update={"router": "x"}).reasoning,
    "a model around it": lambda weights: Around(weights=weights).model_dump()["weights"][
        "reasoning"
    ],
    "a list adapter": lambda weights: TypeAdapter(list[RoutingWeights]).dump_python([weights])[0][
        "reasoning"
    ],
}


@pytest.mark.parametrize("look", INCURIOUS.values(), ids=INCURIOUS.keys())
def test_what_does_not_read_the_reasoning_does_not_pay_for_it(
    look: Callable[[ExplainedWeights], Any],
) -> None:
    why = Why()
    look(lazily(why))
    assert why.asked == 0


@pytest.mark.parametrize("read", CURIOUS.values(), ids=CURIOUS.keys())
def test_what_reads_the_reasoning_finds_it(read: Callable[[ExplainedWeights], str]) -> None:
    why = Why()
    assert read(lazily(why)) == "because"
    assert why.asked == 1


def test_it_is_computed_once() -> None:
    why = Why()
    weights = lazily(why)
    assert [weights.reasoning, weights.model_dump()["reasoning"], weights.reasoning] == [
        "because"
    ] * 3
    assert why.asked == 1


def test_a_reason_given_to_a_copy_stands() -> None:
    why = Why()
    assert lazily(why).model_copy(update={"reasoning": "mine"}).reasoning == "mine"
    assert why.asked == 0


def test_equal_answers_are_equal_whether_computed_or_not() -> None:
    first, second = lazily(Why()), lazily(Why())
    assert first.reasoning == "because"
    assert first == second
    assert hash(first) == hash(second)
    assert lazily(Why()) != lazily(Why("otherwise"))
    assert first != first.renamed("other")
    assert pickle.loads(pickle.dumps(lazily(Why()))) == first


def test_its_representation_says_what_is_not_computed() -> None:
    weights = lazily(Why())
    assert "reasoning=Ellipsis" in repr(weights)
    assert weights.reasoning
    assert "reasoning='because'" in repr(weights)


def test_it_stays_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        lazily(Why()).visual = 0.1  # type: ignore[misc]


def test_a_reason_that_cannot_be_computed_is_said_not_raised(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fails() -> str:
        raise RuntimeError("no memory")

    weights = lazily(fails)
    assert weights.reasoning == "The reasoning could not be computed: see the log."
    assert "no memory" in caplog.text
