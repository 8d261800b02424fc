"""Whose turn it is: one pipeline run of an environment works, the others wait or are refused."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from prefect.client.orchestration import get_client
from prefect.runtime import flow_run
from prefect.states import Running

from configs.settings import Settings
from data_contracts.leases import LeaseRecord
from reelroute.errors import ReelRouteError, StageError
from tasks.base import logger
from tasks.lease import Lease, holder_of, is_held_here
from tasks.runs import Run

#: The name of the state of a flow run that waits for its turn.
WAITING = "Waiting"


class EnvironmentTaken(ReelRouteError):
    """Another run is at work on the environment, and the profile says not to wait."""


@contextmanager
def environment_lease(run: Run, settings: Settings) -> Iterator[Lease]:
    """The lease of the run's environment, as soon as it is this run's turn.

    Raises:
        EnvironmentTaken: another run is at work and `schedule.collision` is `refuse`.
        StageError: what lies in the lease's place is not a lease.
        AwsError: the bucket can't be reached.
    """
    schedule = settings.schedule
    flow_run_id = str(flow_run.id) if flow_run.id else None
    lease = Lease(
        run.storage, settings.environment, run.run_id, flow_run_id, schedule.lease_seconds
    )
    waits_for: str | None = None
    while holder := lease.take():
        if schedule.collision == "refuse":
            raise EnvironmentTaken(
                f"{_at_work(holder)}, and `schedule.collision` is refuse: start this run again "
                "when that one has ended"
            )
        if waits_for != holder.token:
            waits_for = holder.token
            _show(WAITING, f"{_at_work(holder)}: this one waits until it has ended")
        time.sleep(schedule.poll_seconds)
    if waits_for:
        _show("Running", "it is this run's turn")
    with lease.kept():
        yield lease


def require_nobody_else(run: Run, settings: Settings) -> None:
    """Raise unless a stage may be run alone: not on a run that a pipeline is at work on.

    Raises:
        StageError: another process is at work on the run.
    """
    holder = holder_of(run.storage, settings.environment)
    if holder and holder.run_id == run.run_id and not is_held_here(holder):
        raise StageError(f"{_at_work(holder)}: wait until it has ended, or cancel it")


def _at_work(holder: LeaseRecord) -> str:
    return (
        f"run {holder.run_id} is at work on environment {holder.environment} since "
        f"{holder.taken_at:%Y-%m-%d %H:%M:%S} UTC (process {holder.pid} of {holder.host})"
    )


def _show(name: str, message: str) -> None:
    """Say it in the log and as the flow run's state, still of type Running."""
    logger().info("%s", message)
    if flow_run.id:
        with get_client(sync_client=True) as prefect:
            prefect.set_flow_run_state(flow_run.id, Running(name=name, message=message), force=True)
