"""The pipeline: label → validate → upload → distill → deploy → evaluate → promote."""

from __future__ import annotations

from typing import Any

from prefect import flow, tags
from prefect.client.schemas.objects import State
from prefect.states import Cancelled, Completed, Failed

from configs.settings import DEFAULT_PROFILE
from flows.deploy import deploy
from flows.distill import distill
from flows.evaluate import evaluate
from flows.label import label
from flows.overview import Overview
from flows.promote import promote
from flows.resume import note_process
from flows.stage import run_stage
from flows.start import current_run_id, find_run, start_run
from flows.turn import EnvironmentTaken, environment_lease
from flows.upload import upload
from flows.validate import validate
from reelroute.errors import ReelRouteError
from tasks.lease import Lease
from tasks.runs import Run

STAGE_FLOWS = (label, validate, upload, distill, deploy, evaluate, promote)

DESCRIPTION = """\
Distil a router from a teacher's labels, compare it, and promote it if it is better.

Every stage leaves a record; a stage whose inputs have not changed is skipped. So a retry of a
flow run, or a new one with the same run id, goes on where the last one ended.
"""


@flow(
    name="pipeline",
    flow_run_name=lambda: f"pipeline {current_run_id()}",
    description=DESCRIPTION,
    persist_result=False,
)
def pipeline(
    config: str = DEFAULT_PROFILE,
    run_id: str | None = None,
    overrides: dict[str, Any] | None = None,
    queries_file: str | None = None,
    force: bool = False,
) -> State[Any]:
    """Distil a router, compare it, and promote it if it is better.

    Args:
        config: The profile, relative to the checkout.
        run_id: A run to go on with; empty starts a new one.
        overrides: Settings that differ from the profile, as {"label.size": 1000}.
        queries_file: Own queries, a line each, in place of written ones; or what the monitor
            sampled from production (its `s3://….jsonl`), beside them.
        force: Run stages again even where nothing has changed.
    """
    note_process()
    try:
        run, settings = find_run(run_id, config, overrides)
        with environment_lease(run, settings) as lease:
            start_run(run, settings, overrides, queries_file)
            # Stages have no deployment whose tags they would get.
            with tags("reelroute", settings.environment):
                return _stages(run, Overview(run, settings), lease, config, overrides, force)
    except EnvironmentTaken as taken:
        return Cancelled(name="Refused", message=str(taken))
    except ReelRouteError as error:
        return Failed(message=str(error))


def _stages(
    run: Run,
    overview: Overview,
    lease: Lease,
    config: str,
    overrides: dict[str, Any] | None,
    force: bool,
) -> State[Any]:
    """One stage after the other, until one fails."""
    for stage in STAGE_FLOWS:
        lease.check()
        state = run_stage(stage, run.run_id, config, overrides, force)
        overview.add(stage.name, state)
        if not state.is_completed():
            return Failed(message=f"{stage.name}: {state.message}")
    return Completed(message=f"run {run.run_id}: {state.message}")
