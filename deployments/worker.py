"""`make worker`: takes up flow runs of a profile's environment and runs them on this machine."""

from __future__ import annotations

import os
import sys

from configs.settings import ROOT, Settings
from deployments.names import pool_name
from deployments.work_pools import read_work_pool


def worker_command(settings: Settings) -> list[str]:
    """The command that starts a worker of the environment's work pool.

    How many flow runs are at work together is the pool's limit. A worker's own `--limit` ends
    Prefect 3.8.8's worker when a flow run is retried before its last process is quite gone.
    """
    pool = read_work_pool(settings.prefect.work_pool)
    return [
        *(sys.executable, "-m", "prefect", "worker", "start"),
        *("--pool", pool_name(settings.environment)),
        *("--type", pool.type),
    ]


def worker_environment() -> dict[str, str]:
    """What a worker's flow runs must know, and how often it looks for new ones."""
    return {
        "PYTHONPATH": str(ROOT),
        "REELROUTE_HOME": str(ROOT),
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
        "PREFECT_WORKER_QUERY_SECONDS": "2",
    }


def run_worker(settings: Settings) -> None:
    """Become a worker, until SIGTERM."""
    server = {"PREFECT_API_URL": settings.prefect.api_url} if settings.prefect.api_url else {}
    command = worker_command(settings)
    os.chdir(ROOT)
    os.execve(command[0], command, {**os.environ, **worker_environment(), **server})
