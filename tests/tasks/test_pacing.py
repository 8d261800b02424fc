"""Pacing: calls are spaced evenly, workers share one timeline, the service's refusals slow it."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest

from configs.settings import ModelPrice, ModelSettings, Quota, load_settings
from reelroute.errors import ConfigError, RetryableAwsError
from tasks.cost import CostMeter
from tasks.models import Model
from tasks.pacing import HEADROOM, Lane, Pacer, SharedTimeline, pacer_of
from tests.support import TEACHER

MODEL = "embedded.teacher-v1:0"


class Time:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now += seconds


class Timeline:
    """A shared timeline in memory; what it was asked for is kept."""

    def __init__(self, time: Time, per_second: float) -> None:
        self.time, self.per_second = time, per_second
        self.end = 0.0
        self.reserved: list[float] = []

    def reserve(self, amount: float) -> float:
        self.reserved.append(amount)
        begins = max(self.end, self.time.now)
        self.end = begins + amount / self.per_second
        return begins - self.time.now


def lane(time: Time, per_minute: float, reserve: Callable[[float], float] | None = None) -> Lane:
    return Lane(per_minute, reserve or (lambda _: 0.0), clock=time.clock, sleep=time.sleep)


def passes(time: Time, of: Lane, count: int, amount: float = 1) -> list[float]:
    """When so many calls passed, in seconds from the first."""
    times = []
    for _ in range(count):
        of.enter(amount)
        times.append(time.now)
    return [at - times[0] for at in times]


def most_in_a_minute(times: list[float]) -> int:
    times = sorted(times)
    return max(bisect_left(times, at + 60) - bisect_left(times, at) for at in times)


@pytest.mark.parametrize("per_minute", [10, 600, 6000])
def test_no_minute_holds_more_calls_than_the_quota_and_hardly_fewer(per_minute: int) -> None:
    time = Time()
    times = passes(time, lane(time, per_minute), 3 * per_minute)
    assert most_in_a_minute(times) <= per_minute
    assert len(times) / times[-1] * 60 >= 0.95 * per_minute


def test_calls_that_come_late_do_not_pile_up_afterwards() -> None:
    time = Time()
    quota = lane(time, 600)
    passes(time, quota, 50)
    time.now += 30
    after = passes(time, quota, 20)
    assert sum(at < 1 for at in after) <= 16


def test_two_workers_on_one_timeline_keep_to_the_quota_together() -> None:
    per_minute = 600
    per_second = per_minute * HEADROOM / 60
    time = Time()
    timeline = Timeline(time, per_second)
    waits: list[list[float]] = [[], []]
    # Each worker's sleeping is its own; the timeline's time is the later of the two.
    clocks = [Time(), Time()]
    workers = []
    for clock in clocks:

        def reserve(amount: float, clock: Time = clock) -> float:
            time.now = clock.now
            return timeline.reserve(amount)

        workers.append(lane(clock, per_minute, reserve))
    for _ in range(1500):
        turn = 0 if clocks[0].now <= clocks[1].now else 1
        workers[turn].enter(1)
        waits[turn].append(clocks[turn].now - 1000)
    together = sorted(waits[0] + waits[1])
    assert most_in_a_minute(together) <= per_minute
    assert len(together) / together[-1] * 60 >= 0.95 * per_minute
    assert min(map(len, waits)) > 600  # and neither starves


def test_the_timeline_is_asked_every_few_seconds_not_once_a_call() -> None:
    time = Time()
    timeline = Timeline(time, 6000 * HEADROOM / 60)
    passes(time, lane(time, 6000, timeline.reserve), 1000)
    assert len(timeline.reserved) <= 12


def test_tokens_that_an_answer_did_not_need_are_given_back() -> None:
    time = Time()
    quota = lane(time, 60_000)
    for _ in range(100):
        quota.enter(1000)
        quota.give_back(700)
    assert 100 * 300 / (time.now - 1000) * 60 == pytest.approx(60_000, rel=0.05)


def test_a_call_larger_than_a_stretch_passes_too() -> None:
    time = Time()
    assert passes(time, lane(time, 60), 3, amount=30)[-1] == pytest.approx(60 / HEADROOM)


def test_without_the_server_a_worker_goes_on_alone_says_so_once_and_asks_again_later(
    caplog: pytest.LogCaptureFixture,
) -> None:
    time = Time()
    asked = []

    def refuse(amount: float) -> float:
        asked.append(amount)
        raise ConnectionError("connection refused")

    times = passes(time, lane(time, 600, refuse), 700)
    assert most_in_a_minute(times) <= 600
    assert len(asked) == 2  # at the start, and a minute later
    assert caplog.text.count("connection refused") == 2


class Refusing:
    """A client whose first answers are refused inside boto3, or wholly."""

    def __init__(self, *answers: int | Exception) -> None:
        self.answers = list(answers)

    def converse(self, **_: Any) -> dict[str, Any]:
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return {
            "output": {"message": {"content": [{"text": "yes"}]}},
            "usage": {"inputTokens": 7, "outputTokens": 3},
            "ResponseMetadata": {"RetryAttempts": answer},
        }


def ask(client: Any, pacer: Pacer | None) -> None:
    price = ModelPrice(input=0, output=0)
    Model(client, MODEL, ModelSettings(id=MODEL), price, CostMeter(1), pacer).ask("prompt", ["one"])


@pytest.mark.parametrize("how", ["inside boto3", "for good"])
def test_a_call_that_is_throttled_nonetheless_slows_all_down(how: str) -> None:
    from botocore.exceptions import ClientError

    time = Time()
    pacer = Pacer(lane(time, 60_000), None)
    if how == "inside boto3":
        ask(Refusing(1), pacer)
    else:
        problem = {"Error": {"Code": "ThrottlingException", "Message": "too many"}}
        with pytest.raises(RetryableAwsError, match="ThrottlingException"):
            ask(Refusing(ClientError(problem, "Converse")), pacer)
    before = time.now
    ask(Refusing(0), pacer)
    assert time.now - before >= 1


def test_what_a_call_did_not_use_of_its_tokens_is_given_back_and_counted() -> None:
    time = Time()
    pacer = Pacer(None, lane(time, 60_000))
    for _ in range(300):
        ask(Refusing(0), pacer)  # up to 303 tokens are set aside, 10 used
    assert 300 * 10 / (time.now - 1000) * 60 == pytest.approx(60_000, rel=0.1)


def test_the_wait_for_the_quota_is_no_part_of_the_latency() -> None:
    time = Time()
    pacer = Pacer(lane(time, 1), None)
    model = Model(
        Refusing(0, 0),
        MODEL,
        ModelSettings(id=MODEL),
        ModelPrice(input=0, output=0),
        CostMeter(1),
        pacer,
    )
    model.ask("prompt", ["one"])
    reply = model.ask("prompt", ["two"])
    assert time.now - 1000 > 50
    assert reply.latency_ms < 50_000


def test_a_model_without_a_quota_has_no_pacer_and_one_with_it_has_one_for_all() -> None:
    profile = load_settings("configs/local.yaml", {"quotas": {TEACHER: {"requests_per_minute": 5}}})
    assert pacer_of(profile, TEACHER) is pacer_of(profile, TEACHER)
    assert pacer_of(profile, profile.models.judge.id) is None


def test_a_deployment_goes_by_the_model_that_it_was_made_from() -> None:
    base = load_settings("configs/local.yaml").models.student.customization_id
    profile = load_settings("configs/local.yaml", {"quotas": {base: {"tokens_per_minute": 5}}})
    arn = "arn:aws:bedrock:us-east-1:123456789012:custom-model-deployment/abc"
    assert pacer_of(profile, arn) is pacer_of(profile, base) is not None


def test_a_quota_of_a_model_that_the_profile_does_not_have_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"`quotas`: no model of the profile is 'nova'"):
        load_settings("configs/local.yaml", {"quotas": {"nova": {"requests_per_minute": 5}}})


def test_a_quota_is_not_what_a_stage_depends_on() -> None:
    plain = load_settings("configs/local.yaml")
    paced = load_settings("configs/local.yaml", {"quotas": {TEACHER: {"requests_per_minute": 5}}})
    for section in ("label", "models", "evaluate", "deploy"):
        assert plain.section_hash(section) == paced.section_hash(section)


def limit(name: str) -> Any:
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        return client.read_global_concurrency_limit_by_name(name)


def test_workers_share_a_timeline_through_the_prefect_server(prefect_server: str) -> None:
    name = f"pacing-{uuid4().hex[:8]}"
    mine, other = SharedTimeline(name, 0.5, 100), SharedTimeline(name, 0.5, 100)
    assert mine.reserve(10) < 1
    # 20 s are taken; what has decayed since is the time that passed.
    assert 15 < other.reserve(10) <= 20
    assert 30 < mine.reserve(1) <= 40


def test_the_limit_is_made_once_and_follows_the_profile(prefect_server: str) -> None:
    name = f"pacing-{uuid4().hex[:8]}"
    workers = [SharedTimeline(name, 10.0) for _ in range(4)]
    threads = [threading.Thread(target=worker.reserve, args=(1,)) for worker in workers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert limit(name).slot_decay_per_second == 10
    SharedTimeline(name, 20.0).reserve(1)
    assert limit(name).slot_decay_per_second == 20


def test_the_timeline_of_a_server_that_is_not_there_is_an_error() -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with (
        temporary_settings(restore_defaults={PREFECT_API_URL}),
        pytest.raises(ConnectionError, match="no Prefect server"),
    ):
        SharedTimeline("nowhere", 1.0).reserve(1)


def test_a_quota_must_be_more_than_nothing() -> None:
    with pytest.raises(ValueError, match="greater than 0"):
        Quota(requests_per_minute=0)
