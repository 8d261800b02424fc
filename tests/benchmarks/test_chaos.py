"""Chaos in small: one run under two faults, one that is killed; both come to the same."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from botocore.retries.standard import ExponentialBackoff

import tasks.evaluate
from benchmarks.chaos.invariants import Disturbance, Undisturbed, asked, examine
from benchmarks.chaos.results import results
from benchmarks.chaos.trials import Watch, kill_in
from benchmarks.chaos.world import RUN_ID, Site, World
from deployments.embedded import faults
from deployments.embedded.aws import EmbeddedAws
from flows.label import label
from flows.pipeline import pipeline
from flows.upload import upload
from flows.validate import validate
from tasks.runs import Run
from tasks.storage import Storage

SEED = 5


@pytest.fixture
def world(
    embedded: EmbeddedAws,
    prefect_server: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> World:
    made = World(embedded, prefect_server, tmp_path)
    monkeypatch.setattr(tasks.evaluate, "benchmark_queries", lambda: made.benchmark)
    monkeypatch.setattr(tasks.evaluate, "report_charts", lambda report, training: {})
    # What was hit is tried again at once.
    monkeypatch.setattr(ExponentialBackoff, "delay_amount", lambda self, context: 0.0)
    monkeypatch.setattr("reelroute.aws._backoff", lambda attempt: 0.0)
    return made


def run_here(site: Site) -> None:
    state = pipeline(site.config, RUN_ID, return_state=True)
    assert state.is_completed(), state.message


def test_faults_and_a_kill_leave_the_same_results_and_nothing_twice(world: World) -> None:
    faulty = world.site()
    faulty.log.touch()
    for kind in (faults.DROPPED_AFTER, faults.CUT_OFF):
        faulty.aws.faults.set(kind, rate=0.1, seed=SEED)
    run_here(faulty)
    hits = [entry["hits"] for entry in faulty.aws.faults.on()]
    faulty.aws.faults.clear()
    assert all(hits)
    base = Undisturbed(results(faulty.objects()), asked(faulty.calls()), {})
    spoilt = sum(call.operation == "Converse" and bool(call.fault) for call in faulty.calls())
    assert examine(faulty, base, Disturbance()).violations == ()

    killed = world.site()
    Run(Storage(killed.settings), RUN_ID).start(killed.settings, {}, None, None)
    for stage in (label, validate, upload):
        assert stage(RUN_ID, killed.config, return_state=True).is_completed()
    start = killed.start()
    in_stage = kill_in(start, Watch(killed), "evaluate", {"evaluate": 0.5}, random.Random(SEED))
    assert in_stage == "evaluate"
    assert not killed.has(f"runs/{RUN_ID}/stages/evaluate/001.json")
    run_here(killed)

    in_flight = killed.settings.evaluate.concurrency
    findings = examine(killed, base, Disturbance(calls_in_flight=in_flight))
    assert findings.violations == ()
    assert sum((base.asked - asked(killed.calls())).values()) <= spoilt
