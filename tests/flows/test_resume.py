"""Going on with a run: flow runs that died are told from those that are at work."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import httpx
import pytest
from prefect import flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.states import Completed, Crashed, Pending, Running, Scheduled

import flows.resume
from flows.follow import follow, start_flow_run
from flows.inputs import derive_run_id
from flows.resume import stages_of, take_over
from reelroute.errors import ReelRouteError

pytestmark = pytest.mark.usefixtures("prefect_server")

HERE = socket.gethostname()
LONG_AGO = datetime.now(UTC) - timedelta(hours=1)


@flow(name="a-flow-of-the-tests")
def nothing(run_id: str | None = None) -> None:
    pass


@pytest.fixture
def prefect() -> Iterator[SyncPrefectClient]:
    with get_client(sync_client=True) as client:
        yield client


MakeRun = Callable[..., FlowRun]


@pytest.fixture
def make_run(prefect: SyncPrefectClient) -> MakeRun:
    """A flow run of a deployment, in a state, as if a process had taken it up."""
    deployment = prefect.create_deployment(
        prefect.create_flow(nothing), name=f"test-{uuid4().hex[:8]}"
    )

    def make(state: Any, process: str | None = None, run_id: str | None = None) -> FlowRun:
        made = prefect.create_flow_run_from_deployment(
            deployment, parameters={"run_id": run_id} if run_id else {}
        )
        prefect.set_flow_run_state(made.id, state, force=True)
        if process:
            prefect.update_flow_run(made.id, infrastructure_pid=process)
        return prefect.read_flow_run(made.id)

    return make


def state_of(prefect: SyncPrefectClient, run: FlowRun) -> str | None:
    state = prefect.read_flow_run(run.id).state
    return state and state.name


def running() -> Any:
    return Running(timestamp=LONG_AGO)


def over(prefect: SyncPrefectClient, run: FlowRun, dead: bool = False) -> tuple[Any, list[str]]:
    said: list[str] = []
    waiting = take_over(prefect, derive_run_id(str(run.id)), known_dead=dead, say=said.append)
    return waiting, said


def test_a_flow_run_whose_process_is_gone_is_marked_crashed_with_its_stages(
    prefect: SyncPrefectClient, make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(running(), f"{HERE}:4194305")
    child = make_run(running())
    monkeypatch.setattr(
        flows.resume, "stages_of", lambda client, parent, *states: [child] if states else []
    )
    waiting, said = over(prefect, run)
    assert waiting is None
    assert "was Running without a process: marked Crashed" in said[0]
    assert (state_of(prefect, run), state_of(prefect, child)) == ("Crashed", "Crashed")
    assert over(prefect, run) == (None, [])


def test_a_flow_run_whose_process_lives_is_left_alone(
    prefect: SyncPrefectClient, make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flows.resume, "_is_alive", lambda pid: pid == "4711")
    run = make_run(running(), f"{HERE}:4711")
    for dead in (False, True):
        with pytest.raises(ReelRouteError, match=r"is at work .process 4711 of this machine"):
            over(prefect, run, dead)
    assert state_of(prefect, run) == "Running"


def test_another_machines_process_needs_the_users_word(
    prefect: SyncPrefectClient, make_run: MakeRun
) -> None:
    run = make_run(running(), "elsewhere:1")
    with pytest.raises(ReelRouteError, match=r"at work on elsewhere, .* run again with --dead"):
        over(prefect, run)
    assert state_of(prefect, run) == "Running"
    over(prefect, run, dead=True)
    assert state_of(prefect, run) == "Crashed"


def test_a_flow_run_that_has_just_started_is_given_time(
    prefect: SyncPrefectClient, make_run: MakeRun
) -> None:
    run = make_run(Running())
    with pytest.raises(ReelRouteError, match="has just started: try again in a minute"):
        over(prefect, run)


def test_a_start_that_a_dead_worker_left_pending_needs_the_users_word(
    prefect: SyncPrefectClient, make_run: MakeRun
) -> None:
    run = make_run(Pending())
    assert over(prefect, run, dead=True) == (
        None,
        [f"flow run {run.name!r} was Pending without a process: marked Crashed"],
    )
    assert state_of(prefect, run) == "Crashed"


@pytest.mark.parametrize("state", [Pending, Scheduled])
def test_a_flow_run_that_waits_to_start_is_followed_instead_of_starting_another(
    state: Any, prefect: SyncPrefectClient, make_run: MakeRun
) -> None:
    run = make_run(state())
    waiting, said = over(prefect, run)
    assert waiting is not None
    assert waiting.id == run.id
    assert "waits to start on this run: following it" in said[0]


def test_other_runs_and_those_that_are_done_are_not_touched(
    prefect: SyncPrefectClient, make_run: MakeRun
) -> None:
    mine = make_run(Completed())
    other = make_run(running(), f"{HERE}:4194305", run_id="another-run")
    assert over(prefect, mine) == (None, [])
    assert state_of(prefect, other) == "Running"
    assert state_of(prefect, mine) == "Completed"


def test_a_flow_run_that_was_given_its_run_is_found_by_it(
    prefect: SyncPrefectClient, make_run: MakeRun
) -> None:
    run_id = f"run-{uuid4().hex[:8]}"
    run = make_run(running(), f"{HERE}:4194305", run_id=run_id)
    take_over(prefect, run_id, known_dead=False, say=lambda text: None)
    assert state_of(prefect, run) == "Crashed"


def test_a_process_counts_as_alive_only_if_it_is_prefects(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", "")  # no program of the machine is asked
    program = [sys.executable, "-c", "print('up', flush=True); input()"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    sleeping = subprocess.Popen(program, **pipes)
    named = subprocess.Popen([*program, "prefect"], **pipes)
    try:
        for process in (sleeping, named):  # a process has no arguments yet while it starts
            assert process.stdout
            process.stdout.readline()
        assert not flows.resume._is_alive(str(sleeping.pid))
        assert flows.resume._is_alive(str(named.pid))
    finally:
        for process in (sleeping, named):
            process.kill()
            process.communicate()
    assert not flows.resume._is_alive(str(named.pid))
    assert not flows.resume._is_alive("not a number")


def test_stages_are_found_below_their_pipeline_by_state(
    prefect: SyncPrefectClient, make_run: MakeRun
) -> None:
    @flow(name="below")
    def below() -> None:
        pass

    @flow(name="above")
    def above() -> None:
        below()
        below()

    state = above(return_state=True)
    parent = state.state_details.flow_run_id
    assert parent is not None
    assert [run.state_name for run in stages_of(prefect, parent)] == ["Completed"] * 2
    assert len(stages_of(prefect, parent, StateType.COMPLETED)) == 2
    assert list(stages_of(prefect, parent, StateType.RUNNING)) == []


# --- following ---------------------------------------------------------------------------------


class Scripted:
    """A server whose flow run goes through given states, one at each look."""

    def __init__(self, *states: Any) -> None:
        self.states = list(states)
        self.run = FlowRun(flow_id=uuid4(), name="pipeline run-1")
        self.stage = FlowRun(flow_id=uuid4(), name="label run-1")

    def read_flow_run(self, flow_run_id: Any) -> FlowRun:
        whole, stage = self.states.pop(0)
        started = datetime.now(UTC) if whole else None
        self.stage = self.stage.model_copy(update={"state": stage})
        self.run = self.run.model_copy(update={"state": whole, "start_time": started})
        return self.run

    def read_flow_runs(self, **_: Any) -> list[FlowRun]:
        return [self.stage]

    def read_artifacts(self, **_: Any) -> list[Any]:
        return []


@pytest.fixture
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flows.follow.time.sleep", lambda seconds: None)


@pytest.mark.usefixtures("_at_once")
def test_each_change_of_a_stage_is_said_once() -> None:
    said: list[str] = []
    server: Any = Scripted(
        (Running(), Running()),
        (Running(), Running()),
        (Running(), Completed(name="Skipped", message="nothing has changed")),
        (Completed(), Completed(name="Skipped", message="nothing has changed")),
    )
    ended = follow(server, server.run, said.append)
    assert [line.split() for line in said] == [
        ["label", "…"],
        ["label", "skipped", "nothing", "has", "changed"],
    ]
    assert ended.state is not None
    assert ended.state.is_completed()


@pytest.mark.usefixtures("_at_once")
def test_a_crashed_run_ends_the_following_too() -> None:
    server: Any = Scripted((Running(), Running()), (Crashed(message="gone"), Crashed()))
    ended = follow(server, server.run, lambda text: None)
    assert ended.state is not None
    assert ended.state.name == "Crashed"


class Shaky(Scripted):
    """A server that fails at every look but the last of its states."""

    def read_artifacts(self, **_: Any) -> list[Any]:
        if self.states:
            raise httpx.ReadTimeout("slow")
        return []


@pytest.mark.usefixtures("_at_once")
def test_a_server_that_fails_for_a_while_is_asked_again() -> None:
    server: Any = Shaky((Running(), Running()), (Running(), Running()), (Completed(), Completed()))
    ended = follow(server, server.run, lambda text: None)
    assert ended.state is not None
    assert ended.state.is_completed()


@pytest.mark.usefixtures("_at_once")
def test_a_server_that_stays_away_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flows.follow.PATIENCE_SECONDS", -1)
    server: Any = Shaky((Running(), Running()), (Completed(), Completed()))
    with pytest.raises(ReelRouteError, match=r"hasn't answered .* \(slow\)"):
        follow(server, server.run, lambda text: None)


@pytest.mark.usefixtures("_at_once")
def test_a_run_that_nobody_picks_up_is_said_to_wait_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flows.follow.PICK_UP_SECONDS", -1)
    said: list[str] = []
    server: Any = Scripted((None, None), (None, None), (Completed(), None))
    follow(server, server.run, said.append)
    assert said == ["  no worker has picked the run up yet; is one up and free? Waiting on …"]


def test_a_deployment_that_is_not_there_is_named(prefect: SyncPrefectClient) -> None:
    with pytest.raises(
        ReelRouteError, match="no deployment 'pipeline/nowhere': has it been deployed"
    ):
        start_flow_run(prefect, "pipeline/nowhere", {})
