"""How a run starts: its id, its folder, and what must be right before anything is bought."""

from __future__ import annotations

from typing import Any

from prefect.runtime import flow_run

from configs.settings import Settings, load_settings
from data_contracts.runs import check_run_id
from flows.inputs import check_prices, derive_run_id, from_production, read_queries_file
from tasks.lifecycle import check_lifecycles
from tasks.local_student import check_training
from tasks.runs import Run
from tasks.storage import Storage


def current_run_id() -> str:
    """The run that this flow run works on: the one it was given, or one derived from its own id.

    A retried flow run keeps its id, so it goes on with the same run.
    """
    given = (flow_run.parameters or {}).get("run_id")
    return str(given) if given else derive_run_id(str(flow_run.id))


def find_run(
    run_id: str | None, config: str, overrides: dict[str, Any] | None
) -> tuple[Run, Settings]:
    """The run to work on, which may be new, with what must be right before it starts.

    Raises:
        ConfigError: the profile is wrong, or names a model past its end of life.
        ContractError: the run id is not allowed.
        AwsError: the bucket can't be reached.
    """
    settings = load_settings(config, overrides)
    check_prices(settings)
    check_training(settings)
    storage = Storage(settings)
    storage.check()
    check_lifecycles(settings)
    return Run(storage, check_run_id(run_id or derive_run_id(str(flow_run.id)))), settings


def start_run(
    run: Run, settings: Settings, overrides: dict[str, Any] | None, queries_file: str | None
) -> None:
    """Start the run's folder, if it is new. A file of queries is read then, and never again.

    Raises:
        ConfigError: the queries file can't be read.
        AwsError: the bucket can't be reached.
    """
    if run.parameters() is not None:
        return  # it keeps its own copies of all that it was started with
    queries = read_queries_file(queries_file, run.storage) if queries_file else None
    sampled = bool(queries_file) and from_production(str(queries_file))
    flow_run_id = str(flow_run.id) if flow_run.id else None
    run.start(settings, overrides or {}, flow_run_id, queries, from_production=sampled)
