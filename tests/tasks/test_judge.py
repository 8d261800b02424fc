"""The judge: every answer judged once, in jobs of so many or asked directly, failures counted."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

import tasks.judge
from configs.settings import load_settings
from data_contracts.evaluation import DISTILLED_STUDENT, Prediction
from data_contracts.heldout import benchmark_queries
from reelroute.aws import AwsAccess
from reelroute.errors import AnswerError, AwsError, BudgetExceeded, StageError
from tasks.answer_text import answer_text
from tasks.base import StageContext
from tasks.candidates import Asked
from tasks.evaluate import HeldOut, predict
from tasks.judge import (
    ask_judge,
    failures,
    judge,
    judge_cost,
    judge_prompt,
    read_judge,
    read_verdict,
    start_judge,
)
from tasks.models import Model
from tests.support import CallsSince, Place, rounded

pytestmark = pytest.mark.usefixtures("prefect_server")

Stage = Callable[..., StageContext]
METRIC = load_settings().judge_metric


@pytest.fixture
def evaluating(place: Place) -> Stage:
    def stage(judge: str = "job", **more: Any) -> StageContext:
        settings = place.settings(evaluate__judge=judge)
        return place.stage("evaluate", settings=settings, run=place.run(), **more)

    return stage


def predictions(count: int = 12, candidate: str = DISTILLED_STUDENT) -> list[Prediction]:
    """Answers to the benchmark, each as the one before would be answered."""
    rows = benchmark_queries()[: count + 1]
    answers = [Asked(answer_text(row.weights), latency_ms=1.0) for row in rows[1:]]
    return [
        predict(candidate, HeldOut(row, "benchmark"), asked)
        for row, asked in zip(rows, answers, strict=False)
    ]


def unjudged(judged: Sequence[Prediction]) -> list[Prediction]:
    return [p.model_copy(update={"judge": None, "judge_explanation": ""}) for p in judged]


# --- evaluation jobs ---------------------------------------------------------------------------


def test_a_candidates_answers_are_judged_in_one_job_that_is_found_again(
    evaluating: Stage, calls: CallsSince
) -> None:
    stage, answers = evaluating(), predictions()
    arns = start_judge(stage, DISTILLED_STUDENT, answers)
    assert len(arns) == 1
    judging = judge_cost(stage, answers)
    for same, bought in (
        (evaluating(), judging.calls),
        (evaluating(), judging.calls),
        (evaluating(attempt=2), 0),
    ):
        assert start_judge(same, DISTILLED_STUDENT, answers) == arns
        assert same.meter.cost.calls == bought
    assert calls.count("CreateEvaluationJob") == 1
    judged = read_judge(stage, DISTILLED_STUDENT, arns, answers)
    assert all(p.judge is not None and 1 <= p.judge <= 5 for p in judged)
    assert all(p.judge_explanation for p in judged)
    assert unjudged(judged) == answers
    assert read_judge(stage, DISTILLED_STUDENT, arns, answers[::-1]) == judged[::-1]


def test_more_answers_than_a_job_takes_fill_several_and_all_are_judged(
    evaluating: Stage, calls: CallsSince, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage, answers = evaluating(), predictions(12)
    whole, _ = judge(stage, {DISTILLED_STUDENT: answers})
    monkeypatch.setattr(tasks.judge, "MAX_PROMPTS_PER_JOB", 5)
    again = evaluating(attempt=2, forced=True)
    parts, jobs = judge(again, {DISTILLED_STUDENT: answers})
    assert [p.judge for p in parts[DISTILLED_STUDENT]] == [
        p.judge for p in whole[DISTILLED_STUDENT]
    ]
    assert list(jobs) == [f"judge job {DISTILLED_STUDENT}{n}" for n in ("", " 2", " 3")]
    assert len(set(jobs.values())) == 3
    assert calls.count("CreateEvaluationJob") == 1 + 3
    assert again.meter.cost.calls == 12
    # After a kill the jobs are found again, and counted once.
    killed = evaluating(attempt=2, forced=True)
    assert judge(killed, {DISTILLED_STUDENT: answers}) == (parts, jobs)
    assert calls.count("CreateEvaluationJob") == 1 + 3
    assert rounded(killed.meter.cost) == rounded(again.meter.cost)


def test_no_job_gets_more_prompts_than_the_service_takes(
    evaluating: Stage, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks.judge, "MAX_PROMPTS_PER_JOB", 5)
    stage = evaluating()
    start_judge(stage, DISTILLED_STUDENT, predictions(12))
    sizes, prompts = [], []
    for key in stage.storage.keys(stage.run.key("evaluation/judge/")):
        if key.endswith("dataset.jsonl"):
            stored = stage.storage.get(key)
            assert stored is not None
            lines = [json.loads(line) for line in stored.data.splitlines()]
            sizes.append(len(lines))
            prompts += [line["prompt"] for line in lines]
    assert sizes == [5, 5, 2]
    assert prompts == [p.query for p in predictions(12)]


def test_blank_answers_can_be_judged_too(evaluating: Stage) -> None:
    stage = evaluating()
    blank = [
        p.model_copy(update={"answer": text})
        for p, text in zip(predictions(), ["", " \n"] * 6, strict=True)
    ]
    arns = start_judge(stage, DISTILLED_STUDENT, blank)
    assert {p.judge for p in read_judge(stage, DISTILLED_STUDENT, arns, blank)} == {1.0}


def test_each_candidate_has_a_job_of_its_own_under_its_slug(evaluating: Stage) -> None:
    stage, answers = evaluating(), predictions()
    arns = {start_judge(stage, name, answers) for name in (DISTILLED_STUDENT, "base-student")}
    assert len(arns) == 2
    dataset = stage.storage.get(stage.run.key("evaluation/judge/base-student/1/dataset.jsonl"))
    assert dataset is not None
    line = json.loads(dataset.data.splitlines()[0])
    assert line["modelResponses"] == [
        {"response": answers[0].answer, "modelIdentifier": "base-student"}
    ]
    assert line["referenceResponse"] == answer_text(answers[0].reference)


def verdict(query: str, result: float | None, metric: str) -> str:
    score = {"metricName": metric, "result": result, "evaluatorDetails": [{"explanation": "why"}]}
    record = {"inputRecord": {"prompt": query}, "automatedEvaluationResult": {"scores": [score]}}
    return json.dumps(record) + "\n"


@pytest.fixture
def judged_by(evaluating: Stage, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """What `read_judge` makes of an output that the test writes."""

    def read(lines: Callable[[list[Prediction], str], str]) -> list[Prediction]:
        stage, answers = evaluating(), predictions()
        monkeypatch.setattr(tasks.judge, "wait", lambda *a, **k: {"jobName": "job"})
        stage.run.put_text(
            "evaluation/judge/distilled-student/1/output/job/id/x_output.jsonl",
            lines(answers, METRIC.metric),
        )
        return read_judge(stage, DISTILLED_STUDENT, ["arn"], answers)

    return read


def test_an_answer_that_the_judge_failed_at_has_no_score_and_is_counted(judged_by: Any) -> None:
    judged = judged_by(
        lambda answers, metric: (
            verdict(answers[0].query, None, metric) + verdict(answers[1].query, 3, metric)
        )
    )
    assert [p.judge for p in judged[:3]] == [None, 3.0, None]
    assert [p.judge_problem for p in judged[:3]] == ["no score", None, "no verdict"]
    assert judged[1].judge_explanation == "why"
    assert failures({"a": judged, "b": judged[1:2]}) == {"a": 11}


def test_a_judge_that_scored_nothing_fails_the_stage(judged_by: Any) -> None:
    with pytest.raises(StageError, match=r"jobs of distilled-student scored none of 12 answers"):
        judged_by(lambda answers, metric: verdict(answers[0].query, None, metric))


@pytest.mark.parametrize(
    "line", ["no json\n", '{"inputRecord": {}}\n', verdict("q", 1, "another metric"), "[]\n"]
)
def test_a_line_that_is_no_verdict_is_named_by_its_file(line: str, judged_by: Any) -> None:
    with pytest.raises(StageError, match=r"x_output\.jsonl holds a line that is not a judge's"):
        judged_by(lambda answers, metric: line)


def test_a_judge_that_the_budget_does_not_allow_is_not_started(
    evaluating: Stage, calls: CallsSince
) -> None:
    with pytest.raises(BudgetExceeded, match="evaluation job"):
        start_judge(evaluating(budget=0.0001), DISTILLED_STUDENT, predictions())
    assert calls.count("CreateEvaluationJob") == 0


def test_judging_is_estimated_at_the_judges_price(evaluating: Stage) -> None:
    cost = judge_cost(evaluating(), predictions())
    assert cost.calls == 12
    assert cost.usd == pytest.approx(
        (0.0008 * cost.input_tokens + 0.0032 * cost.output_tokens) / 1000
    )
    assert cost.simulated


# --- asked directly ----------------------------------------------------------------------------


def test_asked_directly_the_judge_reads_the_same_metric_and_scale(evaluating: Stage) -> None:
    prompt = judge_prompt(evaluating().settings.prompt("judge").text, METRIC)
    assert METRIC.instructions in prompt
    for step in METRIC.rating_scale:
        assert f"- {step.value:g}: {step.definition}" in prompt


def test_asked_directly_every_answer_is_judged_once_over_all_candidates_and_starts(
    evaluating: Stage, calls: CallsSince
) -> None:
    stage, answers = evaluating("converse"), predictions()
    same = [p.model_copy(update={"candidate": "cascade"}) for p in answers]
    judged, jobs = judge(stage, {DISTILLED_STUDENT: answers, "cascade": same})
    assert jobs == {}
    assert calls.asked(stage.settings.models.judge.id) == stage.meter.cost.calls == 12
    assert calls.count("CreateEvaluationJob") == 0
    assert unjudged(judged[DISTILLED_STUDENT]) == answers
    scores = [p.judge for p in judged[DISTILLED_STUDENT]]
    assert scores == [p.judge for p in judged["cascade"]]
    assert all(score is not None and 1 <= score <= 5 for score in scores)
    assert failures(judged) == {}
    again = evaluating("converse")
    assert (
        judge(again, {DISTILLED_STUDENT: answers})[0][DISTILLED_STUDENT]
        == judged[DISTILLED_STUDENT]
    )
    assert calls.asked() == 12
    assert rounded(again.meter.cost) == rounded(stage.meter.cost)


def test_both_ways_the_embedded_judge_sees_the_same_errors(evaluating: Stage) -> None:
    answers = predictions()
    by_job, _ = judge(evaluating(), {DISTILLED_STUDENT: answers})
    directly = ask_judge(evaluating("converse"), DISTILLED_STUDENT, answers)
    for one, other in zip(by_job[DISTILLED_STUDENT], directly, strict=True):
        assert one.judge_explanation.split(".")[0] == other.judge_explanation.split(".")[0]


def test_after_a_crash_the_judge_is_asked_about_the_missing_answers_alone(
    evaluating: Stage, calls: CallsSince, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask, left = Model.ask, iter(range(5))

    def cut(self: Model, *args: Any, **more: Any) -> Any:
        if next(left, None) is None:
            raise AwsError("the connection was cut")
        return ask(self, *args, **more)

    with monkeypatch.context() as patch:
        patch.setattr(Model, "ask", cut)
        with pytest.raises(AwsError, match="was cut"):
            ask_judge(evaluating("converse"), DISTILLED_STUDENT, predictions())
    again = evaluating("converse")
    assert len(ask_judge(again, DISTILLED_STUDENT, predictions())) == 12
    texts = [call.text_sha256 for call in calls.all() if call.operation == "Converse"]
    assert len(set(texts)) == len(texts) == 12
    assert again.meter.cost.calls == 12


def test_asked_directly_the_judge_stops_at_the_budget(evaluating: Stage, calls: CallsSince) -> None:
    with pytest.raises(BudgetExceeded, match="the next call"):
        ask_judge(evaluating("converse", budget=0.005), DISTILLED_STUDENT, predictions())
    bought = calls.asked()
    assert 0 < bought < 12
    ask_judge(evaluating("converse", budget=5), DISTILLED_STUDENT, predictions())
    assert calls.asked() == 12


def answering(monkeypatch: pytest.MonkeyPatch, *texts: str) -> None:
    """Let the judge say these texts by turns."""
    ask, turns = Model.ask, iter(texts * 12)

    def said(self: Model, *args: Any, **more: Any) -> Any:
        reply = ask(self, *args, **more)
        return type(reply)(next(turns), *(getattr(reply, n) for n in reply.__slots__[1:]))

    monkeypatch.setattr(Model, "ask", said)


def test_what_the_judge_says_besides_a_verdict_is_counted_as_unreadable(
    evaluating: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    answering(monkeypatch, '{"score": 4, "explanation": "near"}', "I would say four.")
    stage = evaluating("converse")
    judged = ask_judge(stage, DISTILLED_STUDENT, predictions())
    assert sorted(str(p.judge_problem) for p in judged) == ["None"] * 6 + ["unreadable"] * 6
    assert {p.judge for p in judged} == {4.0, None}
    assert failures({DISTILLED_STUDENT: judged}) == {DISTILLED_STUDENT: 6}


def test_a_judge_that_never_gives_a_verdict_fails_the_stage(
    evaluating: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    answering(monkeypatch, "prose")
    with pytest.raises(StageError, match=r"none of the judge's 12 answers .*not a verdict"):
        ask_judge(evaluating("converse"), DISTILLED_STUDENT, predictions())


def test_a_verdict_is_read_with_its_explanation() -> None:
    assert read_verdict('{"score": 4, "explanation": "near"}', METRIC) == (4.0, "near")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "Invalid JSON"),
        ("4", "valid dictionary|object"),
        ('```json\n{"score": 4, "explanation": "x"}\n```', "Invalid JSON"),
        ('{"score": "4", "explanation": "x"}', "score: .*number"),
        ('{"score": true, "explanation": "x"}', "score: .*number"),
        ('{"score": 4}', "explanation: Field required"),
        ('{"score": 4, "explanation": ""}', "explanation: .*at least 1"),
        ('{"score": 4, "explanation": "x", "more": 1}', "more: Extra"),
        ('{"score": 3.5, "explanation": "x"}', r"score 3.5 is not on the scale \(5, 4, 3, 2, 1\)"),
        ('{"score": NaN, "explanation": "x"}', "not on the scale|Invalid JSON|finite"),
    ],
)
def test_anything_but_a_bare_verdict_on_the_scale_is_refused(text: str, said: str) -> None:
    with pytest.raises(AnswerError, match=said):
        read_verdict(text, METRIC)


def test_the_judges_job_is_encrypted_with_the_profiles_key(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    noted: dict[str, Any] = {}

    class Bedrock:
        def get_paginator(self, _: str) -> Bedrock:
            return self

        def paginate(self, **_: str) -> list[dict[str, Any]]:
            return []

        def create_evaluation_job(self, **request: Any) -> dict[str, str]:
            noted.update(request)
            return {"jobArn": "arn"}

    stages = [
        place.stage("evaluate", settings=place.settings(**settings))
        for settings in ({}, {"evaluate__kms_key_id": "alias/reelroute"})
    ]
    monkeypatch.setattr(AwsAccess, "client", lambda self, service: Bedrock())
    start_judge(stages[0], DISTILLED_STUDENT, predictions(2))
    assert "customerEncryptionKeyId" not in noted
    start_judge(stages[1], DISTILLED_STUDENT, predictions(2))
    assert noted["customerEncryptionKeyId"] == "alias/reelroute"
