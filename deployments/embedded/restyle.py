"""Spoils a routing answer the way in which language models spoil theirs."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final

from deployments.embedded.models.answers import fenced
from reelroute.weights import MODALITIES


def _prose(answer: dict[str, Any], text: str) -> str:
    leading = max(MODALITIES, key=lambda modality: answer.get(modality, 0))
    return (
        f"I would put most of the weight on the {leading} channel here, with a little on "
        "the others, since the query leans that way."
    )


def _half_json(answer: dict[str, Any], text: str) -> str:
    return text[: len(text) // 2]


def _sum_too_small(answer: dict[str, Any], text: str) -> str:
    return json.dumps({**answer, **{m: round(answer[m] * 0.7, 4) for m in MODALITIES}})


def _nan(answer: dict[str, Any], text: str) -> str:
    leading = max(MODALITIES, key=lambda modality: answer[modality])
    return json.dumps({**answer, leading: float("nan")})


def _negative(answer: dict[str, Any], text: str) -> str:
    low = min(MODALITIES, key=lambda modality: answer[modality])
    high = max(MODALITIES, key=lambda modality: answer[modality])
    moved = answer[low] + 0.1
    return json.dumps({**answer, low: -0.1, high: round(answer[high] + moved, 4)})


def _five_channels(answer: dict[str, Any], text: str) -> str:
    high = max(MODALITIES, key=lambda modality: answer[modality])
    return json.dumps({**answer, high: round(answer[high] - 0.1, 4), "subtitles": 0.1})


def _fenced(answer: dict[str, Any], text: str) -> str:
    return fenced(text)


def _empty(answer: dict[str, Any], text: str) -> str:
    return ""


_SPOIL: Final[dict[str, Callable[[dict[str, Any], str], str]]] = {
    "prose": _prose,
    "half-json": _half_json,
    "sum-0.7": _sum_too_small,
    "nan": _nan,
    "negative": _negative,
    "five-channels": _five_channels,
    "fenced": _fenced,
    "empty": _empty,
}
#: The styles in which an answer can be spoilt, in the order in which `mixed` goes through them.
STYLES: Final = tuple(_SPOIL)
#: The styles that spoil any answer, not only one with weights in it.
_FOR_ANY_TEXT: Final = frozenset({"prose", "half-json", "fenced", "empty"})


def restyle(text: str, style: str) -> str:
    """The answer, spoilt.

    Args:
        text: an answer; the styles that change weights leave one without weights as it is.
        style: one of `STYLES`.
    """
    try:
        answer = json.loads(text)
    except ValueError:  # a base model's prose
        answer = {}
    if style not in _FOR_ANY_TEXT and not all(modality in answer for modality in MODALITIES):
        return text
    return _SPOIL[style](answer, text)
