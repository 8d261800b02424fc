"""The pipeline: label → validate → upload → distill → deploy → evaluate → promote."""

from __future__ import annotations

from typing import Annotated, Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed
from pydantic import Field

from configs.settings import DEFAULT_PROFILE
from flows.deploy import deploy
from flows.distill import distill
from flows.evaluate import evaluate
from flows.label import label
from flows.promote import promote
from flows.stage import Config, Force, Overrides, run_stage
from flows.start import current_run_id, start_run
from flows.upload import upload
from flows.validate import validate
from reelroute.errors import ReelRouteError

STAGE_FLOWS = (label, validate, upload, distill, deploy, evaluate, promote)


@flow(
    name="pipeline",
    flow_run_name=lambda: f"pipeline {current_run_id()}",
    persist_result=False,
)
def pipeline(
    config: Config = DEFAULT_PROFILE,
    run_id: Annotated[
        str | None, Field(description="A run to go on with; empty starts a new one")
    ] = None,
    overrides: Overrides = None,
    queries_file: Annotated[
        str | None, Field(description="Own queries, a line each, in place of written ones")
    ] = None,
    force: Force = False,
) -> State[Any]:
    """Distil a router from a teacher's labels, compare it, and promote it if it is better.

    Every stage leaves a record; a stage whose inputs have not changed is skipped. So a retry
    of this flow run, or a new one with the same `run_id`, goes on where the last one ended.
    """
    try:
        run = start_run(run_id, config, overrides, queries_file)
    except ReelRouteError as error:
        return Failed(message=str(error))
    for stage in STAGE_FLOWS:
        state = run_stage(stage, run.run_id, config, overrides, force)
        if not state.is_completed():
            return Failed(message=f"{stage.name}: {state.message}")
    return Completed(message=f"run {run.run_id}: {state.message}")
