"""The teacher: recorded answers, nearest recorded answers for a query it never saw."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from data_contracts.heldout import normalise
from deployments.embedded.models.answers import bare_json, bare_json_of
from deployments.embedded.models.corpus import RecordedAnswer
from deployments.embedded.models.nearest import NearestAnswers

_NEIGHBOURS: Final = 8
_Cell = tuple[str, str, str]


class WritingTask(BaseModel):
    """Asks the teacher to write queries for one cell of a label plan.

    Attributes:
        channel: a modality, or `mixed` for queries whose largest weight is a tie.
        count: how many queries are wanted; there may be fewer.
        round: a label of this round of writing; another round, another order.
        already_written: queries that must not come again.
    """

    model_config = ConfigDict(frozen=True)

    task: Literal["write_queries"]
    channel: str
    difficulty: str
    domain: str
    count: int
    round: str = ""
    already_written: tuple[str, ...] = ()


class Teacher:
    """Answers a query as recorded; writes queries by handing out recorded ones."""

    def __init__(self, memory: Sequence[RecordedAnswer], nearest: NearestAnswers) -> None:
        self._recorded = {normalise(answer.query): answer for answer in memory}
        self._nearest = nearest
        self._cells: defaultdict[_Cell, list[str]] = defaultdict(list)
        for answer in memory:
            self._cells[answer.channel, answer.difficulty, answer.domain].append(answer.query)

    def answer(self, text: str) -> str:
        """Weights and reasoning for a query, or queries where the text asks to write some."""
        task = _task(text)
        if task is not None:
            return json.dumps({"queries": self._write(task)}, ensure_ascii=False)
        recorded = self._recorded.get(normalise(text))
        if recorded is not None:
            return bare_json_of(recorded.weights)
        found = self._nearest.find(text, _NEIGHBOURS)
        return bare_json(
            found.weights,
            f"Derived for {text.strip()[:200]!r} from recorded answers to similar queries, "
            f"the nearest of them {found.nearest.query!r}.",
        )

    def _write(self, task: WritingTask) -> list[str]:
        cell = (task.channel, task.difficulty, task.domain)
        return in_turn(self._cells.get(cell, []), task.round, task.count, task.already_written)


def in_turn(queries: Iterable[str], turn: str, count: int, without: Iterable[str]) -> list[str]:
    """Up to `count` of the queries that are not yet written, in the order of this round."""
    written = {normalise(query) for query in without}
    left = [query for query in queries if normalise(query) not in written]
    left.sort(key=lambda query: hashlib.sha256(f"{turn}{query}".encode()).hexdigest())
    return left[: max(count, 0)]


def _task(text: str) -> WritingTask | None:
    """The task that a text sets, or None where it is a query, however odd."""
    if not text.lstrip().startswith("{"):
        return None
    try:
        return WritingTask.model_validate_json(text)
    except ValidationError:
        return None
