"""Evaluate: the same queries for every candidate, asked once, scored twice, judged apart."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import tasks.evaluate
from data_contracts.evaluation import (
    BASE_STUDENT,
    CURRENT_RELEASE,
    DISTILLED_STUDENT,
    LARGE_BASELINE,
    EvaluationSummary,
    Prediction,
)
from data_contracts.heldout import benchmark_queries
from reelroute.aws import AwsAccess
from reelroute.errors import AwsError, BudgetExceeded, StageError
from reelroute.release import BedrockModel, Prompt, Release
from reelroute.rubric import percents, score
from tasks.answer_text import answer_text
from tasks.base import Progress, StageContext
from tasks.candidates import Asked
from tasks.evaluate import (
    HeldOut,
    ask_candidate,
    gather_candidates,
    held_out_queries,
    join_demo,
    judge_cost,
    predict,
    read_judge,
    start_judge,
    summarise,
)
from tasks.releases import move_pointer, write_release
from tasks.reporting.inputs import DemoAnswer
from tests.conftest import Finished
from tests.support import CallsSince, Place, corpus_rows, jsonl, read_jsonl, record, rounded

pytestmark = pytest.mark.usefixtures("prefect_server")

QUERIES = 12


@pytest.fixture(autouse=True)
def _small_benchmark(monkeypatch: pytest.MonkeyPatch) -> None:
    few = benchmark_queries()[:QUERIES]
    monkeypatch.setattr(tasks.evaluate, "benchmark_queries", lambda: few)


Evaluating = Callable[..., StageContext]


@pytest.fixture
def evaluating(place: Place, finished: Finished) -> Evaluating:
    """An evaluate stage of a run in this place, on the finished pipeline's deployment."""
    deployment = finished.run.completed("deploy").resources

    def stage(run_id: str = "run-1", fresh: int = 2, **more: Any) -> StageContext:
        run = place.run(run_id)
        file = run.put_text("dataset/heldout_fresh.jsonl", jsonl(corpus_rows(fresh)))
        upstream = {
            "validate": record(run, "validate", files={"fresh": file}),
            "distill": record(run, "distill"),
            "deploy": record(run, "deploy", resources=deployment),
        }
        return place.stage("evaluate", run=run, upstream=upstream, **more)  # type: ignore[arg-type]

    return stage


def gathered(stage: StageContext) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        return {c.name: c for c in gather_candidates(stage, Path(folder))}


def ask(stage: StageContext, name: str, client: Any = None) -> list[Prediction]:
    candidate = gathered(stage)[name]
    if client:
        model = dataclasses.replace(candidate.bedrock, client=client(candidate.bedrock.client))
        candidate = dataclasses.replace(candidate, bedrock=model)
    predictions, _ = ask_candidate(stage, candidate, held_out_queries(stage), Progress("e", "e", 1))
    return predictions


def test_all_candidates_are_asked_as_in_production(evaluating: Evaluating) -> None:
    stage = evaluating()
    candidates = gathered(stage)
    assert list(candidates) == [BASE_STUDENT, DISTILLED_STUDENT, LARGE_BASELINE]
    models = stage.settings.models
    assert candidates[BASE_STUDENT].model == models.student.id
    deployment = stage.upstream["deploy"].resources["deployment_arn"]
    assert candidates[DISTILLED_STUDENT].model == deployment
    assert {c.prompt for c in candidates.values()} == {stage.settings.prompt("router").text}


def test_the_current_release_is_asked_with_its_own_prompt(
    evaluating: Evaluating, place: Place
) -> None:
    stage = evaluating("run-2")
    release = Release.model_validate(
        {
            "version": "run-1-x",
            "run_id": "run-1",
            "created_at": "2026-01-01T00:00:00Z",
            "router": "bedrock",
            "prompt": Prompt.of("an older prompt"),
            "bedrock": BedrockModel(
                deployment_arn="d", model_arn="m", fingerprint="f", region="r", max_tokens=77
            ),
        }
    )
    move_pointer(stage.storage, None, write_release(stage.storage, release), "promote")
    current = list(gathered(stage).values())[-1]
    assert (current.name, current.prompt) == (CURRENT_RELEASE, "an older prompt")
    assert (current.model, current.bedrock.settings.max_tokens) == ("d", 77)
    assert CURRENT_RELEASE not in gathered(evaluating("run-1"))


def test_the_benchmark_comes_first_and_fresh_queries_fill_what_the_judge_takes(
    evaluating: Evaluating, monkeypatch: pytest.MonkeyPatch
) -> None:
    held_out = held_out_queries(evaluating(fresh=5))
    assert [item.reading for item in held_out] == ["benchmark"] * QUERIES + ["fresh"] * 5
    monkeypatch.setattr(tasks.evaluate, "MAX_PROMPTS_PER_JOB", QUERIES + 3)
    cut = held_out_queries(evaluating("run-2", fresh=5))
    assert len(cut) == QUERIES + 3
    ids = [item.row.id for item in cut[QUERIES:]]
    assert ids == sorted(row.id for row in corpus_rows(5))[:3]


def test_answers_are_asked_once_and_never_again(evaluating: Evaluating, calls: CallsSince) -> None:
    stage = evaluating()
    first = ask(stage, DISTILLED_STUDENT)
    asked = calls.asked()
    assert asked == QUERIES + 2 + len(stage.settings.evaluate.demo_queries)
    assert ask(evaluating(attempt=2), DISTILLED_STUDENT) == first
    assert calls.asked() == asked


class Cut:
    """A client whose connection is cut for good after some answers."""

    def __init__(self, client: Any, after: int) -> None:
        self._client, self._left = client, after

    def converse(self, **request: Any) -> Any:
        self._left -= 1
        if self._left < 0:
            raise AwsError("the connection was cut")
        return self._client.converse(**request)


def test_after_a_crash_in_the_middle_only_the_missing_answers_are_asked(
    evaluating: Evaluating, calls: CallsSince
) -> None:
    with pytest.raises(AwsError, match="was cut"):
        ask(evaluating(), DISTILLED_STUDENT, lambda client: Cut(client, 5))
    assert calls.asked() == 5
    predictions = ask(evaluating(attempt=2), DISTILLED_STUDENT)
    assert len(predictions) == QUERIES + 2
    texts = [call.text_sha256 for call in calls.all() if call.operation == "Converse"]
    assert len(set(texts)) == len(texts) == QUERIES + 2 + 4


def test_a_start_after_a_kill_counts_what_the_attempt_has_bought_already(
    evaluating: Evaluating,
) -> None:
    killed, again, later = evaluating(), evaluating(), evaluating(attempt=2)
    with pytest.raises(AwsError, match="was cut"):
        ask(killed, DISTILLED_STUDENT, lambda client: Cut(client, 5))
    gathered(again)
    assert rounded(again.meter.cost) == rounded(killed.meter.cost)
    assert again.meter.cost.calls == 5
    gathered(later)
    assert later.meter.cost.calls == 0


def test_a_forced_attempt_asks_everything_anew(evaluating: Evaluating, calls: CallsSince) -> None:
    ask(evaluating(), DISTILLED_STUDENT)
    asked = calls.asked()
    ask(evaluating(attempt=2, forced=True), DISTILLED_STUDENT)
    assert calls.asked() == 2 * asked
    ask(evaluating(attempt=2, forced=True), DISTILLED_STUDENT)
    assert calls.asked() == 2 * asked


@pytest.fixture
def item() -> HeldOut:
    row = benchmark_queries()[0]
    return HeldOut(row, "benchmark")


def answered(item: HeldOut, text: str) -> Prediction:
    answer = Asked(text, latency_ms=12.5, input_tokens=7, output_tokens=3)
    return predict("base-student", item, answer)


def test_a_bare_answer_is_valid_and_scored(item: HeldOut) -> None:
    found = answered(item, answer_text(item.row.weights))
    assert (found.valid, found.repairs, found.score, found.mean_error) == (True, (), 5, 0)
    assert (found.input_tokens, found.output_tokens, found.latency_ms) == (7, 3, 12.5)
    assert (found.id, found.channel, found.domain) == (
        item.row.id,
        item.row.channel,
        item.row.domain,
    )


def test_an_answer_that_was_mended_scores_by_its_weights_but_is_not_valid(item: HeldOut) -> None:
    found = answered(item, f"Sure!\n```json\n{answer_text(item.row.weights)}\n```")
    assert not found.valid
    assert found.problem
    assert "code fence" in found.repairs
    assert found.score == 5


@pytest.mark.parametrize("text", ["", "prose", '{"visual": NaN}', "[" * 5000])
def test_an_answer_that_cannot_be_read_scores_one(text: str, item: HeldOut) -> None:
    found = answered(item, text)
    assert (found.valid, found.weights, found.score) == (False, None, 1)
    assert (found.mean_error, found.dominant) == (50, 0)


def test_a_candidates_answers_are_judged_in_one_job_that_is_found_again(
    evaluating: Evaluating, calls: CallsSince
) -> None:
    stage = evaluating()
    predictions = ask(stage, DISTILLED_STUDENT)
    arn = start_judge(stage, DISTILLED_STUDENT, predictions)
    again, later = evaluating(), evaluating(attempt=2)
    judging = judge_cost(stage, predictions)
    for same, bought in ((again, judging.calls), (again, judging.calls), (later, 0)):
        assert start_judge(same, DISTILLED_STUDENT, predictions) == arn
        assert same.meter.cost.calls == bought
    assert calls.count("CreateEvaluationJob") == 1
    judged = read_judge(stage, DISTILLED_STUDENT, arn, predictions)
    assert [p.query for p in judged] == [p.query for p in predictions]
    assert all(p.judge is not None and 1 <= p.judge <= 5 for p in judged)
    assert all(p.judge_explanation for p in judged)
    unjudged = [p.model_copy(update={"judge": None, "judge_explanation": ""}) for p in judged]
    assert unjudged == predictions
    assert read_judge(stage, DISTILLED_STUDENT, arn, predictions[::-1]) == judged[::-1]


def test_blank_answers_can_be_judged_too(evaluating: Evaluating) -> None:
    stage = evaluating()
    predictions = [
        p.model_copy(update={"answer": blank})
        for p, blank in zip(ask(stage, DISTILLED_STUDENT), ["", " \n"] * QUERIES, strict=False)
    ]
    arn = start_judge(stage, DISTILLED_STUDENT, predictions)
    judged = read_judge(stage, DISTILLED_STUDENT, arn, predictions)
    assert {p.judge for p in judged} == {1.0}


def test_each_candidate_has_a_job_of_its_own_under_its_slug(
    evaluating: Evaluating, place: Place
) -> None:
    stage = evaluating()
    predictions = ask(stage, DISTILLED_STUDENT)
    arns = {start_judge(stage, name, predictions) for name in (DISTILLED_STUDENT, "base-student")}
    assert len(arns) == 2
    dataset = stage.storage.get(stage.run.key("evaluation/judge/base-student/dataset.jsonl"))
    assert dataset is not None
    line = json.loads(dataset.data.splitlines()[0])
    assert line["modelResponses"] == [
        {"response": predictions[0].answer, "modelIdentifier": "base-student"}
    ]
    assert line["referenceResponse"] == answer_text(predictions[0].reference)


def verdict(query: str, result: float | None, metric: str) -> str:
    score = {"metricName": metric, "result": result, "evaluatorDetails": [{"explanation": "why"}]}
    record = {"inputRecord": {"prompt": query}, "automatedEvaluationResult": {"scores": [score]}}
    return json.dumps(record) + "\n"


@pytest.fixture
def judged_by(evaluating: Evaluating, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """What `read_judge` makes of an output that the test writes."""

    def read(lines: Callable[[list[Prediction], str], str]) -> list[Prediction]:
        stage = evaluating()
        predictions = ask(stage, DISTILLED_STUDENT)
        metric = stage.settings.judge_metric.metric
        monkeypatch.setattr(tasks.evaluate, "wait", lambda *a, **k: {"jobName": "job"})
        stage.run.put_text(
            "evaluation/judge/distilled-student/output/job/id/x_output.jsonl",
            lines(predictions, metric),
        )
        return read_judge(stage, DISTILLED_STUDENT, "arn", predictions)

    return read


def test_an_answer_that_the_judge_failed_at_has_no_score(judged_by: Any) -> None:
    judged = judged_by(
        lambda predictions, metric: (
            verdict(predictions[0].query, None, metric) + verdict(predictions[1].query, 3, metric)
        )
    )
    assert [p.judge for p in judged[:3]] == [None, 3.0, None]
    assert judged[1].judge_explanation == "why"


def test_a_judge_that_scored_nothing_fails_the_stage(judged_by: Any) -> None:
    with pytest.raises(StageError, match=r"evaluation job job scored none of 14 answers"):
        judged_by(lambda predictions, metric: verdict(predictions[0].query, None, metric))


@pytest.mark.parametrize(
    "line", ["no json\n", '{"inputRecord": {}}\n', verdict("q", 1, "another metric"), "[]\n"]
)
def test_a_line_that_is_no_verdict_is_named_by_its_file(line: str, judged_by: Any) -> None:
    with pytest.raises(StageError, match=r"x_output\.jsonl holds a line that is not a judge's"):
        judged_by(lambda predictions, metric: line)


def test_a_judge_that_the_budget_does_not_allow_is_not_started(
    evaluating: Evaluating, calls: CallsSince
) -> None:
    predictions = ask(evaluating(), DISTILLED_STUDENT)
    poor = evaluating(budget=0.0001)
    with pytest.raises(BudgetExceeded, match="evaluation job"):
        start_judge(poor, DISTILLED_STUDENT, predictions)
    assert calls.count("CreateEvaluationJob") == 0


def test_judging_is_estimated_at_the_judges_price(evaluating: Evaluating) -> None:
    stage = evaluating()
    predictions = ask(stage, DISTILLED_STUDENT)
    cost = judge_cost(stage, predictions)
    assert cost.calls == len(predictions)
    assert cost.usd == pytest.approx(
        (0.0008 * cost.input_tokens + 0.0032 * cost.output_tokens) / 1000
    )
    assert cost.simulated


def test_the_summary_has_both_readings_and_the_differences_to_the_student(
    evaluating: Evaluating,
) -> None:
    stage = evaluating()
    predictions = {name: ask(stage, name) for name in (BASE_STUDENT, DISTILLED_STUDENT)}
    candidates = [c for c in gathered(stage).values() if c.name in predictions]
    summary = summarise(stage, candidates, predictions)
    assert [(s.name, s.queries) for s in summary.benchmark] == [
        (BASE_STUDENT, QUERIES),
        (DISTILLED_STUDENT, QUERIES),
    ]
    assert [s.queries for s in summary.fresh] == [2, 2]
    assert [(d.candidate, d.against) for d in summary.differences] == [
        (DISTILLED_STUDENT, BASE_STUDENT)
    ]
    assert summary.run_id == "run-1"


def test_a_run_without_fresh_queries_has_the_benchmark_alone(evaluating: Evaluating) -> None:
    stage = evaluating(fresh=0)
    predictions = {DISTILLED_STUDENT: ask(stage, DISTILLED_STUDENT)}
    candidates = [c for c in gathered(stage).values() if c.name in predictions]
    assert summarise(stage, candidates, predictions).fresh == ()


def test_demo_answers_stand_side_by_side() -> None:
    joined = join_demo(
        [
            [DemoAnswer("q1", {"a": "1"}), DemoAnswer("q2", {"a": "2"})],
            [DemoAnswer("q1", {"b": "3"}), DemoAnswer("q2", {"b": "4"})],
        ]
    )
    assert joined == [
        DemoAnswer("q1", {"a": "1", "b": "3"}),
        DemoAnswer("q2", {"a": "2", "b": "4"}),
    ]


# --- what the finished pipeline left -----------------------------------------------------------


def summary_of(finished: Finished) -> EvaluationSummary:
    files = finished.run.completed("evaluate").files
    return EvaluationSummary.model_validate_json(finished.run.storage.read(files["summary"]))


def predictions_of(finished: Finished, name: str) -> list[Prediction]:
    file = finished.run.completed("evaluate").files[f"predictions {name}"]
    return [Prediction.model_validate(row) for row in read_jsonl(finished.run.storage.read(file))]


def test_every_candidate_answered_the_same_whole_benchmark(finished: Finished) -> None:
    summary = summary_of(finished)
    asked = {
        s.name: [p.query for p in predictions_of(finished, s.name) if p.reading == "benchmark"]
        for s in summary.benchmark
    }
    assert {BASE_STUDENT, DISTILLED_STUDENT, LARGE_BASELINE} <= set(asked)
    for queries in asked.values():
        assert queries == [row.query for row in benchmark_queries()]


def test_the_stored_scores_are_those_of_the_stored_answers(finished: Finished) -> None:
    for scores in summary_of(finished).benchmark:
        mine = [p for p in predictions_of(finished, scores.name) if p.reading == "benchmark"]
        assert scores.rubric == pytest.approx(sum(p.score for p in mine) / 300)
        assert scores.valid_rate == pytest.approx(sum(p.valid for p in mine) / 300)
        assert scores.judge is not None
        assert scores.judged == 300
        assert scores.simulated_cost or scores.cost_per_1k_usd == 0
        for p in mine:
            assert p.score == score(p.weights, p.reference).score


def test_students_answer_on_the_grid_and_their_tokens_are_counted(finished: Finished) -> None:
    for p in predictions_of(finished, DISTILLED_STUDENT):
        assert p.valid
        assert p.weights is not None
        assert all(percent % 5 == 0 for percent in percents(p.weights))
        assert p.input_tokens > 0
        assert p.output_tokens > 0


def test_the_base_student_answers_in_prose_now_and_then(finished: Finished) -> None:
    scores = summary_of(finished).candidate(BASE_STUDENT)
    assert scores is not None
    assert 0 < scores.valid_rate < 1
    assert scores.output_format == "inconsistent"


def test_report_page_charts_and_predictions_are_left(finished: Finished) -> None:
    files = finished.run.completed("evaluate").files
    read = finished.run.storage.read
    assert read(files["page"]).lower().startswith(b"<!doctype html")
    assert b"CEO discussing quarterly earnings" in read(files["report"])
    charts = [name for name in files if name.startswith("chart ")]
    assert charts
    assert all(read(files[name]).startswith(b"\x89PNG") for name in charts)


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
    start_judge(stages[0], DISTILLED_STUDENT, [])
    assert "customerEncryptionKeyId" not in noted
    start_judge(stages[1], DISTILLED_STUDENT, [])
    assert noted["customerEncryptionKeyId"] == "alias/reelroute"
