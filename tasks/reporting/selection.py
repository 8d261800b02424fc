"""Which candidates, slices and answers of an evaluation a report picks out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

from data_contracts.evaluation import (
    BASE_STUDENT,
    DISTILLED_STUDENT,
    CandidateScores,
    EvaluationSummary,
    PairedDifference,
    Prediction,
    SliceScore,
)
from data_contracts.queries import DIFFICULTIES, LEADING_CHANNELS

SliceBy = Literal["channel", "difficulty", "domain"]

_ORDER: Final[dict[str, int]] = {
    value: place for place, value in enumerate((*LEADING_CHANNELS, *DIFFICULTIES))
}


def best(summary: EvaluationSummary) -> CandidateScores | None:
    """The candidate with the highest rubric; of equals the faster one, then the first."""
    return min(summary.benchmark, key=lambda c: (-c.rubric, c.latency_ms.mean), default=None)


def students(summary: EvaluationSummary) -> list[CandidateScores]:
    """The trained students, the distilled one first, the others in the summary's order."""
    found = [
        candidate
        for candidate in summary.benchmark
        if candidate.name.endswith("student") and candidate.name != BASE_STUDENT
    ]
    return sorted(found, key=lambda candidate: candidate.name != DISTILLED_STUDENT)


def focus(summary: EvaluationSummary) -> CandidateScores | None:
    """Whose worst answers are shown: the distilled student, else another, else the best."""
    return next(iter(students(summary)), best(summary))


def difference(summary: EvaluationSummary, candidate: str, against: str) -> PairedDifference | None:
    """The paired difference of two candidates, turned round where the summary has it so."""
    for paired in summary.differences:
        if (paired.candidate, paired.against) == (candidate, against):
            return paired
        if (paired.candidate, paired.against) == (against, candidate):
            low, high = paired.interval
            return PairedDifference(
                candidate=candidate, against=against, mean=-paired.mean, interval=(-high, -low)
            )
    return None


def slices(candidate: CandidateScores, by: SliceBy) -> dict[str, SliceScore]:
    """A candidate's slices of one kind, by their value."""
    return {found.value: found for found in candidate.slices if found.by == by}


def slice_sizes(summary: EvaluationSummary, by: SliceBy) -> dict[str, int]:
    """Each value's number of queries, in the order of the contract, then by name."""
    sizes: dict[str, int] = {}
    for candidate in summary.benchmark:
        for value, found in slices(candidate, by).items():
            sizes.setdefault(value, found.queries)
    return dict(sorted(sizes.items(), key=lambda item: (_ORDER.get(item[0], 99), item[0])))


def worst(predictions: Sequence[Prediction], n: int = 10) -> list[Prediction]:
    """The `n` worst answers: lowest score first, then largest mean error, then by id."""
    return sorted(predictions, key=lambda p: (p.score, -p.mean_error, p.id))[:n]
