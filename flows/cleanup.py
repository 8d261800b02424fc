"""Cleanup: the models, deployments and runs that no kept release or run needs are removed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Cancelled, Completed, Failed

from configs.settings import DEFAULT_PROFILE, Settings, load_settings
from flows.resume import note_process
from flows.turn import CLEANUP, EnvironmentTaken, environment_lease
from reelroute.errors import ReelRouteError
from tasks.base import logger
from tasks.cleanup import Removal, plan_cleanup, remove
from tasks.runs import Run
from tasks.storage import Storage

DESCRIPTION = """\
Remove custom models, their deployments and Provisioned Throughput, and runs' folders that nothing
needs any more.

The current release and those before it that a rollback reaches stay, with all that they use; so
do the newest runs. Nothing of another environment, and nothing without ReelRoute's tags, is
touched. What was interrupted goes on where it ended.
"""


@flow(
    name="cleanup",
    flow_run_name=lambda: (
        "cleanup (dry run)" if (flow_run.parameters or {}).get("dry_run") else "cleanup"
    ),
    description=DESCRIPTION,
    persist_result=False,
)
def cleanup(
    config: str = DEFAULT_PROFILE,
    keep: int | None = None,
    dry_run: bool = False,
    overrides: dict[str, Any] | None = None,
) -> State[Any]:
    """Remove the models, deployments and runs that no kept release or run needs.

    Args:
        config: The profile, relative to the checkout.
        keep: Releases before the current one that stay deployable; empty takes the profile's.
        dry_run: Say what would be removed, and remove nothing.
        overrides: Settings that differ from the profile, as {"cleanup.runs": 20}.
    """
    note_process()
    more = {} if keep is None else {"cleanup.keep": keep}
    try:
        settings = load_settings(config, {**(overrides or {}), **more})
        removed = clean_up(settings, Storage(settings), logger().info, dry_run=dry_run)
    except EnvironmentTaken as taken:
        return Cancelled(name="Refused", message=str(taken))
    except ReelRouteError as error:
        return Failed(message=str(error))
    message = counted(removed, dry_run=dry_run)
    create_markdown_artifact(
        key="cleanup",
        markdown=_markdown(removed, message),
        description="What cleanup removed, and why nothing needs it",
    )
    return Completed(message=message)


def clean_up(
    settings: Settings, storage: Storage, say: Callable[[str], None], *, dry_run: bool
) -> list[Removal]:
    """Plan and remove; while something is removed, no run of the environment is at work.

    Args:
        say: told each step, before it is done.
        dry_run: only say what would be done.

    Raises:
        EnvironmentTaken: a run is at work and `schedule.collision` is `refuse`.
        ReelRouteError: something can't be read or removed; what is done is done.
    """
    if dry_run:
        plan = plan_cleanup(settings, storage)
        for removal in plan:
            say(f"{'must leave' if removal.stays else 'would remove'} {removal}")
        return plan
    with environment_lease(Run(storage, CLEANUP), settings) as lease:
        plan = plan_cleanup(settings, storage)
        for removal in plan:
            lease.check()
            if removal.stays:
                say(f"must leave {removal}")
                continue
            say(f"removing {removal}")
            remove(settings, storage, removal)
    return plan


def counted(removed: Sequence[Removal], *, dry_run: bool) -> str:
    """How many of each kind, as a sentence."""
    left = sum(bool(removal.stays) for removal in removed)
    bound = f"; {left} provisioned must stay: a commitment binds" if left else ""
    counts = Counter(removal.kind for removal in removed if not removal.stays)
    if not counts:
        return f"nothing to remove{bound}"
    said = ", ".join(
        f"{count} {kind}{'s' if count > 1 and kind != 'provisioned' else ''}"
        for kind, count in counts.items()
    )
    return f"would remove {said}{bound}" if dry_run else f"removed {said}{bound}"


def _markdown(removed: Sequence[Removal], message: str) -> str:
    lines = ["# Cleanup", "", f"{message[0].upper()}{message[1:]}."]
    if removed:
        lines += ["", "| | name | why |", "|---|---|---|"]
        lines += [f"| {r.kind} | `{r.name}` | {r.stays or r.reason} |" for r in removed]
    return "\n".join(lines) + "\n"
