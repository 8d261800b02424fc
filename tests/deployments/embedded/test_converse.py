"""Converse: what the embedded models answer, and which requests are refused."""

import json
import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import botocore.exceptions
import pytest

from deployments.embedded.aws import EmbeddedAws
from deployments.embedded.models.answers import bare_json_of
from deployments.embedded.models.corpus import recorded_answers
from reelroute.parsing import parse_strict

TEACHER = "embedded.teacher-v1:0"


def refused(runtime: Any, **request: Any) -> str:
    """Code and message of a refused request."""
    with pytest.raises(botocore.exceptions.ClientError) as caught:
        runtime.converse(**request)
    error = caught.value.response["Error"]
    return f"{error['Code']}: {error['Message']}"


def turn(role: str, text: str) -> dict[str, Any]:
    return {"role": role, "content": [{"text": text}]}


def test_the_teacher_answers_a_recorded_query_as_recorded(ask: Callable[..., str]) -> None:
    recorded = recorded_answers()[17]
    assert ask(f"  {recorded.query.upper()} ") == bare_json_of(recorded.weights)


def test_the_answer_carries_simulated_tokens_and_a_measured_latency(runtime: Any) -> None:
    answer = runtime.converse(
        modelId=TEACHER, system=[{"text": "x" * 10}], messages=[turn("user", "dog barking loudly")]
    )
    text = answer["output"]["message"]["content"][0]["text"]
    usage = answer["usage"]
    assert usage["inputTokens"] == math.ceil((10 + len("dog barking loudly")) / 4)
    assert usage["outputTokens"] == math.ceil(len(text) / 4)
    assert usage["totalTokens"] == usage["inputTokens"] + usage["outputTokens"]
    assert answer["stopReason"] == "end_turn"
    assert answer["metrics"]["latencyMs"] >= 1


def test_a_request_to_repair_is_answered_for_the_first_turn(runtime: Any) -> None:
    messages = [
        turn("user", "dog barking loudly"),
        turn("assistant", "{broken"),
        turn("user", "That can't be used. Answer once more."),
    ]
    first = runtime.converse(modelId=TEACHER, messages=messages[:1])
    again = runtime.converse(modelId=TEACHER, messages=messages)
    assert again["output"] == first["output"]


def test_max_tokens_cuts_the_answer_off(runtime: Any) -> None:
    answer = runtime.converse(
        modelId=TEACHER, messages=[turn("user", "sunset")], inferenceConfig={"maxTokens": 5}
    )
    assert answer["stopReason"] == "max_tokens"
    assert answer["usage"]["outputTokens"] == 5
    assert len(answer["output"]["message"]["content"][0]["text"]) == 20


def test_a_foundation_model_goes_by_its_arn_too(ask: Callable[..., str]) -> None:
    arn = f"arn:aws:bedrock:us-east-1::foundation-model/{TEACHER}"
    assert ask("dog barking loudly", arn) == ask("dog barking loudly")


def test_a_deployment_answers_with_its_own_model(ask: Callable[..., str], deployed: str) -> None:
    answer = ask("dog barking loudly", deployed)
    assert "dog" in parse_strict(answer).reasoning or "bark" in parse_strict(answer).reasoning
    assert answer == ask("dog barking loudly", deployed)


@pytest.mark.off_model
def test_a_custom_models_own_arn_can_not_be_asked(runtime: Any, trained: dict[str, Any]) -> None:
    problem = refused(runtime, modelId=trained["outputModelArn"], messages=[turn("user", "sunset")])
    assert problem.startswith("ValidationException: Invocation of model ID")
    assert "deployment" in problem


def test_the_judge_scores_one_answer_on_the_metrics_scale(ask: Callable[..., str]) -> None:
    reference = '{"visual": 0.7, "audio": 0.1, "transcription": 0.1, "metadata": 0.1, "reasoning": '
    good, bare = f'{reference}"a sunset is seen"}}', f'{reference}""}}'
    scores = []
    for prediction in (good, bare, "prose"):
        request = {"prompt": "sunset", "ground_truth": good, "prediction": prediction}
        verdict = json.loads(ask(json.dumps(request), "embedded.rubric-judge-v1:0"))
        assert verdict["explanation"]
        scores.append(verdict["score"])
    assert scores == [5, 4, 1]


@pytest.mark.parametrize("text", ["sunset", '{"prompt": "sunset"}', "[1]"])
def test_the_judge_says_so_where_there_is_nothing_to_judge(
    text: str, ask: Callable[..., str]
) -> None:
    assert "give me prompt, ground_truth and prediction" in ask(text, "embedded.rubric-judge-v1:0")


@pytest.mark.parametrize(
    ("model_id", "problem"),
    [
        ("amazon.nova-micro-v1:0", "ValidationException: The provided model identifier is invalid"),
        (
            "arn:aws:bedrock:us-east-1:123456789012:custom-model-deployment/000000000000",
            "ResourceNotFoundException: The custom model deployment",
        ),
    ],
)
def test_a_model_that_can_not_be_asked_is_refused(
    runtime: Any, model_id: str, problem: str
) -> None:
    messages = [turn("user", "sunset")]
    assert refused(runtime, modelId=model_id, messages=messages).startswith(problem)


@pytest.mark.parametrize(
    ("messages", "problem"),
    [
        ([], "must start with a user message"),
        ([turn("assistant", "hello")], "must start with a user message"),
        ([turn("user", "a"), turn("user", "b")], "must alternate"),
        ([turn("user", "a"), turn("assistant", "b")], "must end with a user message"),
        ([turn("user", "  ")], "messages.0.content.0 is blank"),
        ([{"role": "user", "content": []}], "messages.0 is empty"),
        ([turn("robot", "a")], "Member must satisfy enum value set"),
    ],
)
@pytest.mark.off_model
def test_a_conversation_that_is_none_is_refused(
    runtime: Any, messages: list[dict[str, Any]], problem: str
) -> None:
    assert problem in refused(runtime, modelId=TEACHER, messages=messages)


@pytest.mark.off_model
def test_a_setting_out_of_range_is_refused_with_its_path(runtime: Any) -> None:
    problem = refused(
        runtime,
        modelId=TEACHER,
        messages=[turn("user", "a")],
        inferenceConfig={"temperature": 1.5},
    )
    assert "Value '1.5' at 'inferenceConfig.temperature'" in problem
    assert "less than or equal to 1" in problem


def test_sixteen_callers_at_once_each_get_their_own_answer(ask: Callable[..., str]) -> None:
    from concurrent.futures import ThreadPoolExecutor

    recorded = recorded_answers()[100:260]
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(ask, [answer.query for answer in recorded]))
    assert answers == [bare_json_of(answer.weights) for answer in recorded]


def test_written_queries_are_recorded_ones_of_the_cell(
    ask: Callable[..., str], helpers: SimpleNamespace
) -> None:
    task = {
        "task": "write_queries",
        "channel": "audio",
        "difficulty": "easy",
        "domain": recorded_answers()[0].domain,
        "count": 5,
        "round": "2026-W48",
        "already_written": [],
    }
    first = json.loads(ask(json.dumps(task)))["queries"]
    assert len(first) == 5
    by_query = {answer.query: answer for answer in recorded_answers()}
    assert all(by_query[q].channel == "audio" for q in first)
    assert all(by_query[q].difficulty == "easy" for q in first)
    task["already_written"] = [query.upper() for query in first]
    second = json.loads(ask(json.dumps(task)))["queries"]
    assert not set(first) & set(second)
    task |= {"already_written": [], "round": "2026-W49"}
    assert json.loads(ask(json.dumps(task)))["queries"] != first


@pytest.mark.parametrize(
    "text",
    [
        '{"task": "write_queries", "channel": "audio"}',
        '{"task": "write_queries", "channel": "audio", "count": "many"}',
        '{"task": "sing"}',
        "{curly query}",
    ],
)
def test_what_is_no_writing_task_is_routed_as_a_query(ask: Callable[..., str], text: str) -> None:
    assert "Derived for" in parse_strict(ask(text)).reasoning


def test_half_a_surrogate_pair_is_refused_not_stumbled_over(aws: EmbeddedAws) -> None:
    from botocore.awsrequest import AWSRequest

    client = aws.client("bedrock-runtime")

    def smuggle(request: AWSRequest, **_: object) -> None:
        request.data = b'{"messages": [{"role": "user", "content": [{"text": "\\ud800"}]}]}'

    client.meta.events.register("before-sign.bedrock-runtime.Converse", smuggle)
    problem = refused(client, modelId=TEACHER, messages=[turn("user", "x")])
    assert "at 'messages.1.member.content.1.member.text'" in problem
    assert "valid Unicode" in problem


def test_a_cell_is_exhausted_in_the_end(ask: Callable[..., str]) -> None:
    task = {
        "task": "write_queries",
        "channel": "mixed",
        "difficulty": "hard",
        "domain": recorded_answers()[0].domain,
        "count": 10_000,
        "round": "1",
        "already_written": [],
    }
    everything = json.loads(ask(json.dumps(task)))["queries"]
    by_query = {answer.query: answer for answer in recorded_answers()}
    assert {by_query[q].channel for q in everything} <= {"mixed"}
    task["already_written"] = everything
    assert json.loads(ask(json.dumps(task))) == {"queries": []}
