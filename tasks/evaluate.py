"""Evaluate: every candidate on the same held-out queries, scored, judged and reported."""

from __future__ import annotations

import json
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
from data_contracts.runs import Cost, StoredFile
from reelroute.aws import speaking
from reelroute.errors import AnswerError, StageError
from reelroute.parsing import parse_forgiving, parse_strict
from reelroute.rubric import score
from tasks.answer_text import answer_text
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
from tasks.cost import estimate_tokens
from tasks.jobs import find_ours, wait
from tasks.metrics import candidate_scores, paired_difference
from tasks.reporting.charts import report_charts
from tasks.reporting.inputs import DemoAnswer, PublishedFigures, ReportInput
from tasks.reporting.markdown import evaluation_markdown
from tasks.reporting.page import evaluation_page
from tasks.storage import aws_access
from tasks.validate import read_rows

#: Bedrock judges at most so many prompts in one evaluation job.
MAX_PROMPTS_PER_JOB = 1000
#: About what a judge writes for one prompt, in tokens.
JUDGE_OUTPUT_TOKENS = 150


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
    room = MAX_PROMPTS_PER_JOB - len(benchmark_queries())
    return [
        *(HeldOut(row, "benchmark") for row in benchmark_queries()),
        *(HeldOut(row, "fresh") for row in sorted(fresh, key=lambda row: row.id)[:room]),
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


@stage_task
def start_judge(stage: StageContext, candidate: str, predictions: Sequence[Prediction]) -> str:
    """The ARN of this attempt's evaluation job of a candidate, looked up before it is created."""
    settings = stage.settings
    bedrock = aws_access(settings).client("bedrock")
    name = stage.name(candidate)
    with speaking(f"looking for evaluation job {name}"):
        pages = bedrock.get_paginator("list_evaluation_jobs").paginate(
            nameContains=stage.name_stem(candidate)
        )
        found = find_ours(pages, "jobSummaries", "jobName", stage, candidate)
    cost = judge_cost(stage, predictions)
    if found:
        if found["jobName"] == name:  # an earlier attempt's record has counted its own
            stage.meter.add(cost, once=name)
        return str(found["jobArn"])
    stage.meter.check(cost.usd, f"evaluation job {name}")
    metric = settings.judge_metric
    judge = {"bedrockEvaluatorModels": [{"modelIdentifier": settings.models.judge.id}]}
    dataset = stage.run.put_text(
        f"evaluation/judge/{candidate}/dataset.jsonl",
        "".join(_judge_line(candidate, prediction) for prediction in predictions),
        "application/jsonl",
    )
    definition = {
        "name": metric.metric,
        "instructions": metric.instructions,
        "ratingScale": [
            {"definition": step.definition, "value": {"floatValue": step.value}}
            for step in metric.rating_scale
        ],
    }
    with speaking(f"creating evaluation job {name}"):
        answer = bedrock.create_evaluation_job(
            jobName=name,
            clientRequestToken=stage.token(candidate),
            roleArn=settings.evaluate.role_arn,
            applicationType="ModelEvaluation",
            evaluationConfig={
                "automated": {
                    "datasetMetricConfigs": [
                        {
                            "taskType": "General",
                            "dataset": {
                                "name": "held-out",
                                "datasetLocation": {"s3Uri": stage.storage.uri(dataset.key)},
                            },
                            "metricNames": [metric.metric],
                        }
                    ],
                    "evaluatorModelConfig": judge,
                    "customMetricConfig": {
                        "customMetrics": [{"customMetricDefinition": definition}],
                        "evaluatorModelConfig": judge,
                    },
                }
            },
            inferenceConfig={
                "models": [{"precomputedInferenceSource": {"inferenceSourceIdentifier": candidate}}]
            },
            outputDataConfig={"s3Uri": stage.storage.uri(_judge_output(stage, candidate))},
            jobTags=stage.tags(),
            **({"customerEncryptionKeyId": key} if (key := settings.evaluate.kms_key_id) else {}),
        )
    stage.meter.add(cost, once=name)
    return str(answer["jobArn"])


@stage_task
def read_judge(
    stage: StageContext, candidate: str, job_arn: str, predictions: Sequence[Prediction]
) -> list[Prediction]:
    """Wait for a candidate's evaluation job and put the judge's scores to its predictions.

    Raises:
        StageError: the job failed, or it judged none of the answers.
    """
    settings = stage.settings
    answer = wait(
        aws_access(settings).client("bedrock"),
        "EvaluationJobCompleted",
        {"jobIdentifier": job_arn},
        what=f"evaluation job {job_arn}",
        poll_seconds=settings.evaluate.poll_seconds,
        max_seconds=settings.evaluate.max_hours * 3600,
    )
    # The service writes below <output>/<job name>/<job id>/.
    prefix = f"{_judge_output(stage, candidate)}{answer['jobName']}/"
    verdicts: dict[str, tuple[float | None, str]] = {}
    for key in stage.storage.keys(prefix):
        if key.endswith("_output.jsonl"):
            stored = stage.storage.get(key)
            for line in stored.data.splitlines() if stored else ():
                verdicts.update(_verdict(line, settings.judge_metric.metric, key))
    judged = [
        prediction.model_copy(
            update=dict(
                zip(
                    ("judge", "judge_explanation"),
                    verdicts.get(prediction.query, (None, "")),
                    strict=True,
                )
            )
        )
        for prediction in predictions
    ]
    if all(prediction.judge is None for prediction in judged):
        raise StageError(
            f"evaluation job {answer['jobName']} scored none of {len(predictions)} answers; its "
            f"output lies below {stage.storage.uri(prefix)}"
        )
    return judged


def judge_cost(stage: StageContext, predictions: Sequence[Prediction]) -> Cost:
    """About what judging costs, at the judge's price."""
    price = stage.settings.price(stage.settings.models.judge)
    fixed = len(stage.settings.judge_metric.instructions)
    characters = sum(
        fixed + len(p.query) + len(p.answer) + len(answer_text(p.reference)) for p in predictions
    )
    tokens, written = estimate_tokens(characters), JUDGE_OUTPUT_TOKENS * len(predictions)
    return Cost(
        calls=len(predictions),
        input_tokens=tokens,
        output_tokens=written,
        usd=price.usd(tokens, written),
        simulated=price.simulated,
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


def _judge_output(stage: StageContext, candidate: str) -> str:
    return stage.run.key(f"evaluation/judge/{candidate}/output/")


def _judge_line(candidate: str, prediction: Prediction) -> str:
    said = prediction.answer if prediction.answer.strip() else "(no answer)"
    record = {
        "prompt": prediction.query,
        "referenceResponse": answer_text(prediction.reference),
        "category": prediction.channel,
        "modelResponses": [
            # The service takes no empty response.
            {"response": said, "modelIdentifier": candidate}
        ],
    }
    return json.dumps(record, ensure_ascii=False) + "\n"


def _verdict(line: bytes, metric: str, key: str) -> dict[str, tuple[float | None, str]]:
    try:
        record = json.loads(line)
        prompt = record["inputRecord"]["prompt"]
        scores = record["automatedEvaluationResult"]["scores"]
        ours = next(entry for entry in scores if entry["metricName"] == metric)
        details = ours.get("evaluatorDetails") or [{}]
        result = ours["result"]
        judge = None if result is None else float(result)
        return {prompt: (judge, str(details[0].get("explanation") or ""))}
    except (ValueError, KeyError, TypeError, StopIteration) as error:
        raise StageError(f"{key} holds a line that is not a judge's verdict: {error!r}") from None
