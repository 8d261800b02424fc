"""Evaluate: every candidate on the same held-out queries, scored, judged and reported."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from prefect.artifacts import create_markdown_artifact, create_table_artifact

from data_contracts.evaluation import (
    CASCADE,
    DISTILLED_STUDENT,
    LOCAL_STUDENT,
    STUDENTS,
    CandidateScores,
    EvaluationSummary,
    Prediction,
)
from data_contracts.heldout import benchmark_queries
from data_contracts.queries import LabelledQuery
from data_contracts.runs import StoredFile
from reelroute.errors import AnswerError
from reelroute.parsing import parse_forgiving, parse_strict
from reelroute.rubric import score
from tasks.agreement import judge_agreement
from tasks.base import Progress, StageContext, stage_task
from tasks.candidates import (
    Asked,
    BedrockCandidate,
    Candidate,
    Candidates,
    CascadeCandidate,
    LocalCandidate,
)
from tasks.cascade import cascade_curve, choose_threshold
from tasks.metrics import candidate_scores, paired_difference
from tasks.reporting.charts import report_charts
from tasks.reporting.inputs import DemoAnswer, PublishedFigures, ReportInput
from tasks.reporting.markdown import evaluation_markdown
from tasks.reporting.page import evaluation_page
from tasks.validate import read_rows


@dataclass(frozen=True, slots=True)
class HeldOut:
    """A held-out query with the reading that it belongs to."""

    row: LabelledQuery
    reading: Literal["benchmark", "fresh"]


@stage_task
def gather_candidates(stage: StageContext, folder: Path) -> list[Candidate]:
    """Base student, the run's students, large baseline and, once there is one, the release."""
    return Candidates(stage, folder).of_run()


@stage_task
def held_out_queries(stage: StageContext) -> list[HeldOut]:
    """The benchmark, which is the same for every run, then the run's fresh share."""
    fresh = read_rows(stage.read("validate", "fresh"))
    return [
        *(HeldOut(row, "benchmark") for row in benchmark_queries()),
        *(HeldOut(row, "fresh") for row in sorted(fresh, key=lambda row: row.id)),
    ]


@stage_task
def ask_candidate(
    stage: StageContext, candidate: Candidate, held_out: Sequence[HeldOut], progress: Progress
) -> tuple[list[Prediction], list[DemoAnswer]]:
    """A candidate's answers to the held-out queries, and to the report's chosen ones."""
    start = progress.done
    predictions = []
    queries = [item.row.query for item in held_out]
    demo_queries = stage.settings.evaluate.demo_queries
    candidate.prepare([*queries, *demo_queries])
    with ThreadPoolExecutor(candidate.concurrency) as pool:
        answers = pool.map(candidate.ask, queries)
        for done, (item, asked) in enumerate(zip(held_out, answers, strict=True), start=1):
            predictions.append(predict(candidate.name, item, asked))
            progress.show(start + done)
        demo = [
            DemoAnswer(query, {candidate.name: asked.text})
            for query, asked in zip(
                demo_queries, pool.map(candidate.ask, demo_queries), strict=True
            )
        ]
    candidate.finish()
    return predictions, demo


@stage_task
def make_cascade(
    stage: StageContext,
    folder: Path,
    candidates: Sequence[Candidate],
    predictions: Mapping[str, Sequence[Prediction]],
) -> CascadeCandidate | None:
    """The cascade of the run's two students, its threshold chosen on the fresh queries.

    None where the run doesn't have both students. What is passed on was asked already, so the
    cascade buys nothing.
    """
    by_name = {candidate.name: candidate for candidate in candidates}
    local, behind = by_name.get(LOCAL_STUDENT), by_name.get(DISTILLED_STUDENT)
    if not isinstance(local, LocalCandidate) or not isinstance(behind, BedrockCandidate):
        return None
    ours, theirs = (
        [p for p in predictions[name] if p.reading == "fresh"]
        for name in (LOCAL_STUDENT, DISTILLED_STUDENT)
    )
    threshold = choose_threshold(ours, theirs)
    return Candidates(stage, folder).cascade(CASCADE, local, behind, threshold)


def predict(candidate: str, item: HeldOut, asked: Asked) -> Prediction:
    """Score one answer by the rubric; strict for validity, forgiving for its weights."""
    row, text = item.row, asked.text
    problem: str | None = None
    try:
        parse_strict(text)
    except AnswerError as error:
        problem = str(error)
    try:
        parsed = parse_forgiving(text)
        weights, repairs = parsed.weights, parsed.repairs
    except AnswerError:
        weights, repairs = None, ()
    verdict = score(weights, row.weights)
    return Prediction(
        candidate=candidate,
        id=row.id,
        query=row.query,
        reading=item.reading,
        channel=row.channel,
        difficulty=row.difficulty,
        domain=row.domain,
        reference=row.weights,
        answer=text,
        weights=weights,
        repairs=repairs,
        problem=problem,
        latency_ms=asked.latency_ms,
        input_tokens=asked.input_tokens,
        output_tokens=asked.output_tokens,
        score=verdict.score,
        max_error=verdict.max_error,
        mean_error=verdict.mean_error,
        dominant=verdict.dominant,
        expected_error=asked.expected_error,
    )


def summarise(
    stage: StageContext,
    candidates: Sequence[Candidate],
    predictions: Mapping[str, Sequence[Prediction]],
) -> EvaluationSummary:
    """All candidates' scores, on the benchmark and on fresh queries, and their differences."""
    settings = stage.settings.evaluate
    dice = {"samples": settings.bootstrap_samples, "seed": settings.seed}

    def reading(name: str) -> Iterator[Any]:
        for candidate in candidates:
            mine = [p for p in predictions[candidate.name] if p.reading == name]
            if mine:
                yield candidate_scores(
                    mine,
                    name=candidate.name,
                    label=candidate.label,
                    model=candidate.model,
                    price=candidate.price,
                    **dice,
                )

    benchmark = {
        name: [p for p in answers if p.reading == "benchmark"]
        for name, answers in predictions.items()
    }
    cascade = next(
        (c for c in candidates if isinstance(c, CascadeCandidate) and c.name == CASCADE), None
    )
    local, behind = (benchmark.get(name, []) for name in (LOCAL_STUDENT, DISTILLED_STUDENT))
    return EvaluationSummary(
        run_id=stage.run.run_id,
        benchmark=tuple(reading("benchmark")),
        fresh=tuple(reading("fresh")),
        differences=tuple(
            paired_difference(benchmark[student], answers, **dice)
            for student in STUDENTS
            if student in benchmark
            for name, answers in benchmark.items()
            if name != student
        ),
        pass_on_above=cascade.pass_on_above if cascade else None,
        cascade=cascade_curve(local, behind, cascade.behind.price) if cascade else (),
        # The embedded judge is the rubric, computed: that it agrees is no finding.
        agreement=None
        if stage.settings.price(stage.settings.models.judge).simulated
        else judge_agreement(predictions),
    )


@stage_task
def write_report(
    stage: StageContext,
    summary: EvaluationSummary,
    predictions: Mapping[str, Sequence[Prediction]],
    demo: Sequence[DemoAnswer],
) -> dict[str, StoredFile]:
    """The report as a file, as a page with charts, and as artifacts in the UI."""
    published = PublishedFigures.from_document(stage.settings.published, "configs/published.yaml")
    training = read_rows(stage.read("validate", "train"))
    report = ReportInput(
        run_id=stage.run.run_id,
        environment=stage.settings.environment,
        summary=summary,
        predictions=predictions,
        demo_answers=demo,
        published=published,
        latency_steps=published.search_steps.milliseconds,
        labelled_by=", ".join(sorted({row.labelled_by for row in training})),
        reference_note="The benchmark's reference weights are committed with the project and the "
        "same for every run; fresh queries carry the labelling teacher's weights.",
    )
    charts = report_charts(report, training)
    markdown = evaluation_markdown(report, charts)
    create_markdown_artifact(
        key="evaluation-report", markdown=markdown, description="How the candidates compare"
    )
    create_table_artifact(
        key="evaluation",
        table=[_row(scores) for scores in summary.benchmark],
        description="All candidates on the committed benchmark; ~ simulated dollars",
    )
    run = stage.run
    files = {
        "summary": run.put_text(
            "evaluation/summary.json", summary.model_dump_json(indent=2), "application/json"
        ),
        "report": run.put_text(
            "evaluation/report.md", evaluation_markdown(report, None), "text/markdown"
        ),
        "page": run.put_text(
            "evaluation/report.html", evaluation_page(report, charts), "text/html; charset=utf-8"
        ),
    }
    for name, answers in predictions.items():
        lines = "".join(prediction.model_dump_json() + "\n" for prediction in answers)
        files[f"predictions {name}"] = run.put_text(
            f"evaluation/predictions/{name}.jsonl", lines, "application/jsonl"
        )
    for name, png in charts.items():
        files[f"chart {name}"] = stage.storage.put_file(
            run.key(f"evaluation/charts/{re.sub('[^a-z0-9]+', '_', name)}.png"), png, "image/png"
        )
    return files


def join_demo(answers: Sequence[Sequence[DemoAnswer]]) -> list[DemoAnswer]:
    """The candidates' answers to the chosen queries, side by side."""
    return [
        DemoAnswer(same[0].query, {k: v for one in same for k, v in one.answers.items()})
        for same in zip(*answers, strict=True)
    ]


def _row(scores: CandidateScores) -> dict[str, str]:
    low, high = scores.rubric_interval
    return {
        "candidate": scores.name,
        "rubric": f"{scores.rubric:.2f} ({low:.2f} to {high:.2f})",
        "judge": f"{scores.judge:.2f}" if scores.judge is not None else "–",
        "error": f"{scores.mae:.3f}",
        "dominant": f"{scores.dominant_match:.1%}",
        "valid": f"{scores.valid_rate:.1%}",
        "mean ms": f"{scores.latency_ms.mean:.1f}",
        "$/1,000": f"{'~' if scores.simulated_cost else ''}{scores.cost_per_1k_usd:.4f}",
    }
