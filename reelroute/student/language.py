"""Which training queries are in a language that the student's encoder doesn't know.

The encoder was pretrained on English, so every other language counts as one that it doesn't know.
Labels come from py3langid (Lui and Baldwin, ACL 2012). It is asked while training alone: the
student learns to tell by itself, from features that it computes anyway, and errs less than the
labels that it learnt from, since it has seen the domain.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

KNOWN: Final = "en"
#: By how much the log-probability of another language must exceed the known one's: short queries
#: with a foreign name in them stay below.
_MARGIN: Final = 12.0


def in_unknown_language(queries: Sequence[str]) -> NDArray[np.float32]:
    """1 for each query in a language other than English, or mixed with one; 0 for the others."""
    import py3langid

    def margin(query: str) -> float:
        found: dict[str, float] = dict(py3langid.rank(query))
        known = found.pop(KNOWN)
        return max(found.values()) - known

    return np.array([margin(query) > _MARGIN for query in queries], dtype=np.float32)
