"""What the evaluation report says, apart from how it looks: sections of text, tables, figures.

`markdown` and `page` render the same `Content`. Every string in it is plain text; the
renderers make it inert.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Final, get_args

from data_contracts.evaluation import (
    BASE_STUDENT,
    LARGE_BASELINE,
    CandidateScores,
    EvaluationSummary,
    JudgeAgreement,
    JudgeProblem,
    Prediction,
)
from reelroute.errors import AnswerError
from reelroute.parsing import parse_forgiving
from reelroute.rubric import STEPS, percents
from reelroute.weights import MODALITIES, Modality, RoutingWeights
from tasks.reporting import text
from tasks.reporting.inputs import ReportInput
from tasks.reporting.selection import (
    SliceBy,
    best,
    difference,
    focus,
    slice_sizes,
    slices,
    students,
    worst,
)
from tasks.reporting.text import DEFAULT_LIMIT

#: The charts that a report can show: name (of the function in `charts`) to caption.
FIGURES: Final = {
    "comparison": "The candidates side by side on the computed rubric, the judge and latency",
    "quality_against_latency": "Rubric against mean latency",
    "latency_by_step": "Latency of one search by step, for each candidate as the router",
    "weight_distribution": "How each channel's weights are distributed over the training examples",
    "slices": "Rubric by leading channel and by difficulty",
    "cascade": "Quality, latency and cost of the cascade over the share that is passed on",
}

_SLICE_TITLES: Final[dict[SliceBy, str]] = {
    "channel": "Leading channel",
    "difficulty": "Difficulty",
    "domain": "Domain",
}
_JUDGE_PROBLEMS: Final = get_args(JudgeProblem)
_QUERY_LIMIT: Final = 200
_ANSWER_LIMIT: Final = 300


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell of a table.

    Attributes:
        text: what it says.
        note: a remark of ours before the text.
        strong: whether it stands out, as the best of its row.
        verbatim: whether `text` is what a model or a user wrote.
        limit: the most characters of `text` that are shown.
    """

    text: str
    note: str = ""
    strong: bool = False
    verbatim: bool = False
    limit: int = DEFAULT_LIMIT


@dataclass(frozen=True, slots=True)
class Table:
    """A table; `numeric` columns are set to the right, the others to the left."""

    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    numeric: Collection[int] = ()
    caption: str = ""


@dataclass(frozen=True, slots=True)
class Figure:
    """A chart with its caption."""

    png: bytes
    caption: str


Block = str | Table | Figure


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the report under a heading; `anchor` is unique and fit for a link."""

    anchor: str
    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True, slots=True)
class Content:
    """The whole report.

    Attributes:
        title: its heading.
        headline: what a reader in a hurry should know, one sentence each.
        facts: name and value of what was evaluated.
        sections: those that have something to show.
    """

    title: str
    headline: Sequence[str]
    facts: Sequence[tuple[str, str]]
    sections: Sequence[Section]


def report_content(report: ReportInput, charts: dict[str, bytes]) -> Content:
    """The report's content, without the sections that have no data.

    Raises:
        ValueError: a chart's name is not one of `FIGURES`.
    """
    unknown = sorted(charts.keys() - FIGURES.keys())
    if unknown:
        raise ValueError(f"unknown chart {unknown[0]!r}: expected {', '.join(FIGURES)}")
    sections = (
        Section("results", "Results", _results(report, charts)),
        Section("side-by-side", "Answers side by side", _side_by_side(report)),
        Section("latency", "Latency of one search", _latency(report, charts)),
        Section("cost", "Cost of routing", _cost(report.summary)),
        Section("cascade", "The cascade", _cascade(report.summary, charts)),
        Section("slices", "Where they do well and badly", _slices(report.summary, charts)),
        Section("differences", "Paired differences", _differences(report.summary)),
        Section("judge", "The judge", _judging(report.summary)),
        Section("fresh", "Fresh queries", _fresh(report.summary)),
        Section("worst", "Worst answers", _worst(report)),
        Section("training", "Training examples", _figure(charts, "weight_distribution")),
        Section("published", "Published figures", _published(report)),
        Section("reading", "How to read this", _reading(report)),
    )
    return Content(
        title="Evaluation of the intent routers",
        headline=headline(report.summary),
        facts=_facts(report),
        sections=[section for section in sections if section.blocks],
    )


def headline(summary: EvaluationSummary) -> list[str]:
    """Which candidate is best, and how far each student is from the base student."""
    leader = best(summary)
    if leader is None:
        return ["No candidate was evaluated."]
    return [
        _leader_sentence(summary, leader),
        *(
            sentence
            for student in students(summary)
            if (sentence := _against_base_sentence(summary, student))
        ),
    ]


def _leader_sentence(summary: EvaluationSummary, leader: CandidateScores) -> str:
    result = (
        f"rubric {text.score(leader.rubric)} of 5 {text.interval(leader.rubric_interval)} over "
        f"{leader.queries:,} held-out queries at {text.milliseconds(leader.latency_ms.mean)} ms "
        "a query on average"
    )
    others = [candidate for candidate in summary.benchmark if candidate.name != leader.name]
    if not others:
        return f"{leader.name} is the only candidate: {result}."
    near = [other.name for other in others if not _clearly_above(summary, leader, other)]
    caveat = f", not clearly ahead of {_listed(near)}" if near else ""
    return f"{leader.name} is best: {result}{caveat}."


def _clearly_above(
    summary: EvaluationSummary, leader: CandidateScores, other: CandidateScores
) -> bool:
    """By the paired difference where there is one, else by intervals that do not overlap."""
    if paired := difference(summary, leader.name, other.name):
        return paired.interval[0] > 0
    return leader.rubric_interval[0] > other.rubric_interval[1]


def _against_base_sentence(summary: EvaluationSummary, student: CandidateScores) -> str | None:
    base = summary.candidate(BASE_STUDENT)
    if base is None:
        return None
    valid = (
        f"valid answers {text.percent(student.valid_rate)} against {text.percent(base.valid_rate)}"
    )
    paired = difference(summary, student.name, base.name)
    if paired is None:
        return (
            f"{student.name} reaches {text.score(student.rubric)} where {base.name} reaches "
            f"{text.score(base.rubric)} (no paired difference was computed); {valid}."
        )
    if paired.interval[0] <= 0 <= paired.interval[1]:
        verdict = f"is not clearly different from {base.name} on the rubric"
    else:
        verdict = f"is {'above' if paired.mean > 0 else 'below'} {base.name} on the rubric"
    return f"{student.name} {verdict}: {_difference(paired.mean, paired.interval)}; {valid}."


def _difference(mean: float, bounds: tuple[float, float]) -> str:
    return f"{text.signed(mean)} [{text.signed(bounds[0])}, {text.signed(bounds[1])}]"


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def _facts(report: ReportInput) -> list[tuple[str, str]]:
    facts = [
        ("Run", report.run_id),
        ("Environment", report.environment),
        ("Reference weights by", report.labelled_by),
    ]
    benchmark, fresh = report.summary.benchmark, report.summary.fresh
    if benchmark:
        facts.append(("Benchmark", f"{benchmark[0].queries:,} held-out queries"))
    if fresh:
        facts.append(("Fresh reading", f"{fresh[0].queries:,} queries"))
    return facts


# --- results ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Metric:
    """A row of the metric table; `merit`, larger is better, tells which cells stand out."""

    title: str
    shown: Callable[[CandidateScores], str]
    merit: Callable[[CandidateScores], float | None] | None = None


def _judge(candidate: CandidateScores) -> str:
    if candidate.judge is None or candidate.judged == candidate.queries:
        return text.score(candidate.judge)
    return f"{text.score(candidate.judge)} ({candidate.judged:,} of {candidate.queries:,} judged)"


def _rubric(candidate: CandidateScores) -> str:
    return f"{text.score(candidate.rubric)} {text.interval(candidate.rubric_interval)}"


def _simulated(candidate: CandidateScores, value: str) -> str:
    return f"{value} (simulated)" if candidate.simulated_cost else value


def _tokens(candidate: CandidateScores) -> str:
    if not candidate.queries:
        return text.NOTHING
    incoming = candidate.input_tokens / candidate.queries
    outgoing = candidate.output_tokens / candidate.queries
    return _simulated(candidate, f"{incoming:,.0f} / {outgoing:,.0f}")


def _channel_error(modality: Modality) -> _Metric:
    return _Metric(
        f"Mean error of {modality}",
        lambda c: text.error(c.channel_mae.get(modality)),
        lambda c: -c.channel_mae[modality] if modality in c.channel_mae else None,
    )


_RUBRIC: Final = _Metric("Rubric (computed), 95% interval", _rubric, lambda c: c.rubric)
_JUDGE: Final = _Metric("Judge", _judge, lambda c: c.judge)
_VALID: Final = _Metric(
    "Valid answers", lambda c: text.percent(c.valid_rate), lambda c: c.valid_rate
)
_DOMINANT: Final = _Metric(
    "Dominant channel right", lambda c: text.percent(c.dominant_match), lambda c: c.dominant_match
)
_MAE: Final = _Metric("Mean error", lambda c: text.error(c.mae), lambda c: -c.mae)
_MEAN_LATENCY: Final = _Metric(
    "Mean latency, ms",
    lambda c: text.milliseconds(c.latency_ms.mean),
    lambda c: -c.latency_ms.mean,
)
_P99_LATENCY: Final = _Metric(
    "p99 latency, ms", lambda c: text.milliseconds(c.latency_ms.p99), lambda c: -c.latency_ms.p99
)

_METRICS: Final = (
    _RUBRIC,
    _JUDGE,
    _MEAN_LATENCY,
    _Metric(
        "p50 latency, ms",
        lambda c: text.milliseconds(c.latency_ms.p50),
        lambda c: -c.latency_ms.p50,
    ),
    _Metric(
        "p95 latency, ms",
        lambda c: text.milliseconds(c.latency_ms.p95),
        lambda c: -c.latency_ms.p95,
    ),
    _P99_LATENCY,
    _Metric(
        "Price of 1,000 input tokens",
        lambda c: _simulated(c, text.usd(c.usd_per_1k_input_tokens)),
        lambda c: -c.usd_per_1k_input_tokens,
    ),
    _Metric(
        "Price of 1,000 output tokens",
        lambda c: _simulated(c, text.usd(c.usd_per_1k_output_tokens)),
        lambda c: -c.usd_per_1k_output_tokens,
    ),
    _Metric("Tokens a query, in / out", _tokens),
    _Metric(
        "Cost of 1,000 queries",
        lambda c: _simulated(c, text.usd(c.cost_per_1k_usd)),
        lambda c: -c.cost_per_1k_usd,
    ),
    _Metric("Output format", lambda c: c.output_format),
    _VALID,
    _DOMINANT,
    _MAE,
    *map(_channel_error, MODALITIES),
)


def _metric_cells(metric: _Metric, candidates: Sequence[CandidateScores]) -> list[Cell]:
    merits = [metric.merit(candidate) if metric.merit else None for candidate in candidates]
    known = [merit for merit in merits if merit is not None]
    peak = max(known) if len(set(known)) > 1 else None
    return [
        Cell(metric.shown(candidate), strong=merit is not None and merit == peak)
        for candidate, merit in zip(candidates, merits, strict=True)
    ]


def _metric_table(
    metrics: Sequence[_Metric], candidates: Sequence[CandidateScores], caption: str = ""
) -> Table:
    return Table(
        header=("", *(candidate.name for candidate in candidates)),
        rows=[[Cell(metric.title), *_metric_cells(metric, candidates)] for metric in metrics],
        numeric=range(1, len(candidates) + 1),
        caption=caption,
    )


def _results(report: ReportInput, charts: dict[str, bytes]) -> list[Block]:
    candidates = report.summary.benchmark
    if not candidates:
        return []
    models = Table(
        header=("Candidate", "What it is", "Model"),
        rows=[[Cell(c.name), Cell(c.label), Cell(c.model)] for c in candidates],
    )
    return [
        _metric_table(_METRICS, candidates, _results_caption(candidates)),
        *_figure(charts, "comparison"),
        *_figure(charts, "quality_against_latency"),
        models,
    ]


def _results_caption(candidates: Sequence[CandidateScores]) -> str:
    judged = any(candidate.judge is not None for candidate in candidates)
    return " ".join(
        (
            *(("The best value of a row stands out.",) if len(candidates) > 1 else ()),
            "Rubric and judge are different scores: see How to read this."
            if judged
            else "No judge ran.",
        )
    )


def _figure(charts: dict[str, bytes], name: str) -> list[Block]:
    return [Figure(charts[name], FIGURES[name])] if name in charts else []


# --- answers ---------------------------------------------------------------------------------


def _side_by_side(report: ReportInput) -> list[Block]:
    answered = {name for demo in report.demo_answers for name in demo.answers}
    usual = [*(student.name for student in students(report.summary)), BASE_STUDENT]
    columns = [name for name in usual if name in answered] or sorted(answered)
    if not columns:
        return []
    rows = [
        [Cell(demo.query, verbatim=True), *(_answer(demo.answers.get(name)) for name in columns)]
        for demo in report.demo_answers
    ]
    caption = "The raw answers, and what the runtime's parser makes of them."
    return [Table(("Query", *(f"Answer of {name}" for name in columns)), rows, caption=caption)]


def _answer(answer: str | None) -> Cell:
    if answer is None:
        return Cell(text.NOTHING)
    try:
        repairs = parse_forgiving(answer).repairs
    except AnswerError:
        return Cell(answer, note="Not readable", verbatim=True)
    note = f"Needs repair: {', '.join(repairs)}" if repairs else "Bare JSON"
    return Cell(answer, note=note, verbatim=True)


def _worst(report: ReportInput) -> list[Block]:
    candidate = focus(report.summary)
    found = worst(report.predictions.get(candidate.name, ())) if candidate else []
    if candidate is None or not found:
        return []
    return [
        f"The {len(found)} worst answers of {candidate.name}: lowest score first, then the "
        f"largest mean error. Weights in percent: {', '.join(MODALITIES)}.",
        Table(
            header=(
                "Score",
                "Mean error",
                "Query",
                "Reading",
                "Reference",
                "Predicted",
                "Answer",
                "Judge",
            ),
            rows=[_worst_row(prediction) for prediction in found],
            numeric=(0, 1, 4, 5, 7),
        ),
    ]


def _worst_row(prediction: Prediction) -> list[Cell]:
    reading = (prediction.reading, prediction.channel, prediction.difficulty, prediction.domain)
    problem = prediction.problem
    return [
        Cell(str(prediction.score)),
        Cell(text.error(prediction.mean_error / 100)),
        Cell(prediction.query, verbatim=True, limit=_QUERY_LIMIT),
        Cell(", ".join(reading)),
        Cell(_weights(prediction.reference)),
        Cell(_weights(prediction.weights)),
        Cell(
            prediction.answer,
            note=f"Not valid: {problem}" if problem else "",
            verbatim=True,
            limit=_ANSWER_LIMIT,
        ),
        Cell(text.score(prediction.judge)),
    ]


def _weights(weights: RoutingWeights | None) -> str:
    return "unreadable" if weights is None else " · ".join(map(str, percents(weights)))


# --- slices, differences, fresh reading --------------------------------------------------------


def _latency(report: ReportInput, charts: dict[str, bytes]) -> list[Block]:
    steps, candidates = report.latency_steps, report.summary.benchmark
    if not steps or not candidates:
        return []
    others = sum(steps.values())
    rows = []
    for candidate in candidates:
        router = candidate.latency_ms.mean
        times = (router, others, router + others)
        rows.append(
            [
                Cell(candidate.name),
                *(Cell(text.milliseconds(time)) for time in times),
                Cell(text.percent(router / (router + others))),
            ]
        )
    header = ("Router", "Router, ms", "Other steps, ms", "Whole search, ms", "Router's share")
    listed = _listed([f"{step} {duration:,g} ms" for step, duration in steps.items()])
    return [
        f"{report.published.search_steps.note} They are: {listed}.",
        *_figure(charts, "latency_by_step"),
        Table(header, rows, numeric=range(1, len(header))),
    ]


def _cost(summary: EvaluationSummary) -> list[Block]:
    baseline = summary.candidate(LARGE_BASELINE)
    if baseline is None or baseline.cost_per_1k_usd <= 0:
        return []
    rows = []
    for candidate in summary.benchmark:
        cost, saved = (
            candidate.cost_per_1k_usd,
            1 - candidate.cost_per_1k_usd / (baseline.cost_per_1k_usd),
        )
        rows.append(
            [
                Cell(candidate.name),
                Cell(_simulated(candidate, text.usd(cost))),
                Cell(_simulated(candidate, text.usd(1000 * cost))),
                Cell(text.NOTHING if candidate is baseline else text.percent(saved)),
            ]
        )
    header = ("Router", "Cost of 1,000 queries", "Of a million", f"Saved against {baseline.name}")
    return [
        "Tokens at the price list's prices, as the candidates were asked here. What the local "
        "student's machine costs is not in it.",
        Table(header, rows, numeric=range(1, len(header))),
    ]


def _cascade(summary: EvaluationSummary, charts: dict[str, bytes]) -> list[Block]:
    points = summary.cascade
    if not points or summary.pass_on_above is None:
        return []
    rows = [
        [
            Cell(text.percent(point.share)),
            Cell(text.error(point.pass_on_above)),
            Cell(text.score(point.rubric)),
            Cell(text.milliseconds(point.mean_latency_ms)),
            Cell(text.usd(point.cost_per_1k_usd)),
        ]
        for point in points[::2]
    ]
    chosen = (
        "Nothing is passed on: on the fresh queries no share made the answers better."
        if summary.pass_on_above >= 0.5
        else f"The threshold chosen on the fresh queries is {summary.pass_on_above:.3f}."
    )
    header = ("Passed on", "Expected error above", "Rubric", "Mean latency, ms", "Cost of 1,000")
    return [
        "The local student answers, and passes on the queries of which it expects the largest "
        f"error. {chosen} The table shows what other shares would give on the benchmark.",
        *_figure(charts, "cascade"),
        Table(header, rows, numeric=range(len(header))),
    ]


def _slices(summary: EvaluationSummary, charts: dict[str, bytes]) -> list[Block]:
    tables = [table for by in _SLICE_TITLES if (table := _slice_table(summary, by))]
    if not tables:
        return []
    return [
        "Rubric of each slice of the benchmark, with the mean error in brackets.",
        *_figure(charts, "slices"),
        *tables,
    ]


def _slice_table(summary: EvaluationSummary, by: SliceBy) -> Table | None:
    sizes = slice_sizes(summary, by)
    if not sizes:
        return None
    columns = [slices(candidate, by) for candidate in summary.benchmark]
    rows = []
    for value, queries in sizes.items():
        found = [column.get(value) for column in columns]
        scores = {one.rubric for one in found if one}
        peak = max(scores) if len(scores) > 1 else None
        rows.append(
            [
                Cell(value),
                Cell(f"{queries:,}"),
                *(
                    Cell(
                        f"{text.score(one.rubric)} ({text.error(one.mae)})",
                        strong=one.rubric == peak,
                    )
                    if one
                    else Cell(text.NOTHING)
                    for one in found
                ),
            ]
        )
    names = [candidate.name for candidate in summary.benchmark]
    header = (_SLICE_TITLES[by], "Queries", *names)
    return Table(header, rows, numeric=range(1, len(header)))


def _differences(summary: EvaluationSummary) -> list[Block]:
    if not summary.differences:
        return []
    rows = []
    for paired in summary.differences:
        low, high = paired.interval
        verdict = "above" if low > 0 else "below" if high < 0 else "no clear difference"
        rows.append(
            [
                Cell(paired.candidate),
                Cell(paired.against),
                Cell(_difference(paired.mean, paired.interval)),
                Cell(verdict),
            ]
        )
    return [
        "The first candidate's rubric minus the second's over the same queries, with a bootstrap "
        "95% interval.",
        Table(("Candidate", "Against", "Difference", "Verdict"), rows, numeric=(2,)),
    ]


def _judging(summary: EvaluationSummary) -> list[Block]:
    return [*_judge_failures(summary), *_judge_agreement(summary.agreement)]


def _judge_failures(summary: EvaluationSummary) -> list[Block]:
    """What the judge has no score for, by candidate and by what went wrong."""
    readings = (("benchmark", summary.benchmark), ("fresh", summary.fresh))
    rows = [
        [
            Cell(candidate.name),
            Cell(reading),
            Cell(f"{candidate.judged:,} of {candidate.queries:,}"),
            *(Cell(str(candidate.judge_failures.get(problem, 0))) for problem in _JUDGE_PROBLEMS),
        ]
        for reading, candidates in readings
        for candidate in candidates
        if candidate.judge_failures
    ]
    if not rows:
        return []
    return [
        "Answers that the judge did not score; its mean is over the others. No score: it gave "
        "none. No verdict: its output has no line about the answer. Unreadable: what it answered "
        "is not a verdict.",
        Table(
            ("Candidate", "Reading", "Judged", *map(str.capitalize, _JUDGE_PROBLEMS)),
            rows,
            numeric=range(2, 3 + len(_JUDGE_PROBLEMS)),
        ),
    ]


def _judge_agreement(agreement: JudgeAgreement | None) -> list[Block]:
    if agreement is None:
        return []
    counts = {(cell.rubric, cell.judge): cell.answers for cell in agreement.confusion}
    scores = sorted({cell.judge for cell in agreement.confusion}, reverse=True)
    return [
        f"The judge's score against the computed rubric over {agreement.answers:,} answers: rank "
        f"correlation (Spearman) {_correlation(agreement.spearman)}, the same score for "
        f"{text.percent(agreement.exact)}, at most one apart for "
        f"{text.percent(agreement.within_one)}. The judge also reads the reasoning, so they need "
        "not agree; but where the correlation is low, trust neither score alone.",
        Table(
            ("Rubric", *(f"Judge {score:g}" for score in scores)),
            [
                [Cell(str(step)), *(Cell(f"{counts.get((step, s), 0):,}") for s in scores)]
                for step in STEPS
            ],
            numeric=range(len(scores) + 1),
            caption="How many answers have which score, by step of the rubric.",
        ),
        Table(
            ("Candidate", "Spearman"),
            [[Cell(n), Cell(_correlation(value))] for n, value in agreement.by_candidate.items()],
            numeric=(1,),
        ),
    ]


def _correlation(value: float | None) -> str:
    return text.NOTHING if value is None else f"{value:.2f}"


_FRESH_METRICS: Final = (
    _Metric("Queries", lambda c: f"{c.queries:,}"),
    _RUBRIC,
    _JUDGE,
    _MAE,
    _DOMINANT,
    _VALID,
    _MEAN_LATENCY,
    _P99_LATENCY,
)


def _fresh(summary: EvaluationSummary) -> list[Block]:
    if not summary.fresh:
        return []
    return [
        "Queries of this run's own that were held out of training by the hash of their text. "
        "The gate reads the benchmark; this is a second reading on newer queries.",
        _metric_table(_FRESH_METRICS, summary.fresh),
    ]


# --- published figures, explanations -----------------------------------------------------------


def _published(report: ReportInput) -> list[Block]:
    published = report.published
    models = published.candidates

    def price(bounds: tuple[float, float]) -> str:
        low, high = map(text.usd, bounds)
        return low if low == high else f"{low}–{high}"

    rows = (
        ("Judge", [f"{m.judge:.1f}" for m in models]),
        ("Mean latency, ms", [text.milliseconds(m.mean_latency_ms) for m in models]),
        ("Price of 1,000 input tokens", [price(m.usd_per_1k_input_tokens) for m in models]),
        ("Price of 1,000 output tokens", [price(m.usd_per_1k_output_tokens) for m in models]),
        ("Output format", [m.output_format for m in models]),
    )
    return [
        f"{published.comparability} Source: {published.source}.",
        Table(
            header=("Published, not measured here", *(model.name for model in models)),
            rows=[[Cell(title), *map(Cell, cells)] for title, cells in rows],
            numeric=range(1, len(models) + 1),
            caption=" ".join(published.notes),
        ),
    ]


def _reading(report: ReportInput) -> list[Block]:
    blocks: list[Block] = [
        "Rubric: computed from the four weights alone. 5: every weight within 0.05 of the "
        "reference. 4: within 0.10. 3: dominant channel right and mean error under 0.15. 2: "
        "neither. 1: unreadable, or mean error over 0.30. Shown is the mean over the queries "
        "with a bootstrap 95% interval.",
        "Judge: a model's score of the same answers, which also reads the reasoning. It is "
        "another score than the rubric.",
        "Valid: the answer is bare JSON with the four weights and the reasoning. An answer that "
        "the runtime's parser had to mend scores by its mended weights, but is not valid. "
        "Latency is measured at the client, from the request to the answer.",
    ]
    if any(candidate.simulated_cost for candidate in report.summary.benchmark):
        blocks.append(
            "Simulated: tokens and dollars of embedded models. No service was paid; the models "
            "that answered are named under Results."
        )
    if report.reference_note:
        blocks.append(f"Reference: {report.reference_note}")
    return blocks
