"""Queries as token ids, in batches of about equal length."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

Tokens = Sequence[Sequence[int]]

PAD: Final = 0
#: So many batches are sorted by length together: enough for hardly any padding, few enough for
#: batches to differ from epoch to epoch.
_SORTED_TOGETHER: Final = 40


def shuffled_batches(
    tokens: Tokens, size: int, random: np.random.Generator
) -> list[NDArray[np.int64]]:
    """All rows once, in random order, in batches whose rows are about equally long.

    Returns:
        For each batch the positions of its rows in `tokens`.
    """
    lengths = np.array([len(row) for row in tokens])
    order = random.permutation(len(tokens))
    batches: list[NDArray[np.int64]] = []
    for start in range(0, len(order), size * _SORTED_TOGETHER):
        pool = order[start : start + size * _SORTED_TOGETHER]
        pool = pool[np.argsort(lengths[pool], kind="stable")]
        batches += [pool[at : at + size] for at in range(0, len(pool), size)]
    return [batches[place] for place in random.permutation(len(batches))]


def padded(tokens: Tokens, rows: Sequence[int]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """The token ids of rows, padded to the longest, and where there is a token: (rows, tokens)."""
    longest = max(len(tokens[row]) for row in rows)
    ids = np.full((len(rows), longest), PAD, dtype=np.int64)
    mask = np.zeros((len(rows), longest), dtype=np.bool_)
    for place, row in enumerate(rows):
        ids[place, : len(tokens[row])] = tokens[row]
        mask[place, : len(tokens[row])] = True
    return ids, mask
