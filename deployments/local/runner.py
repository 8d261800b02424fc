"""The runner: deployments of the pipeline, every stage and the monitor, served by one process."""

from __future__ import annotations

import os
from pathlib import Path
from typing import cast

from prefect import serve
from prefect.deployments.runner import RunnerDeployment

from configs.settings import load_settings
from flows.monitor import monitor
from flows.pipeline import STAGE_FLOWS, pipeline
from flows.stage import code_version

#: One run at a time, and stages that are run again beside it.
LIMIT = 3


def serve_deployments(config: str) -> None:
    """Register the deployments and run what is started of them, until SIGTERM."""
    environment = load_settings(config).environment
    deployments = [
        cast(
            RunnerDeployment,
            flow.to_deployment(
                name=environment,
                parameters={"config": config},
                description=flow.description,
                tags=["reelroute", environment],
                version=code_version(),
            ),
        )
        for flow in (pipeline, *STAGE_FLOWS, monitor)
    ]
    ready = os.environ.get("REELROUTE_RUNNER_READY")
    if ready:
        Path(ready).write_text("ready\n")
    serve(*deployments, limit=LIMIT, pause_on_shutdown=False, print_starting_message=False)
