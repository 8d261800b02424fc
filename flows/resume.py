"""Going on with a run: what became of the flow runs that worked on it before.

A flow run notes the process that works on it (`host:pid`), because the worker doesn't. So a
flow run that Prefect still shows as Running can be told from one that is at work.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from flows.inputs import derive_run_id
from reelroute.errors import ReelRouteError

if TYPE_CHECKING:
    from uuid import UUID

    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import FlowRun, State, StateType

#: A flow run that has not noted its process after so long never will.
NOTED_WITHIN = timedelta(seconds=60)


def note_process() -> None:
    """Note in Prefect which process works on the present flow run."""
    from prefect.client.orchestration import get_client
    from prefect.runtime import flow_run

    if flow_run.id:
        with get_client(sync_client=True) as prefect:
            prefect.update_flow_run(
                flow_run.id,
                infrastructure_pid=f"{socket.gethostname()}:{os.getpid()}",
            )


def take_over(
    prefect: SyncPrefectClient, run_id: str, *, known_dead: bool, say: Callable[[str], None]
) -> FlowRun | None:
    """Clear the way for going on with a run.

    A flow run whose process is gone is marked Crashed, with the stages that it left Running.

    Args:
        prefect: the server's client.
        run_id: the run.
        known_dead: the user vouches that processes that can't be seen from here are gone, and
            workers that were about to start one.
        say: told what was done.

    Returns:
        a flow run that waits to start on this run and is to be followed, or None.

    Raises:
        ReelRouteError: a process is, or may be, at work on the run.
    """
    waiting = None
    for flow_run in _flow_runs(prefect, run_id):
        state = flow_run.state
        if state is None or state.is_final():
            _crash_children(prefect, flow_run)
        elif state.is_scheduled() or (state.is_pending() and not known_dead):
            waiting = flow_run
        else:
            if not state.is_pending():  # which no worker takes up again if its own has gone
                _require_dead(flow_run, known_dead)
            _crash(prefect, flow_run)
            _crash_children(prefect, flow_run)
            say(f"flow run {flow_run.name!r} was {state.name} without a process: marked Crashed")
    if waiting:
        say(f"flow run {waiting.name!r} waits to start on this run: following it")
    return waiting


def _require_dead(flow_run: FlowRun, known_dead: bool) -> None:
    host, _, pid = (flow_run.infrastructure_pid or "").rpartition(":")
    name = repr(flow_run.name)
    if host == socket.gethostname():
        if _is_alive(pid):
            raise ReelRouteError(
                f"flow run {name} is at work (process {pid} of this machine). Wait for it, or "
                "cancel it in the UI, then run again"
            )
    elif host and not known_dead:
        raise ReelRouteError(
            f"flow run {name} is at work on {host}, as far as can be seen from here. If its "
            "process is gone, run again with --dead"
        )
    elif not host and not known_dead:
        started = flow_run.start_time
        if started and datetime.now(UTC) - started < NOTED_WITHIN:
            raise ReelRouteError(f"flow run {name} has just started: try again in a minute")


def _is_alive(pid: str) -> bool:
    """Whether the process runs and is Prefect's: numbers are used again."""
    import psutil

    try:
        return any("prefect" in part for part in psutil.Process(int(pid)).cmdline())
    except (ValueError, psutil.NoSuchProcess, psutil.AccessDenied):
        return False


def _flow_runs(prefect: SyncPrefectClient, run_id: str) -> Sequence[FlowRun]:
    """The flow runs of deployments that work, or have worked, on a run, newest first."""
    from prefect.client.schemas.filters import (
        FlowRunFilter,
        FlowRunFilterState,
        FlowRunFilterStateType,
    )
    from prefect.client.schemas.objects import StateType
    from prefect.client.schemas.sorting import FlowRunSort

    open_or_broken = [
        StateType.SCHEDULED,
        StateType.PENDING,
        StateType.RUNNING,
        StateType.CANCELLING,
        StateType.CRASHED,
        StateType.CANCELLED,
    ]
    found = prefect.read_flow_runs(
        flow_run_filter=FlowRunFilter(
            state=FlowRunFilterState(type=FlowRunFilterStateType(any_=open_or_broken))
        ),
        sort=FlowRunSort.EXPECTED_START_TIME_DESC,
        limit=200,
    )
    return [
        flow_run
        for flow_run in found
        if flow_run.deployment_id
        and (flow_run.parameters.get("run_id") or derive_run_id(str(flow_run.id))) == run_id
    ]


def _crash_children(prefect: SyncPrefectClient, flow_run: FlowRun) -> None:
    from prefect.client.schemas.objects import StateType

    for child in stages_of(prefect, flow_run.id, StateType.RUNNING, StateType.PENDING):
        _crash(prefect, child)


def _crash(prefect: SyncPrefectClient, flow_run: FlowRun) -> None:
    from prefect.states import Crashed

    crashed: State[Any] = Crashed(message="its process is gone; another flow run goes on")
    prefect.set_flow_run_state(flow_run.id, crashed, force=True)


def stages_of(
    prefect: SyncPrefectClient, flow_run_id: UUID, *states: StateType
) -> Sequence[FlowRun]:
    """The stages' flow runs below a pipeline's, oldest first; of certain states, or all."""
    from prefect.client.schemas.filters import (
        FlowRunFilter,
        FlowRunFilterParentFlowRunId,
        FlowRunFilterState,
        FlowRunFilterStateType,
    )
    from prefect.client.schemas.sorting import FlowRunSort

    wanted = FlowRunFilter(
        parent_flow_run_id=FlowRunFilterParentFlowRunId(any_=[flow_run_id]),
        state=FlowRunFilterState(type=FlowRunFilterStateType(any_=list(states)))
        if states
        else None,
    )
    return prefect.read_flow_runs(flow_run_filter=wanted, sort=FlowRunSort.START_TIME_ASC)
