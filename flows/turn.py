"""Whose turn it is: one run of an environment works, the others wait or are refused."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from prefect.client.orchestration import get_client
from prefect.runtime import flow_run
from prefect.states import Running

from configs.settings import Settings
from data_contracts.leases import LeaseRecord
from reelroute.errors import ReelRouteError
from tasks.base import logger
from tasks.lease import Lease, holder_of, is_held_here
from tasks.runs import Run

#: What stands for a run's id in the lease while cleanup is at work.
CLEANUP = "cleanup"
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


@contextmanager
def stage_turn(run: Run, settings: Settings) -> Iterator[None]:
    """The environment's lease for a stage that is run alone; its pipeline holds it already.

    Raises:
        EnvironmentTaken, StageError, AwsError: as `environment_lease`.
    """
    holder = holder_of(run.storage, settings.environment)
    if holder and is_held_here(holder):
        yield
    else:
        with environment_lease(run, settings):
            yield


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
