"""Evaluation records: what each candidate answered, and what that is worth."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import Field, StringConstraints

from data_contracts.queries import Difficulty, Domain, Frozen, LeadingChannel
from reelroute.weights import Modality, RoutingWeights

BASE_STUDENT: Final = "base-student"
DISTILLED_STUDENT: Final = "distilled-student"
LARGE_BASELINE: Final = "large-baseline"
CURRENT_RELEASE: Final = "current-release"
LOCAL_STUDENT: Final = "local-student"
CASCADE: Final = "cascade"
#: What a run can promote, by default in the order of preference: the cheapest first.
STUDENTS: Final = (LOCAL_STUDENT, CASCADE, DISTILLED_STUDENT)

#: Candidates go by slugs; the pattern is the service's for inference source identifiers.
Slug = Annotated[str, StringConstraints(pattern=r"^[a-z0-9](-?[a-z0-9])*$", max_length=60)]

#: Why there is no judge's score: the judge gave none, its job's output has no line about the
#: answer, or what it answered is no verdict.
JudgeProblem = Literal["no score", "no verdict", "unreadable"]


class Prediction(Frozen):
    """One candidate's answer to one held-out query.

    Attributes:
        reference: the weights that the labeller gave.
        answer: the raw text of the model.
        weights: what the forgiving parser reads from it, or None.
        repairs: what the forgiving parser had to mend.
        problem: what the strict parser objects to, or None; an answer with a problem is not
            valid, even where its repaired weights score.
        latency_ms: request to answer, measured at the client, in milliseconds.
        score, max_error, mean_error, dominant: the rubric (errors in percent points).
        expected_error: the mean absolute error (0 to 0.5) that the candidate itself expected,
            where it gives such an estimate.
        judge: the LLM judge's score (1 to 5), or None where it gave none.
        judge_problem: why it gave none, where a judge was asked.
    """

    candidate: Slug
    id: str
    query: str
    reading: Literal["benchmark", "fresh"]
    channel: LeadingChannel
    difficulty: Difficulty
    domain: Domain
    reference: RoutingWeights
    answer: str
    weights: RoutingWeights | None
    repairs: tuple[str, ...] = ()
    problem: str | None = None
    latency_ms: float = Field(ge=0)
    input_tokens: int = Field(ge=0)
    output_tokens: int = Field(ge=0)
    score: int = Field(ge=1, le=5)
    max_error: int
    mean_error: float
    dominant: float
    expected_error: float | None = None
    judge: float | None = None
    judge_explanation: str = ""
    judge_problem: JudgeProblem | None = None

    @property
    def valid(self) -> bool:
        """Whether the strict parser accepts the answer."""
        return self.problem is None


class Latency(Frozen):
    """Latency of one query in milliseconds, measured at the client."""

    mean: float
    p50: float
    p95: float
    p99: float


class SliceScore(Frozen):
    """A candidate's rubric score over the queries that share one property."""

    by: Literal["channel", "difficulty", "domain"]
    value: str
    queries: int
    rubric: float
    mae: float


class CandidateScores(Frozen):
    """What one candidate reached on one reading of the held-out queries.

    Attributes:
        name: the slug.
        label: what it is in words, with the model's own name.
        model: the model id or deployment ARN that answered.
        rubric: mean weight score of the computed rubric, 1 to 5.
        rubric_interval: bootstrap 95% interval of `rubric`.
        judge: mean score of the LLM judge, or None where no judge ran.
        judged: how many answers the judge scored (its failures are not scored).
        judge_failures: how many it did not score, by what went wrong.
        mae: mean of the mean error over the four channels, 0 to 1.
        channel_mae: mean absolute error of each channel, 0 to 1, over readable answers.
        dominant_match: mean of the rubric's `dominant`.
        valid_rate: share of answers that the strict parser accepts.
        output_format: whether every answer is bare JSON (`consistent JSON`).
        cost_per_1k_usd: price of 1,000 routed queries at the price list's prices.
        usd_per_1k_input_tokens, usd_per_1k_output_tokens: those prices.
        simulated_cost: whether tokens and prices are the embedded models'.
    """

    name: Slug
    label: str
    model: str
    queries: int
    rubric: float
    rubric_interval: tuple[float, float]
    judge: float | None = None
    judged: int = 0
    judge_failures: dict[JudgeProblem, int] = Field(default_factory=dict)
    mae: float
    channel_mae: dict[Modality, float]
    dominant_match: float
    valid_rate: float
    output_format: Literal["consistent JSON", "inconsistent"]
    latency_ms: Latency
    input_tokens: int
    output_tokens: int
    usd_per_1k_input_tokens: float
    usd_per_1k_output_tokens: float
    cost_per_1k_usd: float
    simulated_cost: bool
    slices: tuple[SliceScore, ...] = ()


class PairedDifference(Frozen):
    """Bootstrap of a candidate's rubric minus another's over the same queries."""

    candidate: Slug
    against: Slug
    mean: float
    interval: tuple[float, float]


class CascadePoint(Frozen):
    """The cascade on the benchmark, had it passed on a certain share of the queries.

    Attributes:
        pass_on_above: the threshold on the local student's expected error.
        share: of the queries that are passed on, 0 to 1.
        mean_latency_ms, cost_per_1k_usd: over all queries, passed on or not.
    """

    pass_on_above: float
    share: float
    rubric: float
    mean_latency_ms: float
    cost_per_1k_usd: float


class ConfusionCell(Frozen):
    """How many answers have this step of the computed rubric and this score of the judge."""

    rubric: int
    judge: float
    answers: int


class JudgeAgreement(Frozen):
    """How far the judge's scores and the computed rubric agree, over all judged answers.

    Attributes:
        spearman: rank correlation, -1 to 1, or None where either has one value only.
        exact: share of the answers with the same score, 0 to 1.
        within_one: share whose scores differ by one at most.
        confusion: the cells with answers, best rubric first, then best judge first.
        by_candidate: each candidate's own rank correlation.
    """

    answers: int
    spearman: float | None
    exact: float
    within_one: float
    confusion: tuple[ConfusionCell, ...]
    by_candidate: dict[Slug, float | None]


class EvaluationSummary(Frozen):
    """All candidates of a run, on the benchmark (what the gate reads) and on fresh queries.

    Attributes:
        pass_on_above: the cascade's threshold, chosen on the fresh queries.
        cascade: what other thresholds would give on the benchmark.
        agreement: of the judge and the rubric, where the judge is a language model.
    """

    run_id: str
    benchmark: tuple[CandidateScores, ...]
    fresh: tuple[CandidateScores, ...] = ()
    differences: tuple[PairedDifference, ...] = ()
    pass_on_above: float | None = None
    cascade: tuple[CascadePoint, ...] = ()
    agreement: JudgeAgreement | None = None

    def difference(self, candidate: str, against: str) -> PairedDifference | None:
        """The paired difference of two candidates on the benchmark, or None."""
        return next(
            (d for d in self.differences if (d.candidate, d.against) == (candidate, against)),
            None,
        )

    def candidate(self, name: str) -> CandidateScores | None:
        """A candidate's scores on the benchmark by its slug, or None."""
        return next((scores for scores in self.benchmark if scores.name == name), None)
