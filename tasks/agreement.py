"""How far the judge and the computed rubric agree: what the judge's score is worth."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from data_contracts.evaluation import ConfusionCell, JudgeAgreement, Prediction


def judge_agreement(predictions: Mapping[str, Sequence[Prediction]]) -> JudgeAgreement | None:
    """The agreement over all candidates' judged answers, or None where there are none."""
    pairs = {name: _pairs(answers) for name, answers in predictions.items()}
    every = [pair for mine in pairs.values() for pair in mine]
    if not every:
        return None
    cells = Counter(every)
    return JudgeAgreement(
        answers=len(every),
        spearman=spearman(every),
        exact=sum(rubric == judge for rubric, judge in every) / len(every),
        within_one=sum(abs(rubric - judge) <= 1 for rubric, judge in every) / len(every),
        confusion=tuple(
            ConfusionCell(rubric=rubric, judge=judge, answers=cells[rubric, judge])
            for rubric, judge in sorted(cells, reverse=True)
        ),
        by_candidate={name: spearman(mine) for name, mine in pairs.items()},
    )


def spearman(pairs: Iterable[tuple[float, float]]) -> float | None:
    """Spearman's rank correlation, ties sharing their mean rank; None where it isn't defined."""
    import pandas as pd

    frame = pd.DataFrame(list(pairs), columns=["rubric", "judge"], dtype=float)
    if (frame.nunique() < 2).any():
        return None
    return float(frame.corr(method="spearman").to_numpy()[0, 1])


def _pairs(predictions: Sequence[Prediction]) -> list[tuple[int, float]]:
    return [(p.score, p.judge) for p in predictions if p.judge is not None]
