"""The rows of the student's benchmark: what is trained on, evaluated on and timed with."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from data_contracts.heldout import NEAR_HELD_OUT, NearIndex, benchmark_queries, normalise
from data_contracts.queries import LabelledQuery, QueryText, query_id
from deployments.embedded.models.corpus import recorded_answers
from reelroute.errors import ReelRouteError
from reelroute.problems import first_problem
from reelroute.student.rows import LabelledRow
from reelroute.weights import MODALITIES, RoutingWeights, Weight

#: How far a held-out file's four weights may miss 1, as in a strictly parsed answer.
_SUM_TOLERANCE: Final = 0.01
#: Words of the queries that are timed: "about ten".
_TIMED_WORDS: Final = range(9, 12)


class _HeldOutLine(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)

    query: QueryText = Field(pattern=r"\S")
    visual: Weight
    audio: Weight
    transcription: Weight
    metadata: Weight


@dataclass(frozen=True, slots=True)
class TrainingRows:
    """What the candidates learn from.

    Attributes:
        rows: the labelled queries.
        near_evaluation: how many more there would be, were they not near an evaluated query.
    """

    rows: tuple[LabelledRow, ...]
    near_evaluation: int


def evaluation_rows(file: Path | None) -> list[LabelledRow]:
    """The queries that are evaluated: a file's, or the committed benchmark.

    Raises:
        ReelRouteError: the file can't be read, is empty, or a line is no labelled query; the
            message names the line.
    """
    if file is not None:
        return read_heldout(file)
    return [LabelledRow(row.query, row.weights.values()) for row in benchmark_queries()]


def read_heldout(file: Path) -> list[LabelledRow]:
    """Labelled queries from JSON lines with `query` and the four weights; other keys are ignored.

    Raises:
        ReelRouteError: as `evaluation_rows`.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise ReelRouteError(f"{file} is not UTF-8 text: give JSON lines") from None
    except OSError as error:
        raise ReelRouteError(f"{file} can't be read: {error.strerror}") from None
    rows = [
        _heldout_row(line, f"{file}, line {number}")
        for number, line in enumerate(lines, start=1)
        if line.strip()
    ]
    if not rows:
        raise ReelRouteError(f"{file} holds no labelled query: give one JSON object a line")
    return rows


def _heldout_row(line: str, where: str) -> LabelledRow:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise ReelRouteError(f"{where} is not JSON: {error}") from None
    if not isinstance(record, dict):
        raise ReelRouteError(f"{where} is not a JSON object with `query` and the four weights")
    try:
        parsed = _HeldOutLine.model_validate(record)
    except ValidationError as error:
        raise ReelRouteError(f"{where} is not a labelled query: {first_problem(error)}") from None
    weights: dict[str, float] = {modality: getattr(parsed, modality) for modality in MODALITIES}
    total = math.fsum(weights.values())
    if abs(total - 1) > _SUM_TOLERANCE:
        raise ReelRouteError(f"{where}: the four weights add up to {total:.6g}, not to 1")
    return LabelledRow(parsed.query, RoutingWeights.normalised(weights).values())


def training_rows(evaluated: Sequence[LabelledRow], size: int | None = None) -> TrainingRows:
    """The corpus as the validate stage splits it, without rows near the evaluated queries.

    Args:
        evaluated: the queries that no training row may equal or be near.
        size: at most so many rows, picked by the hash of the query; None: all.
    """
    index = NearIndex(row.query for row in evaluated)
    forms = {normalise(row.query) for row in evaluated}
    split = _split_corpus()
    kept = [
        row
        for row in split
        if normalise(row.query) not in forms and index.near(row.query, NEAR_HELD_OUT) is None
    ]
    picked = sorted(kept, key=lambda row: query_id(row.query))[:size]
    return TrainingRows(tuple(picked), len(split) - len(kept))


@cache
def _split_corpus() -> tuple[LabelledRow, ...]:
    # Prefect comes with it, so it waits until the rows are asked for.
    from tasks.validate import split_rows

    labelled = [
        LabelledQuery.from_weights(answer.query, answer.weights, labelled_by="corpus")
        for answer in recorded_answers()
    ]
    return tuple(LabelledRow(row.query, row.weights.values()) for row in split_rows(labelled).train)


def timed_queries(count: int) -> list[str]:
    """Queries of 9 to 11 words from the corpus, picked by hash, as many as there are up to `count`.

    Their answers aren't looked at, so it doesn't matter that most were trained on.
    """
    found = [a.query for a in recorded_answers() if len(a.query.split()) in _TIMED_WORDS]
    return sorted(found, key=query_id)[:count]
