"""Faults on request: seeded, counted, and written into the log of calls."""

import json
import urllib.request
from collections.abc import Callable
from typing import Any

import botocore.exceptions
import pytest

from deployments.embedded import faults
from deployments.embedded.aws import EmbeddedAws
from deployments.embedded.faults import (
    KINDS,
    MODEL_ANSWERS,
    SLOW,
    STUCK_JOBS,
    TEACHER_ANSWERS,
    WRONG_CREDENTIALS,
    Faults,
)
from deployments.embedded.restyle import STYLES, restyle
from reelroute.errors import AnswerError, ReelRouteError
from reelroute.parsing import parse_forgiving, parse_strict

CONVERSE = ("bedrock-runtime", "Converse")
ANSWER = json.dumps(
    {"visual": 0.2, "audio": 0.1, "transcription": 0.6, "metadata": 0.1, "reasoning": "because"}
)


@pytest.mark.parametrize("style", STYLES)
def test_no_spoilt_answer_passes_the_strict_parser(style: str) -> None:
    with pytest.raises(AnswerError):
        parse_strict(restyle(ANSWER, style))


def test_a_fenced_answer_can_be_repaired_and_a_sum_of_0_7_cannot() -> None:
    assert parse_forgiving(restyle(ANSWER, "fenced")).repairs == ("code fence",)
    with pytest.raises(AnswerError, match="add up to"):
        parse_forgiving(restyle(ANSWER, "sum-0.7"))


def test_styles_for_weights_leave_an_answer_without_weights_alone() -> None:
    written = json.dumps({"queries": ["a", "b"]})
    assert restyle(written, "nan") == written
    assert restyle(written, "half-json") != written


def test_the_same_seed_hits_the_same_calls() -> None:
    def hits(seed: int) -> list[bool]:
        some = Faults()
        some.set(TEACHER_ANSWERS, rate=0.3, seed=seed)
        return [some.draw(TEACHER_ANSWERS, *CONVERSE) is not None for _ in range(200)]

    assert hits(1) == hits(1)
    assert hits(1) != hits(2)
    assert 30 < sum(hits(1)) < 90


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"kind": "earthquake"}, "there is no fault 'earthquake'"),
        ({"kind": TEACHER_ANSWERS, "rate": 0}, "rate 0 is not over 0"),
        ({"kind": TEACHER_ANSWERS, "style": "rhymed"}, "no style 'rhymed'"),
        ({"kind": WRONG_CREDENTIALS, "style": "prose"}, "no style 'prose'"),
        ({"kind": STUCK_JOBS, "operations": ["Converse"]}, "can't hit 'Converse': it hits Create"),
        ({"kind": SLOW, "seconds": -1}, "-1 is not a number of seconds"),
    ],
)
def test_an_impossible_fault_is_refused(arguments: dict[str, Any], problem: str) -> None:
    with pytest.raises(ReelRouteError, match=problem):
        Faults().set(**arguments)


def test_wrong_credentials_refuse_every_signed_call_until_cleared(aws: EmbeddedAws) -> None:
    s3 = aws.client("s3")
    aws.faults.set(WRONG_CREDENTIALS)
    with pytest.raises(botocore.exceptions.ClientError, match="InvalidAccessKeyId"):
        s3.list_buckets()
    assert aws.calls()[-1].fault == WRONG_CREDENTIALS
    aws.faults.clear()
    assert s3.list_buckets()["Buckets"]


def test_the_teachers_answers_are_spoilt_in_all_styles_by_turns(
    aws: EmbeddedAws, ask: Callable[..., str]
) -> None:
    query = "dog barking loudly"
    good = ask(query)
    aws.faults.set(TEACHER_ANSWERS, style="mixed")
    assert [ask(query) for _ in STYLES] == [restyle(good, style) for style in STYLES]
    logged = [call.fault for call in aws.calls()[-len(STYLES) :]]
    assert logged == [f"teacher-answers:{style}" for style in STYLES]


def test_only_the_teacher_is_hit(aws: EmbeddedAws, ask: Callable[..., str]) -> None:
    other = "embedded.large-baseline-v1:0"
    good = ask("dog barking loudly", other)
    aws.faults.set(TEACHER_ANSWERS, style="prose")
    assert ask("dog barking loudly", other) == good


def test_faults_are_switched_over_http(aws: EmbeddedAws) -> None:
    def send(method: str, body: dict[str, Any] | None = None) -> Any:
        request = urllib.request.Request(
            f"{aws.endpoint_url}/_embedded/faults",
            method=method,
            data=json.dumps(body).encode() if body else None,
        )
        with urllib.request.urlopen(request) as response:
            return json.load(response)

    on = send("POST", {"kind": TEACHER_ANSWERS, "rate": 0.5, "seed": 7, "style": "nan"})["on"]
    (fault,) = on
    assert (fault["kind"], fault["rate"], fault["seed"]) == (TEACHER_ANSWERS, 0.5, 7)
    assert (fault["style"], fault["hits"]) == ("nan", 0)
    assert send("GET")["on"] == on
    assert send("DELETE")["on"] == []
    with pytest.raises(urllib.error.HTTPError) as caught:
        send("POST", {"kind": "earthquake"})
    assert "there is no fault" in json.load(caught.value)["message"]


def put(aws: EmbeddedAws, key: str) -> None:
    aws.client("s3").put_object(Bucket=aws.bucket, Key=key, Body=b"x" * 100)


def has_effect(aws: EmbeddedAws, key: str) -> bool:
    aws.faults.clear()
    return "Contents" in aws.client("s3").list_objects_v2(Bucket=aws.bucket, Prefix=key)


AWS_ERROR = botocore.exceptions.ClientError
CLOSED = botocore.exceptions.HTTPClientError


@pytest.mark.parametrize(
    ("kind", "error", "says", "takes_effect"),
    [
        (faults.THROTTLING, AWS_ERROR, "SlowDown", False),
        (faults.SERVER_ERROR, AWS_ERROR, "InternalError", False),
        (faults.SERVER_ERROR_AFTER, AWS_ERROR, "InternalError", True),
        (faults.DROPPED, CLOSED, ".", False),
        (faults.DROPPED_AFTER, CLOSED, ".", True),
        (faults.EXPIRED_CREDENTIALS, AWS_ERROR, "ExpiredToken", False),
    ],
)
def test_a_call_fails_before_or_after_its_effect(
    kind: str, error: type[Exception], says: str, takes_effect: bool, aws: EmbeddedAws
) -> None:
    key = f"faults/{kind}"
    aws.faults.set(kind)
    with pytest.raises(error, match=says):
        put(aws, key)
    assert aws.calls()[-1].fault == kind
    assert has_effect(aws, key) is takes_effect


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (faults.THROTTLING, "ThrottlingException"),
        (faults.SERVER_ERROR, "InternalServerException"),
        (faults.EXPIRED_CREDENTIALS, "ExpiredTokenException"),
        (faults.DENIED_MODELS, "AccessDeniedException"),
    ],
)
def test_bedrock_refuses_in_its_own_words(
    kind: str, code: str, aws: EmbeddedAws, ask: Callable[..., str]
) -> None:
    aws.faults.set(kind)
    with pytest.raises(AWS_ERROR, match=code):
        ask("dog barking loudly")


def test_an_answer_breaks_off_in_the_middle(aws: EmbeddedAws) -> None:
    put(aws, "faults/whole")
    s3 = aws.client("s3")
    aws.faults.set(faults.CUT_OFF)
    body = s3.get_object(Bucket=aws.bucket, Key="faults/whole")["Body"]
    with pytest.raises(botocore.exceptions.BotoCoreError):
        body.read()
    aws.faults.clear()
    assert s3.get_object(Bucket=aws.bucket, Key="faults/whole")["Body"].read() == b"x" * 100


def test_a_slow_call_is_answered_in_the_end(aws: EmbeddedAws, ask: Callable[..., str]) -> None:
    good = ask("dog barking loudly")
    aws.faults.set(SLOW, seconds=0.01)
    assert ask("dog barking loudly") == good
    assert aws.calls()[-1].fault == SLOW


def test_only_the_named_operations_are_hit(aws: EmbeddedAws) -> None:
    aws.faults.set(faults.SERVER_ERROR, operations=["PutObject"])
    assert aws.client("s3").list_buckets()["Buckets"]
    with pytest.raises(AWS_ERROR, match="InternalError"):
        put(aws, "faults/named")


def test_any_models_answers_can_be_spoilt(aws: EmbeddedAws, ask: Callable[..., str]) -> None:
    aws.faults.set(MODEL_ANSWERS, style="empty")
    for model in ("embedded.large-baseline-v1:0", "embedded.light-student-v1:0"):
        assert ask("dog barking loudly", model) == ""


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_says_what_it_does_and_can_be_switched_on(kind: str) -> None:
    some = Faults()
    some.set(kind)
    assert KINDS[kind].says
    assert [entry["kind"] for entry in some.on()] == [kind]
