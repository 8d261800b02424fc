"""The judge's scores: from evaluation jobs of Bedrock, or from the judge asked directly.

Both ways use the same metric, with its text and its scale. An evaluation job takes so many
prompts at most, so a candidate has as many jobs as its answers fill. Asked directly, the judge
answers through Converse: cheaper, since what a candidate repeats of another is not judged twice.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from configs.settings import JudgeMetric
from data_contracts.evaluation import JudgeProblem, Prediction
from data_contracts.runs import Cost
from reelroute.aws import speaking
from reelroute.errors import AnswerError, StageError
from reelroute.problems import first_problem
from tasks.answer_text import answer_text
from tasks.answers import AnswerStore
from tasks.base import StageContext, stage_task
from tasks.cost import estimate_tokens
from tasks.jobs import find_ours, wait
from tasks.models import Buyer, Model, ask_once
from tasks.pacing import pacer_of
from tasks.storage import aws_access

#: Bedrock judges at most so many prompts in one evaluation job.
MAX_PROMPTS_PER_JOB = 1000
#: About what a judge writes for one prompt, in tokens.
JUDGE_OUTPUT_TOKENS = 150

#: The judge's score, or None, with its explanation and what went wrong.
Verdict = tuple[float | None, str, JudgeProblem | None]
_NONE: Verdict = (None, "", "no verdict")
_JUDGE_AGAIN = "To have them judged by new jobs run the stage with --force"


def judge(
    stage: StageContext, predictions: Mapping[str, Sequence[Prediction]]
) -> tuple[dict[str, Sequence[Prediction]], dict[str, str]]:
    """All candidates' answers with the judge's scores, and the ARNs of the jobs by name."""
    if stage.settings.evaluate.judge == "converse":
        return {name: ask_judge(stage, name, answers) for name, answers in predictions.items()}, {}
    jobs = {name: start_judge(stage, name, answers) for name, answers in predictions.items()}
    judged: dict[str, Sequence[Prediction]] = {
        name: read_judge(stage, name, jobs[name], answers) for name, answers in predictions.items()
    }
    named = {
        " ".join(("judge job", *_parts(name, number))): arn
        for name, arns in jobs.items()
        for number, arn in enumerate(arns, start=1)
    }
    return judged, named


def failures(predictions: Mapping[str, Sequence[Prediction]]) -> dict[str, int]:
    """For how many answers there is no judge's score, by candidate; only those with any."""
    counts = {
        name: sum(p.judge_problem is not None for p in answers)
        for name, answers in predictions.items()
    }
    return {name: count for name, count in counts.items() if count}


@stage_task
def start_judge(
    stage: StageContext, candidate: str, predictions: Sequence[Prediction]
) -> tuple[str, ...]:
    """The ARNs of this attempt's evaluation jobs of a candidate, in the order of its answers.

    Each is looked up before it is created.
    """
    return tuple(
        _start_job(stage, candidate, number, chunk)
        for number, chunk in enumerate(_chunks(predictions), start=1)
    )


@stage_task
def read_judge(
    stage: StageContext,
    candidate: str,
    job_arns: Sequence[str],
    predictions: Sequence[Prediction],
) -> list[Prediction]:
    """Wait for a candidate's evaluation jobs and put the judge's scores to its predictions.

    Raises:
        StageError: a job failed, or they judged none of the answers.
    """
    verdicts: dict[str, Verdict] = {}
    for number, job_arn in enumerate(job_arns, start=1):
        verdicts.update(_read_job(stage, candidate, number, job_arn))
    return _judged(
        [verdicts.get(prediction.query, _NONE) for prediction in predictions],
        predictions,
        f"the evaluation jobs of {candidate} scored none of {len(predictions)} answers; their "
        f"output lies below {stage.storage.uri(_folder(stage, candidate))}. {_JUDGE_AGAIN}",
    )


@stage_task
def ask_judge(
    stage: StageContext, candidate: str, predictions: Sequence[Prediction]
) -> list[Prediction]:
    """Ask the judge about a candidate's answers, each once: answers are stored before use.

    Raises:
        StageError: none of the judge's answers can be used.
        BudgetExceeded: the next call could pass the run's budget.
    """
    settings, metric = stage.settings, stage.settings.judge_metric
    judge = settings.models.judge
    folder = f"answers-a{stage.attempt}" if stage.forced else "answers"
    # One store for all candidates: the cascade's answers are another's.
    store = AnswerStore(stage.storage, stage.run.key(f"evaluation/judge/{folder}"))
    model = Model(
        client=aws_access(settings).client("bedrock-runtime"),
        model_id=judge.id,
        settings=judge,
        price=settings.price(judge),
        meter=stage.meter,
        pacer=pacer_of(settings, judge.id),
    )
    buyer = Buyer(stage.run.run_id, stage.attempt)
    # What a start that was killed has bought.
    stage.meter.add(buyer.bought(store.values(), model.price), once="answers of the judge")
    prompt = judge_prompt(settings.prompt("judge").text, metric)

    def ask(prediction: Prediction) -> Verdict:
        answer = ask_once(model, prompt, _request(prediction), store, buyer)
        try:
            score, explanation = read_verdict(answer.texts[-1], metric)
        except AnswerError as problem:
            return None, str(problem), "unreadable"
        return score, explanation, None

    with ThreadPoolExecutor(settings.evaluate.judge_concurrency) as pool:
        verdicts = list(pool.map(ask, predictions))
    store.compact()
    return _judged(
        verdicts,
        predictions,
        f"none of the judge's {len(predictions)} answers about {candidate} can be used, the last "
        f"because {verdicts[-1][1] if verdicts else 'there was none'}. Choose another "
        "`models.judge`, or `evaluate.judge: job`",
    )


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


def _judged(
    verdicts: Sequence[Verdict], predictions: Sequence[Prediction], nothing: str
) -> list[Prediction]:
    """The predictions with their verdicts.

    Raises:
        StageError: no verdict has a score; it says `nothing`.
    """
    if all(score is None for score, _, _ in verdicts):
        raise StageError(nothing)
    return [
        prediction.model_copy(
            update={"judge": score, "judge_explanation": explanation, "judge_problem": problem}
        )
        for prediction, (score, explanation, problem) in zip(predictions, verdicts, strict=True)
    ]


def _said(prediction: Prediction) -> str:
    """The answer as the judge reads it: the service takes no empty response."""
    return prediction.answer if prediction.answer.strip() else "(no answer)"


# --- asked directly ----------------------------------------------------------------------------


class _Verdict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    score: float
    explanation: str = Field(min_length=1)


def judge_prompt(template: str, metric: JudgeMetric) -> str:
    """The system text for the judge: the metric's instructions and scale in the template.

    What is judged is not in it, so that no query or answer can pass for an instruction.
    """
    scale = "\n".join(f"- {step.value:g}: {step.definition}" for step in metric.rating_scale)
    return template.replace("{instructions}", metric.instructions).replace("{scale}", scale)


def read_verdict(text: str, metric: JudgeMetric) -> tuple[float, str]:
    """The judge's score and explanation, strictly: bare JSON, a value of the scale.

    Raises:
        AnswerError: it is anything else; the message says what.
    """
    try:
        verdict = _Verdict.model_validate_json(text)
    except ValidationError as error:
        raise AnswerError(f"the judge's answer is not a verdict: {first_problem(error)}") from None
    values = [step.value for step in metric.rating_scale]
    if verdict.score not in values:
        known = ", ".join(f"{value:g}" for value in values)
        raise AnswerError(f"the judge's score {verdict.score:g} is not on the scale ({known})")
    return verdict.score, verdict.explanation


def _request(prediction: Prediction) -> str:
    request = {
        "prompt": prediction.query,
        "ground_truth": answer_text(prediction.reference),
        "prediction": _said(prediction),
    }
    return json.dumps(request, ensure_ascii=False)


# --- evaluation jobs ---------------------------------------------------------------------------


def _chunks(predictions: Sequence[Prediction]) -> Iterator[Sequence[Prediction]]:
    for start in range(0, len(predictions), MAX_PROMPTS_PER_JOB):
        yield predictions[start : start + MAX_PROMPTS_PER_JOB]


def _parts(candidate: str, number: int) -> tuple[str, ...]:
    """What names a candidate's n-th job."""
    return (candidate,) if number == 1 else (candidate, str(number))


def _folder(stage: StageContext, candidate: str) -> str:
    return stage.run.key(f"evaluation/judge/{candidate}/")


def _output(stage: StageContext, candidate: str, number: int) -> str:
    return f"{_folder(stage, candidate)}{number}/output/"


def _start_job(
    stage: StageContext, candidate: str, number: int, predictions: Sequence[Prediction]
) -> str:
    settings, parts = stage.settings, _parts(candidate, number)
    bedrock = aws_access(settings).client("bedrock")
    name = stage.name(*parts)
    with speaking(f"looking for evaluation job {name}"):
        pages = bedrock.get_paginator("list_evaluation_jobs").paginate(
            nameContains=stage.name_stem(*parts)
        )
        found = find_ours(pages, "jobSummaries", "jobName", stage, *parts)
    cost = judge_cost(stage, predictions)
    if found:
        if found["jobName"] == name:  # an earlier attempt's record has counted its own
            stage.meter.add(cost, once=name)
        return str(found["jobArn"])
    stage.meter.check(cost.usd, f"evaluation job {name}")
    metric = settings.judge_metric
    judge = {"bedrockEvaluatorModels": [{"modelIdentifier": settings.models.judge.id}]}
    dataset = stage.run.put_text(
        f"evaluation/judge/{candidate}/{number}/dataset.jsonl",
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
            clientRequestToken=stage.token(*parts),
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
            outputDataConfig={"s3Uri": stage.storage.uri(_output(stage, candidate, number))},
            jobTags=stage.tags(),
            **({"customerEncryptionKeyId": key} if (key := settings.evaluate.kms_key_id) else {}),
        )
    stage.meter.add(cost, once=name)
    return str(answer["jobArn"])


def _read_job(
    stage: StageContext, candidate: str, number: int, job_arn: str
) -> Mapping[str, Verdict]:
    """A job's verdicts by query, once it is done."""
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
    prefix = f"{_output(stage, candidate, number)}{answer['jobName']}/"
    verdicts: dict[str, Verdict] = {}
    for key in stage.storage.keys(prefix):
        if key.endswith("_output.jsonl"):
            stored = stage.storage.get(key)
            for line in stored.data.splitlines() if stored else ():
                verdicts.update(_verdict(line, settings.judge_metric.metric, key))
    return verdicts


def _judge_line(candidate: str, prediction: Prediction) -> str:
    record = {
        "prompt": prediction.query,
        "referenceResponse": answer_text(prediction.reference),
        "category": prediction.channel,
        "modelResponses": [{"response": _said(prediction), "modelIdentifier": candidate}],
    }
    return json.dumps(record, ensure_ascii=False) + "\n"


def _verdict(line: bytes, metric: str, key: str) -> dict[str, Verdict]:
    try:
        record = json.loads(line)
        prompt = record["inputRecord"]["prompt"]
        scores: list[dict[str, Any]] = record["automatedEvaluationResult"]["scores"]
        ours = next(entry for entry in scores if entry["metricName"] == metric)
        details = ours.get("evaluatorDetails") or [{}]
        explanation, result = str(details[0].get("explanation") or ""), ours["result"]
        if result is None:
            return {prompt: (None, explanation, "no score")}
        return {prompt: (float(result), explanation, None)}
    except (AttributeError, KeyError, StopIteration, TypeError, ValueError) as error:
        raise StageError(
            f"{key} holds a line that is not a judge's verdict: {error!r}. {_JUDGE_AGAIN}"
        ) from None
