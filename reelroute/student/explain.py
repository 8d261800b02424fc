"""Why the local student answered as it did: which words moved which channel.

Shapley values of the query's words over the student's mean weights (Lundberg and Lee, A Unified
Approach to Interpreting Model Predictions, NeurIPS 2017), by sampled permutations (Štrumbelj
and Kononenko, 2014). Along one permutation the changes from the empty query to the whole one
add up to the difference of the two by themselves, so their mean over permutations does too:
`base + sum of the words = the mean weights of the whole query`, without a residual to place.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from reelroute.student.model import StudentModel
from reelroute.weights import MODALITIES, Modality, RoutingWeights

#: Permutations come in pairs, each with its reverse, which halves the sampling error.
PERMUTATION_PAIRS: Final = 4
#: Words beyond these are explained together with the last one: each costs some milliseconds.
MAX_WORDS: Final = 24
#: A word that moves a channel by less than this is not worth naming.
_WORTH_NAMING: Final = 0.02

_WORD: Final = re.compile(r"\S+")


@dataclass(frozen=True, slots=True)
class Attribution:
    """What each word of a query added to each channel's mean weight.

    Attributes:
        words: the query's words, in order.
        contributions: shape (words, 4), the columns in the order of `MODALITIES`.
        base: the student's mean weights of the empty query, (4,).
        mean: its mean weights of the whole query, (4,): `base + contributions.sum(axis=0)`.
    """

    words: tuple[str, ...]
    contributions: NDArray[np.float64]
    base: NDArray[np.float64]
    mean: NDArray[np.float64]


def attribute(model: StudentModel, query: str) -> Attribution:
    """The Shapley values of the words of a query; the same query gives the same values."""
    words = _WORD.findall(query)
    if len(words) > MAX_WORDS:
        words = [*words[: MAX_WORDS - 1], " ".join(words[MAX_WORDS - 1 :])]
    known: dict[frozenset[int], NDArray[np.float64]] = {}

    def mean(kept: frozenset[int]) -> NDArray[np.float64]:
        if kept not in known:
            known[kept] = model.mean_weights(" ".join(words[i] for i in sorted(kept)))
        return known[kept]

    contributions = np.zeros((len(words), len(MODALITIES)))
    orders = _orders(len(words), query)
    for order in orders:
        kept: frozenset[int] = frozenset()
        for position in order:
            more = kept | {position}
            contributions[position] += (mean(more) - mean(kept)) / len(orders)
            kept = more
    whole = frozenset(range(len(words)))
    return Attribution(tuple(words), contributions, mean(frozenset()), mean(whole))


def sentence(weights: RoutingWeights, attribution: Attribution) -> str:
    """One plain sentence of what the words did, specific to the query."""
    leading = sorted(
        (m for m in MODALITIES if weights.as_dict()[m] >= 0.05),
        key=lambda m: -weights.as_dict()[m],
    )[:2]
    parts = []
    for modality in leading:
        column = attribution.contributions[:, MODALITIES.index(modality)]
        order = np.argsort(-column)[:3]
        named = [(attribution.words[i], column[i]) for i in order if column[i] >= _WORTH_NAMING]
        if named:
            shown = _list([f"“{word}” (+{amount:.2f})" for word, amount in named])
            parts.append(f"{shown} {'raise' if len(named) > 1 else 'raises'} {modality}")
    if not parts:
        return (
            f"No single word of this query moves the weights much; {weights.dominant} leads as it "
            f"does without any word ({_base(attribution, weights.dominant):.2f})."
        )
    against = _strongest_against(attribution, weights.dominant)
    end = f", while {against} lowers {weights.dominant}" if against else ""
    return f"{_list(parts)}{end}, from {_base(attribution, weights.dominant):.2f} for " + (
        f"{weights.dominant} without any word."
    )


def _orders(count: int, query: str) -> list[list[int]]:
    dice = random.Random(query)  # seeded by the text: no clock, no global state
    orders = []
    for _ in range(PERMUTATION_PAIRS):
        order = list(range(count))
        dice.shuffle(order)
        orders += [order, order[::-1]]
    return orders


def _strongest_against(attribution: Attribution, modality: Modality) -> str | None:
    column = attribution.contributions[:, MODALITIES.index(modality)]
    if not len(column) or column.min() > -_WORTH_NAMING:
        return None
    position = int(column.argmin())
    return f"“{attribution.words[position]}” ({column[position]:.2f})"


def _base(attribution: Attribution, modality: Modality) -> float:
    return float(attribution.base[MODALITIES.index(modality)])


def _list(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
