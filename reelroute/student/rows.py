"""Labelled rows as training takes them, and the development split."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from reelroute.student.errors import StudentError

#: Fewer rows than this can't be split and learnt from.
MIN_ROWS: Final = 50
_MIN_DEV_ROWS: Final = 20
_ENOUGH_DEV_ROWS: Final = 300
_SMALL_SET_SHARE: Final = 0.2


@dataclass(frozen=True, slots=True)
class LabelledRow:
    """A query and its reference weights, in the order of `MODALITIES`, that add up to 1."""

    query: str
    weights: tuple[float, float, float, float]


def weight_array(rows: Sequence[LabelledRow]) -> NDArray[np.float64]:
    """The reference weights of rows, shape (n, 4)."""
    return np.array([row.weights for row in rows], dtype=np.float64).reshape(-1, 4)


def data_sha256(rows: Sequence[LabelledRow]) -> str:
    """A hash of the rows' content that doesn't depend on their order."""
    lines = sorted(json.dumps([row.query, row.weights], ensure_ascii=False) for row in rows)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _place(query: str) -> float:
    """Where a query stands in [0, 1), by the hash of its folded text."""
    folded = " ".join(unicodedata.normalize("NFKC", query).casefold().split())
    digest = hashlib.sha256(f"student-dev:{folded}".encode()).digest()
    return int.from_bytes(digest[:8]) / 2**64


def split_dev(
    rows: Sequence[LabelledRow], share: float
) -> tuple[list[LabelledRow], list[LabelledRow]]:
    """Training and development rows, each sorted by the hash of its query.

    A query is on the same side in every run with the same share, whatever the other rows; a
    small set gives a larger share, so that its development rows are enough to choose by: 300, but
    not more than a fifth, and never fewer than 20. Queries that differ in case or spaces alone
    are on one side.

    Args:
        rows: at least `MIN_ROWS`, in any order.
        share: of the rows for development, 0 to 0.5.

    Raises:
        StudentError: there are too few rows.
    """
    if len(rows) < MIN_ROWS:
        raise StudentError(f"{len(rows)} labelled rows are too few to train on: {MIN_ROWS} needed")
    placed = sorted(
        ((_place(row.query), row) for row in rows),
        key=lambda pair: (pair[0], pair[1].query, pair[1].weights),
    )
    share = max(share, min(_SMALL_SET_SHARE, _ENOUGH_DEV_ROWS / len(rows)))
    last = max(share, placed[_MIN_DEV_ROWS - 1][0])
    dev = [row for place, row in placed if place <= last]
    train = [row for place, row in placed if place > last]
    if not train:
        raise StudentError("all labelled rows have the same query: there is nothing to train on")
    return train, dev
