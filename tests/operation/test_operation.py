"""The pipeline operated: a real Prefect server, worker and embedded AWS, as in production.

Minutes long, so only on request: `make operation`.
"""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterDeploymentId
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.events import Event
from prefect.states import Scheduled

from data_contracts.events import DRIFT_DETECTED, environment_resource
from deployments.embedded.aws import EmbeddedAws
from flows.inputs import derive_run_id
from flows.resume import stages_of
from tasks.lease import holder_of
from tests.conftest import new_place
from tests.stack import Stack, free_port, until
from tests.support import Place, fault

pytestmark = [pytest.mark.operation, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def webhook() -> Iterator[tuple[str, list[str]]]:
    """A webhook's address and the texts that it was told."""
    told: list[str] = []

    class Hook(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told.append(json.loads(self.rfile.read(int(self.headers["Content-Length"])))["text"])
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", free_port()), Hook)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/hook", told
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def stack(
    webhook: tuple[str, list[str]], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    stack = Stack(tmp_path_factory.mktemp("stack"), more={"REELROUTE_NOTIFY_URL": webhook[0]})
    try:
        stack.start_server()
        yield stack
    finally:
        stack.close()


@pytest.fixture
def place(embedded: EmbeddedAws, stack: Stack, tmp_path: Any) -> Place:
    place = new_place(embedded, tmp_path)
    place.api_url = stack.api_url
    return place


@pytest.fixture
def working(stack: Stack) -> Iterator[Any]:
    """Deploys a profile and starts a worker for it, until the test ends."""

    def start(config: str) -> None:
        stack.deploy(config)
        stack.start_worker(config)

    yield start
    stack.stop("worker")


def profile(place: Place, environment: str, **overrides: Any) -> str:
    return place.profile(
        environment=environment,
        **{
            "schedule.active": False,
            "schedule.lease_seconds": 20,
            "schedule.poll_seconds": 0.5,
            "notify.silent_seconds": 65,
            **overrides,
        },
    )


def runs_of(stack: Stack, deployment: str) -> list[FlowRun]:
    with stack.client() as prefect:
        id_ = prefect.read_deployment_by_name(deployment).id
        only = FlowRunFilter(deployment_id=FlowRunFilterDeploymentId(any_=[id_]))
        return list(prefect.read_flow_runs(flow_run_filter=only))


def test_the_schedule_fires_a_run_and_a_second_trigger_waits_its_turn(
    stack: Stack, place: Place, working: Any
) -> None:
    near = {"schedule.active": True, "schedule.cron": "* * * * *"}
    working(profile(place, "scheduled", **near))

    def at_work() -> FlowRun | None:
        runs = runs_of(stack, "pipeline/scheduled")
        return next((run for run in runs if run.state_name == "Running"), None)

    first = until("the schedule has fired", at_work, 150)
    assert first.auto_scheduled
    second = stack.trigger("pipeline/scheduled")
    stack.in_state(second, "AwaitingConcurrencySlot")
    stack.deploy(profile(place, "scheduled"))  # no third one by the schedule
    assert stack.ended(first).state_name == "Completed"
    assert stack.ended(second).state_name == "Completed"
    ended, started = stack.flow_run(first).end_time, stack.flow_run(second).start_time
    assert ended is not None
    assert started is not None
    assert ended <= started
    assert holder_of(place.storage(), "scheduled") is None


def test_a_second_trigger_is_refused_where_the_profile_says_so(
    stack: Stack, place: Place, working: Any
) -> None:
    working(profile(place, "refusing", **{"schedule.collision": "refuse"}))
    first = stack.trigger("pipeline/refusing")
    stack.in_state(first, "Running")
    second = stack.ended(stack.trigger("pipeline/refusing"))
    assert second.state is not None
    assert second.state.is_cancelled()
    assert "concurrency limit" in (second.state.message or "")
    assert stack.ended(first).state_name == "Completed"


def test_a_run_whose_worker_died_too_is_marked_crashed_and_retry_goes_on(
    stack: Stack, place: Place, working: Any
) -> None:
    config = profile(place, "killed")
    working(config)
    run = stack.trigger("pipeline/killed")
    until("label is done", lambda: stack.stage_states(run).get("label") == "Completed")
    stack.kill_tree("worker")
    crashed = stack.in_state(run, "Crashed", 180)
    assert crashed.state is not None
    assert "no sign of life for 65 s" in (crashed.state.message or "")
    assert "reelroute run --run ID" in (crashed.state.message or "")

    def no_stage_runs() -> bool:
        with stack.client() as prefect:
            return not list(stages_of(prefect, run.id, StateType.RUNNING))

    assert until("the stage that died with it is marked, too", no_stage_runs)

    stack.start_worker(config)
    with stack.client() as prefect:  # what Retry in the UI does
        prefect.set_flow_run_state(run.id, Scheduled(name="AwaitingRetry"))
    ended = stack.ended(run)
    assert ended.state_name == "Completed", ended.state
    assert ended.run_count == 2
    storage = place.storage()
    records = [(r.stage, r.attempt) for r in place.run(derive_run_id(str(run.id))).records()]
    assert len(records) == len({stage for stage, _ in records}) == 7
    assert holder_of(storage, "killed") is None


def test_failures_and_refusals_are_told_and_drift_starts_a_run(
    stack: Stack, place: Place, working: Any, webhook: tuple[str, list[str]]
) -> None:
    told = webhook[1]
    working(profile(place, "told", **{"promote.max_p95_latency_ms": 0.001}))
    with fault(place.aws, "teacher-answers", style="prose"):
        failed = stack.ended(stack.trigger("pipeline/told"))
    assert failed.state_name == "Failed"
    name = f"pipeline {derive_run_id(str(failed.id))}"
    line = until("the failure is told", lambda: next((t for t in told if name in t), None), 30)
    assert line.startswith(f"ReelRoute, told: {name} has failed: label: ")
    assert str(failed.id) in line

    resource = environment_resource("told")
    with stack.client() as prefect:
        event = Event(
            event=DRIFT_DETECTED,
            resource=resource,
            payload={"queries": "", "message": "the mix has changed"},
        )
        prefect._client.post("/events", json=[event.model_dump(mode="json")])
    before = {failed.id}

    def started() -> FlowRun | None:
        runs = runs_of(stack, "pipeline/told")
        return next((run for run in runs if run.id not in before), None)

    by_drift = until("drift has started a run", started, 60)
    assert stack.ended(by_drift).state_name == "Completed"
    refusal = f"run {derive_run_id(str(by_drift.id))}: refused: there is no release yet"
    until("the refusal is told", lambda: next((t for t in told if refusal in t), None), 30)
