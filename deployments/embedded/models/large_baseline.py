"""The large baseline: nearest recorded answers, the held-out queries taken out of its memory."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from data_contracts.heldout import is_held_out, near_benchmark
from deployments.embedded.models.answers import bare_json, fenced, fraction_of
from deployments.embedded.models.corpus import RecordedAnswer
from deployments.embedded.models.nearest import NearestAnswers

_NEIGHBOURS: Final = 8
#: The share of queries that it answers inside a code fence, as large models do now and then.
FENCED_SHARE: Final = 0.04


class LargeBaseline:
    """Answers with the weighted mean of the nearest recorded answers."""

    def __init__(self, nearest: NearestAnswers) -> None:
        self._nearest = nearest

    def answer(self, text: str) -> str:
        """Weights and reasoning for a query."""
        found = self._nearest.find(text, _NEIGHBOURS)
        leading = max(found.weights, key=lambda modality: found.weights[modality])
        answer = bare_json(
            found.weights,
            f"Queries like {text.strip()[:200]!r}, such as {found.nearest.query!r}, "
            f"are answered mostly by {leading}.",
        )
        return fenced(answer) if fraction_of(text, "large-baseline") < FENCED_SHARE else answer


def without_held_out(memory: Iterable[RecordedAnswer]) -> list[RecordedAnswer]:
    """The recorded answers that the baseline may remember: none held out, none near one."""
    return [
        answer
        for answer in memory
        if not is_held_out(answer.query) and near_benchmark(answer.query) is None
    ]
