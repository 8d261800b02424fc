"""A realistic evaluation without a pipeline: candidates that err by known amounts."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from data_contracts.evaluation import (
    BASE_STUDENT,
    CURRENT_RELEASE,
    DISTILLED_STUDENT,
    LARGE_BASELINE,
    LOCAL_STUDENT,
    CandidateScores,
    CascadePoint,
    EvaluationSummary,
    Latency,
    PairedDifference,
    Prediction,
    SliceScore,
)
from data_contracts.queries import LabelledQuery, leading_channel, query_id
from reelroute.rubric import score
from reelroute.weights import MODALITIES, RoutingWeights, round_to_grid
from tasks.reporting.inputs import DemoAnswer, PublishedFigures, ReportInput

PUBLISHED_PATH: Final = Path(__file__).parents[3] / "configs" / "published.yaml"
DEMO_QUERIES: Final = ("CEO discussing quarterly earnings", "sunset over mountains")

_SUBJECTS: Final = ("goalkeeper", "violin", "minister", "thunderstorm", "episode 7", "interview")
_ACTIONS: Final = ("celebrating", "explaining the new law", "at dusk", "roaring", "in close-up")
_DIFFICULTIES: Final = ("easy", "medium", "hard", "edge")
_DOMAINS: Final = ("corporate", "film", "music", "nature", "news", "sport")


@dataclass(frozen=True)
class Kind:
    """How a fake candidate behaves.

    Attributes:
        noise: how far its weights scatter round the reference.
        latency_ms: its typical latency.
        prose: the share of its answers with prose around the JSON.
    """

    label: str
    noise: float
    latency_ms: float
    prose: float = 0.0
    usd_in: float = 0.0
    usd_out: float = 0.0


KINDS: Final[Mapping[str, Kind]] = {
    BASE_STUDENT: Kind(
        "base student (embedded zero-shot similarity)", 0.55, 3.1, 0.31, 0.000035, 0.00014
    ),
    DISTILLED_STUDENT: Kind(
        "Bedrock student (embedded ridge over static embeddings)", 0.09, 3.4, 0, 0.000035, 0.00014
    ),
    LOCAL_STUDENT: Kind("local student (22 M parameter encoder)", 0.05, 5.6),
    CURRENT_RELEASE: Kind("release 2024-w31", 0.10, 3.3, 0, 0.000035, 0.00014),
    LARGE_BASELINE: Kind(
        "large baseline (embedded nearest recorded answers)", 0.07, 41.0, 0.04, 0.0008, 0.004
    ),
}


def labelled_queries(n: int = 120, seed: int = 1) -> list[LabelledQuery]:
    """Queries with weights on the grid of 0.05, as a teacher would label them."""
    chance = random.Random(seed)
    found = []
    for number in range(n):
        raw = [chance.gammavariate(0.6, 1) for _ in MODALITIES]
        weights = on_grid(raw)
        found.append(
            LabelledQuery.from_weights(
                f"{chance.choice(_SUBJECTS)} {chance.choice(_ACTIONS)} {number}",
                weights,
                difficulty=chance.choice(_DIFFICULTIES),
                domain=chance.choice(_DOMAINS),
                labelled_by="embedded.teacher-v1",
            )
        )
    return found


def on_grid(numbers: Sequence[float]) -> RoutingWeights:
    """Weights of these proportions, rounded as a labeller or a student would."""
    shares = {str(modality): share for modality, share in round_to_grid(numbers).items()}
    return RoutingWeights.normalised(shares, reasoning="The action is seen, not said.")


def answer(weights: RoutingWeights) -> str:
    """A well-formed answer with these weights."""
    return json.dumps({**weights.as_dict(), "reasoning": "The words point to what is seen."})


def predictions(
    candidate: str,
    queries: Sequence[LabelledQuery],
    *,
    reading: str = "benchmark",
    judged: bool = True,
    seed: int = 2,
) -> list[Prediction]:
    """A candidate's answers to the queries, scored by the rubric."""
    chance, kind = random.Random(f"{candidate} {seed}"), KINDS[candidate]
    found = []
    for query in queries:
        noisy = [max(0.0, w + chance.gauss(0, kind.noise)) for w in query.weights.values()]
        weights = on_grid(noisy) if sum(noisy) else None
        text = answer(weights) if weights else ""
        repairs: tuple[str, ...] = ()
        problem = None if weights else "not bare JSON"
        if chance.random() < kind.prose:
            text = f"Sure! Here are the weights:\n```json\n{text}\n```\nI hope this helps."
            repairs, problem = ("code fence", "surrounding prose"), "not bare JSON: Expecting value"
        verdict = score(weights, query.weights)
        found.append(
            Prediction.model_validate(
                {
                    "candidate": candidate,
                    "id": query.id,
                    "query": query.query,
                    "reading": reading,
                    "channel": leading_channel(query.weights),
                    "difficulty": query.difficulty,
                    "domain": query.domain,
                    "reference": query.weights,
                    "answer": text,
                    "weights": weights,
                    "repairs": repairs,
                    "problem": problem,
                    "latency_ms": kind.latency_ms * chance.lognormvariate(0, 0.2),
                    "input_tokens": 420,
                    "output_tokens": 55,
                    "score": verdict.score,
                    "max_error": verdict.max_error,
                    "mean_error": verdict.mean_error,
                    "dominant": verdict.dominant,
                    "judge": max(1.0, verdict.score - chance.choice((0, 0, 1))) if judged else None,
                }
            )
        )
    return found


def scores(answers: Sequence[Prediction], **changes: Any) -> CandidateScores:
    """What these answers are worth; `changes` replace single fields."""
    name, n = answers[0].candidate, len(answers)
    kind = KINDS[name]
    rubric = _mean([a.score for a in answers])
    judged = [a.judge for a in answers if a.judge is not None]
    latencies = sorted(a.latency_ms for a in answers)
    readable = [(a.weights.as_dict(), a.reference.as_dict()) for a in answers if a.weights]
    fields: dict[str, Any] = {
        "name": name,
        "label": kind.label,
        "model": f"arn:aws:bedrock:us-east-1:123456789012:custom-model-deployment/{name}",
        "queries": n,
        "rubric": rubric,
        "rubric_interval": (max(1.0, rubric - 0.11), min(5.0, rubric + 0.11)),
        "judge": _mean(judged) if judged else None,
        "judged": len(judged),
        "mae": _mean([a.mean_error for a in answers]) / 100,
        "channel_mae": {m: _mean([abs(p[m] - t[m]) for p, t in readable]) for m in MODALITIES},
        "dominant_match": _mean([a.dominant for a in answers]),
        "valid_rate": _mean([a.valid for a in answers]),
        "output_format": ("consistent JSON" if all(a.valid for a in answers) else "inconsistent"),
        "latency_ms": Latency(
            mean=_mean(latencies),
            p50=latencies[n // 2],
            p95=latencies[int(n * 0.95)],
            p99=latencies[int(n * 0.99)],
        ),
        "input_tokens": sum(a.input_tokens for a in answers),
        "output_tokens": sum(a.output_tokens for a in answers),
        "usd_per_1k_input_tokens": kind.usd_in,
        "usd_per_1k_output_tokens": kind.usd_out,
        "cost_per_1k_usd": 420 * kind.usd_in + 55 * kind.usd_out,
        "simulated_cost": bool(kind.usd_in),
        "slices": tuple(_slices(answers)),
    }
    return CandidateScores.model_validate({**fields, **changes})


def summary(
    names: Sequence[str] = tuple(KINDS),
    *,
    judged: bool = True,
    fresh: bool = True,
    differences: bool = True,
) -> EvaluationSummary:
    """The evaluation of the named candidates."""
    return _evaluated(names, judged=judged, fresh=fresh, differences=differences)[0]


def cascade() -> dict[str, Any]:
    """The cascade's part of a summary: passing on helps up to a fifth of the queries."""
    points = tuple(
        CascadePoint(
            pass_on_above=0.2 - 0.01 * i,
            share=i / 20,
            rubric=4.2 + 0.05 * min(i, 4) - 0.02 * i,
            mean_latency_ms=2 + 4 * i / 20,
            cost_per_1k_usd=0.02 * i / 20,
        )
        for i in range(21)
    )
    return {"pass_on_above": 0.16, "cascade": points}


def report(
    names: Sequence[str] = tuple(KINDS),
    *,
    judged: bool = True,
    fresh: bool = True,
    differences: bool = True,
    **changes: Any,
) -> ReportInput:
    """A report's input for the named candidates; `changes` replace single fields."""
    found, answers = _evaluated(names, judged=judged, fresh=fresh, differences=differences)
    published = published_figures()
    fields: dict[str, Any] = {
        "run_id": found.run_id,
        "environment": "local",
        "summary": found,
        "predictions": answers,
        "demo_answers": [demo_answer(query, names) for query in DEMO_QUERIES],
        "published": published,
        "latency_steps": published.search_steps.milliseconds,
        "labelled_by": "embedded.teacher-v1",
        "reference_note": "Recorded answers of a large language model, not of people.",
    }
    return ReportInput(**{**fields, **changes})


def demo_answer(query: str, names: Sequence[str]) -> DemoAnswer:
    """Bare JSON from every candidate but the base student, which answers in prose."""
    weights = on_grid((0.1, 0.05, 0.7, 0.15))
    bare = answer(weights)
    prose = (
        f'Based on the query "{query}", I would weigh the channels like this:\n\n'
        f"```json\n{bare}\n```\n\n**Note:** visual may also matter."
    )
    return DemoAnswer(query, {name: prose if name == BASE_STUDENT else bare for name in names})


def published_figures() -> PublishedFigures:
    """The figures of the committed `configs/published.yaml`."""
    return PublishedFigures.from_document(yaml.safe_load(PUBLISHED_PATH.read_text("utf-8")))


def prediction(**changes: Any) -> Prediction:
    """One answer of the distilled student; `changes` replace single fields."""
    query = labelled_queries(1)[0]
    fields = predictions(DISTILLED_STUDENT, [query])[0].model_dump()
    if "query" in changes:
        changes.setdefault("id", query_id(changes["query"]))
    return Prediction.model_validate({**fields, **changes})


def _evaluated(
    names: Sequence[str], *, judged: bool, fresh: bool, differences: bool
) -> tuple[EvaluationSummary, dict[str, list[Prediction]]]:
    benchmark = {name: predictions(name, labelled_queries(), judged=judged) for name in names}
    newer = {
        name: predictions(name, labelled_queries(24, seed=9), reading="fresh", judged=judged)
        for name in (names if fresh else ())
    }
    by_name = {name: scores(answers) for name, answers in benchmark.items()}
    found = EvaluationSummary(
        run_id="run-7f3a9c21",
        benchmark=tuple(by_name.values()),
        fresh=tuple(scores(answers) for answers in newer.values()),
        differences=tuple(
            _difference(by_name[name], by_name[other])
            for name in names
            for other in (BASE_STUDENT, CURRENT_RELEASE)
            if differences and other in names and name not in (BASE_STUDENT, other)
        ),
        **(cascade() if {LOCAL_STUDENT, DISTILLED_STUDENT} <= set(names) else {}),
    )
    return found, {name: benchmark[name] + newer.get(name, []) for name in names}


def _difference(candidate: CandidateScores, against: CandidateScores) -> PairedDifference:
    mean = candidate.rubric - against.rubric
    return PairedDifference(
        candidate=candidate.name,
        against=against.name,
        mean=mean,
        interval=(mean - 0.12, mean + 0.12),
    )


def _slices(answers: Sequence[Prediction]) -> list[SliceScore]:
    found = []
    for by in ("channel", "difficulty", "domain"):
        for value in sorted({getattr(a, by) for a in answers}):
            part = [a for a in answers if getattr(a, by) == value]
            found.append(
                SliceScore(
                    by=by,
                    value=value,
                    queries=len(part),
                    rubric=_mean([a.score for a in part]),
                    mae=_mean([a.mean_error for a in part]) / 100,
                )
            )
    return found


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
