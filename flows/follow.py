"""Starting a flow run through its deployment and following it to its end, line by line."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any
from uuid import UUID

from configs.settings import Settings
from flows.inputs import derive_run_id
from reelroute.errors import ReelRouteError

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import FlowRun, State

POLL_SECONDS = 1.0
#: A run that nobody has picked up for so long is said to be waiting for a runner.
PICK_UP_SECONDS = 30.0


def use_server(settings: Settings) -> None:
    """Let Prefect speak to the profile's server, whatever its own settings name.

    Must be called before Prefect is imported.
    """
    if settings.prefect.api_url:
        os.environ["PREFECT_API_URL"] = settings.prefect.api_url
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "WARNING")


def client() -> SyncPrefectClient:
    """A client of the server in use.

    Raises:
        ReelRouteError: the server doesn't answer.
    """
    from prefect.client.orchestration import get_client
    from prefect.settings import get_current_settings

    url = get_current_settings().api.url
    if not url:
        raise ReelRouteError(
            "no Prefect server is named: set `prefect.api_url` in the profile or PREFECT_API_URL"
        )
    prefect = get_client(sync_client=True)
    if prefect.api_healthcheck() is not None:
        raise ReelRouteError(
            f"the Prefect server at {url} doesn't answer. On this machine "
            "`python -m deployments.local up` starts it; otherwise correct `prefect.api_url`"
        )
    return prefect


def start_flow_run(
    prefect: SyncPrefectClient, deployment: str, parameters: dict[str, Any]
) -> FlowRun:
    """A new flow run of a deployment (`flow/name`).

    Raises:
        ReelRouteError: there is no such deployment.
    """
    from prefect.exceptions import ObjectNotFound

    try:
        found = prefect.read_deployment_by_name(deployment)
    except ObjectNotFound:
        raise ReelRouteError(
            f"the Prefect server has no deployment {deployment!r}: is a runner up? On this machine "
            "`python -m deployments.local up` starts one"
        ) from None
    return prefect.create_flow_run_from_deployment(found.id, parameters=parameters)


def runs_at_work(prefect: SyncPrefectClient, run_id: str) -> list[str]:
    """The ids of the pipeline's unfinished flow runs that work on a run."""
    from prefect.client.schemas.filters import (
        FlowRunFilter,
        FlowRunFilterState,
        FlowRunFilterStateType,
    )
    from prefect.client.schemas.objects import StateType

    unfinished = [StateType.PENDING, StateType.RUNNING, StateType.CANCELLING]
    found = prefect.read_flow_runs(
        flow_run_filter=FlowRunFilter(
            state=FlowRunFilterState(type=FlowRunFilterStateType(any_=unfinished))
        )
    )
    return [
        str(flow_run.id)
        for flow_run in found
        if flow_run.deployment_id
        and (flow_run.parameters.get("run_id") or derive_run_id(str(flow_run.id))) == run_id
    ]


def release_dead_run(prefect: SyncPrefectClient, flow_run_id: str) -> str | None:
    """Mark a flow run that died without a word, so that the UI stops showing it as Running.

    Returns:
        what was done, or None where there was nothing to do.

    Raises:
        ReelRouteError: its process is alive on this machine.
    """
    from prefect.exceptions import ObjectNotFound
    from prefect.states import Crashed

    try:
        flow_run = prefect.read_flow_run(UUID(flow_run_id))
    except (ObjectNotFound, ValueError):
        return None
    if flow_run.state is None or flow_run.state.is_final():
        return None
    pid = flow_run.infrastructure_pid or ""
    if _alive_here(pid):
        raise ReelRouteError(
            f"flow run {flow_run.name!r} is at work (process {pid}). Wait for it, or cancel it in "
            "the UI, then run again"
        )
    crashed: State[Any] = Crashed(message="its process is gone; the run goes on in a new flow run")
    prefect.set_flow_run_state(flow_run.id, crashed, force=True)
    return f"flow run {flow_run.name!r} was {flow_run.state.name} without a process: marked Crashed"


def _alive_here(infrastructure_pid: str) -> bool:
    host, _, number = infrastructure_pid.rpartition(":")
    pid = int(number) if number.isdigit() else 0
    if not pid or host not in ("", socket.gethostname()):
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def follow(prefect: SyncPrefectClient, flow_run: FlowRun, say: Callable[[str], None]) -> FlowRun:
    """Say what the flow run and its stages do until it ends; the flow run as it ended.

    Progress bars of the UI are shown as lines, a stage's end with its state's message.
    """
    said: dict[UUID, str | None] = {}
    shown: dict[str, float] = {}
    started = time.monotonic()
    waiting = False
    while True:
        flow_run = prefect.read_flow_run(flow_run.id)
        for stage in _stages(prefect, flow_run):
            state = stage.state
            if state is None or said.get(stage.id) == state.name:
                continue
            said[stage.id] = state.name
            name = stage.name.partition(" ")[0]
            if state.is_running():
                say(f"  {name:9s} …")
            elif state.is_final():
                say(f"  {name:9s} {(state.name or '').lower():9s} {state.message or ''}")
        for line in _progress(prefect, flow_run, shown):
            say(f"            {line}")
        if flow_run.state is not None and flow_run.state.is_final():
            return flow_run
        picked_up = flow_run.start_time is not None
        if not picked_up and not waiting and time.monotonic() - started > PICK_UP_SECONDS:
            waiting = True
            say("  no runner has picked the run up yet; is one up and free? Waiting on …")
        time.sleep(POLL_SECONDS)


def _stages(prefect: SyncPrefectClient, flow_run: FlowRun) -> list[FlowRun]:
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterParentFlowRunId
    from prefect.client.schemas.sorting import FlowRunSort

    stages = prefect.read_flow_runs(
        flow_run_filter=FlowRunFilter(
            parent_flow_run_id=FlowRunFilterParentFlowRunId(any_=[flow_run.id])
        ),
        sort=FlowRunSort.START_TIME_ASC,
    )
    return [*stages] if stages else []


def _progress(
    prefect: SyncPrefectClient, flow_run: FlowRun, shown: dict[str, float]
) -> Iterator[str]:
    """Lines for progress artifacts that have moved by a quarter or more."""
    from prefect.client.schemas.filters import (
        ArtifactFilter,
        ArtifactFilterFlowRunId,
        ArtifactFilterType,
    )

    runs = [flow_run.id, *(stage.id for stage in _stages(prefect, flow_run))]
    artifacts = prefect.read_artifacts(
        artifact_filter=ArtifactFilter(
            flow_run_id=ArtifactFilterFlowRunId(any_=runs),
            type=ArtifactFilterType(any_=["progress"]),
        )
    )
    for artifact in artifacts:
        percent = float(artifact.data) if isinstance(artifact.data, int | float | str) else 0.0
        key = str(artifact.id)
        if percent and percent - shown.get(key, 0.0) >= 25:
            shown[key] = percent
            yield f"{percent:3.0f}% {artifact.description or ''}"
