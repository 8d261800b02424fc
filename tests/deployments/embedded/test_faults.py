"""Faults on request: seeded, counted, and written into the log of calls."""

import json
import urllib.request
from collections.abc import Callable
from typing import Any

import botocore.exceptions
import pytest

from deployments.embedded.aws import EmbeddedAws
from deployments.embedded.faults import TEACHER_ANSWERS, WRONG_CREDENTIALS, Faults
from deployments.embedded.restyle import STYLES, restyle
from reelroute.errors import AnswerError, ReelRouteError
from reelroute.parsing import parse_forgiving, parse_strict

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
        faults = Faults()
        faults.set(TEACHER_ANSWERS, rate=0.3, seed=seed)
        return [faults.draw(TEACHER_ANSWERS) is not None for _ in range(200)]

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
    faults = [call.fault for call in aws.calls()[-len(STYLES) :]]
    assert faults == [f"teacher-answers:{style}" for style in STYLES]


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
    fault = {"kind": TEACHER_ANSWERS, "rate": 0.5, "seed": 7, "style": "nan", "hits": 0}
    assert on == [fault]
    assert send("GET")["on"] == [fault]
    assert send("DELETE")["on"] == []
    with pytest.raises(urllib.error.HTTPError) as caught:
        send("POST", {"kind": "earthquake"})
    assert "there is no fault" in json.load(caught.value)["message"]
