"""Chaos in small: one run under two faults, one that is killed; both come to the same."""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from botocore.retries.standard import ExponentialBackoff

import tasks.evaluate
from benchmarks.chaos.invariants import Disturbance, Findings, Undisturbed, asked, examine
from benchmarks.chaos.results import results
from benchmarks.chaos.trials import Watch, kill_in
from benchmarks.chaos.world import RUN_ID, Site, World
from data_contracts.runs import StageRecord
from deployments.embedded import faults
from deployments.embedded.aws import EmbeddedAws
from flows.label import label
from flows.pipeline import pipeline
from flows.upload import upload
from flows.validate import validate
from tasks.runs import Run
from tasks.storage import Storage

SEED = 5


@dataclass(frozen=True)
class Told:
    """What became of the two runs.

    Attributes:
        hits: of each of the first run's faults.
        explained: its model calls that a fault has hit.
        stage: the one in which the second run was killed.
    """

    faulty: Findings
    hits: list[int]
    explained: int
    base: Undisturbed
    site: Site
    stage: str | None
    killed: Findings


@pytest.fixture(scope="module")
def told(
    session_aws: EmbeddedAws, prefect_server: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Told]:
    session_aws.faults.clear()
    world = World(session_aws, prefect_server, tmp_path_factory.mktemp("chaos"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tasks.evaluate, "benchmark_queries", lambda: world.benchmark)
        patch.setattr(tasks.evaluate, "report_charts", lambda report, training: {})
        # What was hit is tried again at once.
        patch.setattr(ExponentialBackoff, "delay_amount", lambda self, context: 0.0)
        patch.setattr("reelroute.aws._backoff", lambda attempt: 0.0)

        faulty = world.site()
        faulty.log.touch()
        for kind in (faults.DROPPED_AFTER, faults.CUT_OFF):
            session_aws.faults.set(kind, rate=0.1, seed=SEED)
        run_here(faulty)
        hits = [entry["hits"] for entry in session_aws.faults.on()]
        session_aws.faults.clear()
        base = Undisturbed(results(faulty.objects()), asked(faulty.calls()), {})
        explained = sum(c.operation == "Converse" and bool(c.fault) for c in faulty.calls())
        first = examine(faulty, base, Disturbance())

        site = world.site()
        Run(Storage(site.settings), RUN_ID).start(site.settings, {}, None, None)
        for stage in (label, validate, upload):
            assert stage(RUN_ID, site.config, return_state=True).is_completed()
        killed_in = kill_in(site.start(), Watch(site), "evaluate", 0.5, random.Random(SEED))
        assert not site.has(f"runs/{RUN_ID}/stages/evaluate/001.json")
        run_here(site)
        in_flight = site.settings.evaluate.concurrency
        second = examine(site, base, Disturbance(calls_in_flight=in_flight))
        yield Told(first, hits, explained, base, site, killed_in, second)


def run_here(site: Site) -> None:
    state = pipeline(site.config, RUN_ID, return_state=True)
    assert state.is_completed(), state.message


def test_a_run_under_faults_breaks_no_invariant(told: Told) -> None:
    assert all(told.hits)
    assert told.faulty.violations == ()


def test_a_killed_run_comes_to_the_same_and_repeats_only_what_was_in_flight(told: Told) -> None:
    assert told.stage == "evaluate"
    assert told.killed.violations == ()
    repeated_under_faults = told.base.asked - asked(told.site.calls())
    assert sum(repeated_under_faults.values()) <= told.explained


# --- whether the checks see what they are for ---------------------------------------------------

KEY = f"runs/{RUN_ID}"


def without(key: str) -> Callable[[dict[str, bytes]], None]:
    return lambda objects: objects.__delitem__(key)


def twice(objects: dict[str, bytes]) -> None:
    objects[f"{KEY}/labelled/labelled.jsonl"] *= 2


def held(objects: dict[str, bytes]) -> None:
    lease = json.loads(objects["leases/local.json"])
    lease |= {"freed_at": None, "expires_at": "2999-01-01T00:00:00+00:00"}
    objects["leases/local.json"] = json.dumps(lease).encode()


def moved_again(objects: dict[str, bytes]) -> None:
    pointer = json.loads(objects["releases/current.json"])
    objects["releases/current.json"] = json.dumps({**pointer, "serial": 2}).encode()


def other_release(objects: dict[str, bytes]) -> None:
    key = next(k for k in objects if k.startswith(f"releases/{RUN_ID}"))
    objects[key] = objects[key].replace(b"bedrock", b"BEDROCK")


def second_attempt(objects: dict[str, bytes]) -> None:
    record = StageRecord.model_validate_json(objects[f"{KEY}/stages/upload/001.json"])
    again = record.model_copy(update={"attempt": 2})
    objects[f"{KEY}/stages/upload/002.json"] = again.model_dump_json().encode()


def no_resources(objects: dict[str, bytes]) -> None:
    record = StageRecord.model_validate_json(objects[f"{KEY}/stages/deploy/001.json"])
    objects[f"{KEY}/stages/deploy/001.json"] = (
        record.model_copy(update={"resources": {}}).model_dump_json().encode()
    )


@pytest.mark.parametrize(
    ("tamper", "said"),
    [
        (without("releases/current.json"), "the pointer is there: False"),
        (without(f"{KEY}/stages/promote/001.json"), "promote has not completed"),
        (without(f"{KEY}/evaluation/summary.json"), "summary.json is missing"),
        (twice, "queries were written, but"),
        (held, "leases/local.json is still held"),
        (moved_again, "the pointer has moved 2 times"),
        (other_release, "hash"),
        (second_attempt, "upload was done again after it had completed"),
        (no_resources, "no record names it"),
    ],
)
def test_what_is_not_as_it_should_be_is_found(
    tamper: Callable[[dict[str, bytes]], None],
    said: str,
    told: Told,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    objects: Any = told.site.objects()
    tamper(objects)
    monkeypatch.setattr(Site, "objects", lambda self: objects)
    found = examine(told.site, told.base, Disturbance(calls_in_flight=8))
    assert any(said in violation for violation in found.violations), found.violations


def test_calls_that_nothing_explains_are_found(told: Told) -> None:
    fewer = dataclasses.replace(told.base, asked=told.base.asked - told.base.asked)
    found = examine(told.site, fewer, Disturbance())
    assert any("model calls were repeated" in violation for violation in found.violations)
