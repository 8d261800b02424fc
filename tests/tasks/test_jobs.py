"""Waiting for jobs, and finding one's own again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

import tasks.jobs
from reelroute.errors import AwsError, RetryableAwsError, StageError
from tasks.jobs import find_ours, wait
from tests.support import Place


class Bedrock:
    """Gives one answer after the other; the last for ever."""

    def __init__(self, *answers: Mapping[str, Any] | Exception) -> None:
        self.answers = list(answers)
        self.asked = 0

    def get_model_customization_job(self, **_: Any) -> Mapping[str, Any]:
        self.asked += 1
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


def refused(code: str) -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": "why"}}, "GetModelCustomizationJob")


def wait_for(bedrock: Bedrock, seconds: float = 0.02, **more: Any) -> Mapping[str, Any]:
    return wait(
        bedrock,
        "CustomizationJobCompleted",
        {"jobIdentifier": "j"},
        what="job j",
        poll_seconds=0.001,
        max_seconds=seconds,
        **more,
    )


def test_it_waits_until_the_job_is_completed_and_shows_every_answer() -> None:
    seen: list[str] = []
    bedrock = Bedrock({"status": "InProgress"}, {"status": "InProgress"}, {"status": "Completed"})
    last = wait_for(bedrock, on_poll=lambda answer: seen.append(answer["status"]))
    assert last == {"status": "Completed"}
    assert seen == ["InProgress", "InProgress", "Completed"]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ({"status": "Failed", "failureMessage": "bad data"}, "job j ended as Failed: bad data"),
        ({"status": "Failed", "failureMessages": ["a", "b"]}, "job j ended as Failed: a; b"),
        ({"status": "Stopped"}, "job j ended as Stopped: no reason given"),
    ],
)
def test_a_job_that_ended_badly_speaks_with_the_services_own_words(
    answer: dict[str, Any], said: str
) -> None:
    with pytest.raises(StageError) as error:
        wait_for(Bedrock(answer))
    assert str(error.value) == said


def test_a_job_that_takes_too_long_goes_on_and_the_message_says_so() -> None:
    bedrock = Bedrock({"status": "InProgress"})
    with pytest.raises(StageError, match=r"job j is still InProgress .* run the stage again"):
        wait_for(bedrock, seconds=0.005)
    assert bedrock.asked == 5


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.005, "0.005 s"), (45, "45 s"), (90, "1.5 min"), (86_400, "24 h")]
)
def test_how_long_was_waited_is_said_in_a_fitting_unit(seconds: float, said: str) -> None:
    assert tasks.jobs._duration(seconds) == said


def test_an_error_that_may_pass_is_worth_a_retry() -> None:
    with pytest.raises(RetryableAwsError, match="ThrottlingException"):
        wait_for(Bedrock(refused("ThrottlingException")))


def test_an_error_that_will_not_pass_is_final() -> None:
    with pytest.raises((StageError, AwsError), match="ResourceNotFoundException") as error:
        wait_for(Bedrock(refused("ResourceNotFoundException")))
    assert not isinstance(error.value, RetryableAwsError)


@pytest.mark.parametrize(
    ("name", "waiter"),
    json.loads((Path(tasks.jobs.__file__).parent / "waiters.json").read_text())["waiters"].items(),
)
def test_a_waiter_names_an_operation_and_states_of_the_services_own_model(
    name: str, waiter: dict[str, Any]
) -> None:
    model = boto3.client("bedrock", region_name="us-east-1").meta.service_model
    for acceptor in waiter["acceptors"]:
        shape = model.operation_model(waiter["operation"]).output_shape
        for member in acceptor["argument"].split("."):
            shape = shape.members[member]
        assert acceptor["expected"] in shape.enum


def page(*jobs: tuple[str, str]) -> list[dict[str, Any]]:
    return [{"jobs": [{"name": name, "status": status} for name, status in jobs]}, {}]


def found(stage: Any, *jobs: tuple[str, str]) -> str | None:
    ours = find_ours(page(*jobs), "jobs", "name", stage)
    return str(ours["name"]) if ours else None


def test_an_attempt_finds_its_own_job_whatever_its_state(place: Place) -> None:
    stage = place.stage("distill", attempt=2)
    for status in ("InProgress", "Completed", "Failed", "Stopped"):
        assert found(stage, (stage.name(), status)) == stage.name()
    assert found(stage) is None


def test_a_later_attempt_takes_up_an_earlier_ones_job_unless_it_ended_badly(place: Place) -> None:
    stage = place.stage("distill", attempt=3)
    stem = stage.name_stem()
    assert found(stage, (f"{stem}-a1", "InProgress")) == f"{stem}-a1"
    assert found(stage, (f"{stem}-a1", "Completed"), (f"{stem}-a2", "InProgress")) == f"{stem}-a2"
    for status in ("Failed", "Stopping", "Stopped", "Deleting"):
        assert found(stage, (f"{stem}-a2", status)) is None


def test_a_forced_attempt_takes_up_its_own_job_alone(place: Place) -> None:
    stage = place.stage("distill", attempt=2, forced=True)
    assert found(stage, (f"{stage.name_stem()}-a1", "Completed")) is None
    assert found(stage, (stage.name(), "InProgress")) == stage.name()


def test_others_jobs_are_not_taken_up(place: Place) -> None:
    stage = place.stage("distill", attempt=2)
    stem = stage.name_stem()
    assert found(stage, (f"{stem}-a3", "Completed"), (f"x{stem}-a1", "Completed")) is None
