"""`make deploy`: work pool, deployments and automations of a profile's environment, in Prefect.

What is deployed stands in prefect.yaml; running this twice changes nothing.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import yaml

from configs.settings import ROOT, Settings, load_settings
from deployments.names import pool_name
from flows.follow import client, use_server
from reelroute.errors import ReelRouteError

if TYPE_CHECKING:
    from uuid import UUID

    from prefect.client.orchestration import SyncPrefectClient

PREFECT_FILE: Final = Path(__file__).parent / "prefect.yaml"
#: `schedule.collision` as Prefect calls it.
COLLISIONS: Final = {"enqueue": "ENQUEUE", "refuse": "CANCEL_NEW"}


def deploy(
    config: str, say: Callable[[str], None], pool_is_there: Callable[[], None] = lambda: None
) -> None:
    """Bring Prefect to what the profile and prefect.yaml say; a line for each thing.

    Args:
        pool_is_there: called as soon as a worker may start.

    Raises:
        ConfigError: the profile is wrong.
        ReelRouteError: the server doesn't answer, or refuses something.
    """
    from deployments.work_pools import save_work_pool

    settings = load_settings(config)
    use_server(settings)
    prefect = client()
    name = pool_name(settings.environment)
    pool = save_work_pool(prefect, name, settings.prefect.work_pool)
    say(f"work pool   {name}: {pool.type}, at most {pool.concurrency_limit} flow runs at a time")
    pool_is_there()
    _prefect_deploy(settings, config)
    ids = deployment_ids(prefect, settings.environment)
    for name in ids:
        say(f"deployment  {name}/{settings.environment}{_how(settings, name)}")
    for line in _save_automations(prefect, settings, ids):
        say(line)


def _prefect_deploy(settings: Settings, config: str) -> None:
    """`prefect deploy` of prefect.yaml, with what it takes from the environment.

    Raises:
        ReelRouteError: it failed; the message is Prefect's.
    """
    done = subprocess.run(
        [
            *(sys.executable, "-m", "prefect", "--no-prompt"),
            *("deploy", "--all", "--prefect-file", str(PREFECT_FILE)),
        ],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **deploy_variables(settings, config)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        last = (done.stderr or done.stdout).strip().splitlines()[-5:]
        raise ReelRouteError("`prefect deploy` failed: " + "\n".join(last))


def deploy_variables(settings: Settings, config: str) -> dict[str, str]:
    """The environment variables that prefect.yaml names."""
    from flows.stage import code_version

    schedule = settings.schedule
    return {
        "REELROUTE_ENVIRONMENT": settings.environment,
        "REELROUTE_PROFILE": config,
        "REELROUTE_VERSION": code_version(),
        "REELROUTE_WORK_POOL": pool_name(settings.environment),
        "REELROUTE_CRON": schedule.cron,
        "REELROUTE_MONITOR_CRON": settings.monitor.cron,
        "REELROUTE_CLEANUP_CRON": settings.cleanup.cron,
        "REELROUTE_TIMEZONE": schedule.timezone,
        "REELROUTE_SCHEDULE_ACTIVE": str(schedule.active).lower(),
        "REELROUTE_COLLISION": COLLISIONS[schedule.collision],
    }


def declared_flows() -> list[str]:
    """The names of the flows that prefect.yaml deploys, in its order."""
    declared: list[dict[str, Any]] = yaml.safe_load(PREFECT_FILE.read_text())["deployments"]
    return [entry["entrypoint"].rpartition(":")[2] for entry in declared]


def deployment_ids(prefect: SyncPrefectClient, environment: str) -> dict[str, UUID]:
    """Flow name to the id of its deployment, of all that prefect.yaml names."""
    return {
        name: prefect.read_deployment_by_name(f"{name}/{environment}").id
        for name in declared_flows()
    }


def _how(settings: Settings, flow_name: str) -> str:
    schedule = settings.schedule
    crons = {
        "pipeline": schedule.cron,
        "monitor": settings.monitor.cron,
        "cleanup": settings.cleanup.cron,
    }
    if flow_name not in crons:
        return ""
    said = f": cron {crons[flow_name]} {schedule.timezone}" if schedule.active else ": no schedule"
    if flow_name == "pipeline":
        others = "waits" if schedule.collision == "enqueue" else "is refused"
        said += f"; one run at a time, a second one {others}"
    return said


def _save_automations(
    prefect: SyncPrefectClient, settings: Settings, ids: dict[str, UUID]
) -> Iterator[str]:
    from deployments.automations import automations, save_automations, save_webhook

    webhook = save_webhook(settings)
    wanted = automations(settings, ids, webhook)
    save_automations(prefect, wanted)
    for automation in wanted:
        yield f"automation  {automation.name}"
    if webhook is None:
        yield (
            f"automation  no notifications: {settings.notify.url_variable} holds no webhook's URL"
        )
