"""Work pools: where flow runs work, one file a kind."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import BaseModel, ConfigDict

from reelroute.errors import ConfigError, ReelRouteError

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

_HERE = Path(__file__).parent


class WorkPool(BaseModel):
    """A kind of work pool: its worker's own template, with other defaults for some variables."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    type: str
    description: str
    concurrency_limit: int
    variables: dict[str, Any]


def read_work_pool(kind: str) -> WorkPool:
    """A kind of work pool from its file."""
    raw = yaml.safe_load((_HERE / f"{kind}.yaml").read_text(encoding="utf-8"))
    return WorkPool.model_validate(raw)


def with_defaults(template: dict[str, Any], pool: WorkPool) -> dict[str, Any]:
    """A worker's template with the pool's own defaults.

    Raises:
        ConfigError: the template has no such variable.
    """
    properties: dict[str, Any] = template["variables"]["properties"]
    unknown = pool.variables.keys() - properties.keys()
    if unknown:
        raise ConfigError(
            f"deployments/work_pools/{pool.type}.yaml: a {pool.type} worker has no variable "
            f"{sorted(unknown)[0]!r}; it knows {', '.join(sorted(properties))}"
        )
    changed = {
        name: {**properties[name], "default": pool.variables[name]} for name in pool.variables
    }
    variables = {**template["variables"], "properties": {**properties, **changed}}
    return {**template, "variables": variables}


def save_work_pool(prefect: SyncPrefectClient, name: str, kind: str) -> WorkPool:
    """Create a work pool, or bring it to what its file says.

    Raises:
        ReelRouteError: Prefect doesn't know this kind of worker.
    """
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.workers.utilities import get_default_base_job_template_for_infrastructure_type

    pool = read_work_pool(kind)
    template = asyncio.run(get_default_base_job_template_for_infrastructure_type(pool.type))
    if template is None:
        raise ReelRouteError(
            f"Prefect knows no worker of type {pool.type!r}: install its package, or set "
            "`prefect.work_pool` to process"
        )
    prefect.create_work_pool(
        WorkPoolCreate(
            name=name,
            type=pool.type,
            description=pool.description,
            concurrency_limit=pool.concurrency_limit,
            base_job_template=with_defaults(template, pool),
        ),
        overwrite=True,
    )
    return pool
