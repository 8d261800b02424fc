"""Starting a flow run through its deployment and following it to its end, line by line."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any
from uuid import UUID

from configs.settings import Settings
from flows.resume import stages_of
from reelroute.errors import ReelRouteError

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import FlowRun

POLL_SECONDS = 1.0
#: A run that nobody has picked up for so long is said to be waiting for a worker.
PICK_UP_SECONDS = 30.0
#: So long a server that doesn't answer is asked again.
PATIENCE_SECONDS = 60.0
#: Names of states in which a flow run waits until another one has ended.
WAITING = ("AwaitingConcurrencySlot", "Waiting")


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
            f"the Prefect server has no deployment {deployment!r}: has it been deployed? "
            "`make deploy CONFIG=PROFILE` does"
        ) from None
    return prefect.create_flow_run_from_deployment(
        found.id, parameters=parameters, name=f"{deployment.partition('/')[0]} (starting)"
    )


def follow(prefect: SyncPrefectClient, flow_run: FlowRun, say: Callable[[str], None]) -> FlowRun:
    """Say what the flow run and its stages do until it ends; the flow run as it ended.

    Progress bars of the UI are shown as lines, a stage's end with its state's message. A server
    that doesn't answer for a while is asked again.

    Raises:
        ReelRouteError: it hasn't answered for a minute; the run may well go on.
    """
    from httpx import HTTPError

    said: dict[UUID, str | None] = {}
    shown: dict[str, float] = {}
    started = time.monotonic()
    waiting = queued = False
    answered = started
    while True:
        try:
            flow_run = prefect.read_flow_run(flow_run.id)
            stages = stages_of(prefect, flow_run.id)
            lines = list(_progress(prefect, [flow_run, *stages], shown))
        except HTTPError as error:
            if time.monotonic() - answered > PATIENCE_SECONDS:
                raise ReelRouteError(
                    f"the Prefect server hasn't answered for {PATIENCE_SECONDS:.0f} s ({error}). "
                    "The run may go on without it: `reelroute runs show` tells"
                ) from None
            time.sleep(POLL_SECONDS)
            continue
        answered = time.monotonic()
        for line in lines:
            say(f"            {line}")
        for stage in stages:
            state = stage.state
            if state is None or said.get(stage.id) == state.name:
                continue
            said[stage.id] = state.name
            name = stage.name.partition(" ")[0]
            if state.is_running():
                say(f"  {name:9s} …")
            elif state.is_final():
                say(f"  {name:9s} {(state.name or '').lower():9s} {state.message or ''}")
        if flow_run.state is not None and flow_run.state.is_final():
            return flow_run
        if flow_run.state is not None and flow_run.state.name in WAITING:
            if not queued:
                queued = True
                say("  another run is at work on this environment: this one waits its turn …")
        elif (
            flow_run.start_time is None
            and not waiting
            and time.monotonic() - started > PICK_UP_SECONDS
        ):
            waiting = True
            say("  no worker has picked the run up yet; is one up and free? Waiting on …")
        time.sleep(POLL_SECONDS)


def _progress(
    prefect: SyncPrefectClient, flow_runs: Sequence[FlowRun], shown: dict[str, float]
) -> Iterator[str]:
    """Lines for progress artifacts that have moved by a quarter or more."""
    from prefect.client.schemas.filters import (
        ArtifactFilter,
        ArtifactFilterFlowRunId,
        ArtifactFilterType,
    )

    artifacts = prefect.read_artifacts(
        artifact_filter=ArtifactFilter(
            flow_run_id=ArtifactFilterFlowRunId(any_=[flow_run.id for flow_run in flow_runs]),
            type=ArtifactFilterType(any_=["progress"]),
        )
    )
    for artifact in artifacts:
        percent = float(artifact.data) if isinstance(artifact.data, int | float | str) else 0.0
        key = str(artifact.id)
        if percent and percent - shown.get(key, 0.0) >= 25:
            shown[key] = percent
            yield f"{percent:3.0f}% {artifact.description or ''}"
