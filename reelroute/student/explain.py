"""Why the local student answered as it did: which words moved which channel.

Shapley values of the query's words (Lundberg and Lee, A Unified Approach to Interpreting Model
Predictions, NeurIPS 2017), by sampled orders (Štrumbelj and Kononenko, 2014). Along one order
the changes from the empty query to the whole one add up to the difference of the two by
themselves, so their mean over orders does too: `base + sum of the words = the whole query`,
without a residual to place. What the student says of the empty query is the base.

The same orders attribute two quantities at once: the mean weights, of which people read, and
the network's logits, one for each channel and value, from which all else follows.

A word's Shapley value averages over contexts that the reader doesn't see. So a sentence names a
word only where leaving that word alone out of the query moves the channel the same way.
"""

from __future__ import annotations

import itertools
import random
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from reelroute.student.model import StudentModel
from reelroute.weights import GRID_STEP, MODALITIES, Modality, RoutingWeights

#: Up to so many words all orders are walked, and the values are exact: at most 16 texts.
_EXACT_WORDS: Final = 4
#: Otherwise orders come in pairs, each with its reverse, which halves the sampling error: two
#: pairs up to so many words, then one. Every new text costs the time of one answer.
_TWO_PAIRS_UP_TO: Final = 10
#: Words beyond these are explained together with the last one.
MAX_WORDS: Final = 24
#: A word that moves a channel by less than a step of the grid is not worth naming; it is also
#: twice the mean sampling error (0.025 with two pairs, measured against exact values).
_WORTH_NAMING: Final = GRID_STEP
_NAMED: Final = 2
_SHOWN_CHARACTERS: Final = 30


@dataclass(frozen=True, slots=True)
class Attribution:
    """What each word of a query added to the student's answer.

    Channels are in the order of `MODALITIES`, logits in that of `StudentModel.outputs`.

    Attributes:
        words: the query's words, in order.
        contributions: to the mean weights, (words, 4).
        base: the student's mean weights of the empty query, (4,).
        mean: those of the whole query, (4,): `base + contributions.sum(axis=0)`.
        removals: by how much the mean weights of the whole query lie above those without this
            one word, (words, 4).
        logit_contributions: to the logits, (words, OUTPUTS).
        base_logits: the logits of the empty query, (OUTPUTS,).
        logits: those of the whole query: `base_logits + logit_contributions.sum(axis=0)`.
    """

    words: tuple[str, ...]
    contributions: NDArray[np.float64]
    base: NDArray[np.float64]
    mean: NDArray[np.float64]
    removals: NDArray[np.float64]
    logit_contributions: NDArray[np.float64]
    base_logits: NDArray[np.float64]
    logits: NDArray[np.float64]

    def movers(self, modality: Modality) -> list[tuple[int, float]]:
        """The words that moved a channel, by position, with what each added; the strongest first.

        Those alone whose removal from the query moves the channel the same way.
        """
        channel = MODALITIES.index(modality)
        added = self.contributions[:, channel]
        agreeing = np.flatnonzero(added * self.removals[:, channel] > 0)
        order = agreeing[np.argsort(-np.abs(added[agreeing]), kind="stable")]
        return [(int(position), float(added[position])) for position in order]


def attribute(model: StudentModel, query: str) -> Attribution:
    """What the words of a query did; the same query gives the same values.

    Args:
        model: the student.
        query: the query, its words parted by single spaces, as routers ask it.
    """
    words = query.split()
    if len(words) > MAX_WORDS:
        words = [*words[: MAX_WORDS - 1], " ".join(words[MAX_WORDS - 1 :])]
    everything = frozenset(range(len(words)))
    orders = _orders(len(words), query)
    texts: dict[frozenset[int], int] = {}

    def text(kept: frozenset[int]) -> int:
        return texts.setdefault(kept, len(texts))

    walks = [[text(kept) for kept in _growing(order)] for order in orders]
    without = [text(everything - {position}) for position in range(len(words))]
    empty, whole = text(frozenset()), text(everything)
    outputs = model.outputs([_joined(words, kept) for kept in texts])
    means = model.means_of(outputs)
    logits = outputs.astype(np.float64)

    def walked(values: NDArray[np.float64]) -> NDArray[np.float64]:
        added = np.zeros((len(words), values.shape[1]))
        for order, walk in zip(orders, walks, strict=True):
            added[order] += np.diff(values[walk], axis=0) / len(orders)
        return added

    return Attribution(
        words=tuple(words),
        contributions=walked(means),
        base=means[empty],
        mean=means[whole],
        removals=means[whole] - means[without],
        logit_contributions=walked(logits),
        base_logits=logits[empty],
        logits=logits[whole],
    )


def sentence(weights: RoutingWeights, attribution: Attribution) -> str:
    """One plain sentence on what the words of the query did to the weights."""
    given = weights.as_dict()
    first, second = sorted(MODALITIES, key=lambda modality: -given[modality])[:2]
    pushed, held = _named(attribution, first)
    start = f"{first.capitalize()} leads with {given[first]:.2f}"
    if given[second] == given[first]:
        start += f", as much as {second}"
    elif given[first] == 1:
        start = f"All weight is on {first}"
    reasons = []
    if pushed:
        reasons.append(f"raised by {_list(pushed)}")
    if held:
        reasons.append(f"{'though ' if pushed else ''}lowered by {_list(held)}")
    if not reasons:
        reasons.append(_without_reason(attribution, first))
    aside, _ = _named(attribution, second)
    if aside and given[second] >= GRID_STEP:
        reasons.append(f"while {second} has {given[second]:.2f}, raised by {_list(aside)}")
    return f"{start}, {', '.join(reasons)}."


def _without_reason(attribution: Attribution, leading: Modality) -> str:
    """What to say where no single word moved the leading channel."""
    if not attribution.words:
        return "as there are no words to go by"
    if MODALITIES[int(attribution.base.argmax())] == leading:
        return "as it does without any words: no single word of the query changes that much"
    return "by its words together: no single one of them raises it much"


def _named(attribution: Attribution, modality: Modality) -> tuple[list[str], list[str]]:
    """The words that raised a channel and those that lowered it, as they are shown."""
    amounts: dict[str, float] = {}
    for position, added in attribution.movers(modality):
        shown = _shown(attribution.words[position])
        if shown:
            amounts[shown] = amounts.get(shown, 0.0) + added
    order = sorted(amounts.items(), key=lambda item: -abs(item[1]))
    raised = [f"“{word}” (+{by:.2f})" for word, by in order if by >= _WORTH_NAMING]
    lowered = [f"“{word}” (−{-by:.2f})" for word, by in order if by <= -_WORTH_NAMING]
    return raised[:_NAMED], lowered[:1]


def _shown(word: str) -> str:
    """A word as a sentence shows it: no control or direction characters, not too long."""
    clean = "".join(c for c in word if unicodedata.category(c)[0] != "C").strip(' ,.;:!?"“”')
    return clean if len(clean) <= _SHOWN_CHARACTERS else f"{clean[: _SHOWN_CHARACTERS - 1]}…"


def _joined(words: list[str], kept: frozenset[int]) -> str:
    return " ".join(words[position] for position in sorted(kept))


def _growing(order: list[int]) -> Iterable[frozenset[int]]:
    """The kept words along an order, from none to all."""
    kept: frozenset[int] = frozenset()
    yield kept
    for position in order:
        kept |= {position}
        yield kept


def _orders(count: int, query: str) -> list[list[int]]:
    if count <= _EXACT_WORDS:
        return [list(order) for order in itertools.permutations(range(count))]
    dice = random.Random(query.encode("utf-8", "replace"))  # seeded by the text: no clock
    orders = []
    for _ in range(2 if count <= _TWO_PAIRS_UP_TO else 1):
        order = list(range(count))
        dice.shuffle(order)
        orders += [order, order[::-1]]
    return orders


def _list(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
