"""How a run starts: its id, its folder, and what must be right before anything is bought."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect.runtime import flow_run

from configs.settings import ROOT, Settings, load_settings
from data_contracts.runs import check_run_id
from reelroute.errors import ConfigError
from tasks.runs import Run
from tasks.storage import Storage

#: A file of own queries is read whole.
MAX_QUERIES_FILE_BYTES = 100_000_000


def current_run_id() -> str:
    """The run that this flow run works on: the one it was given, or one derived from its own id.

    A retried flow run keeps its id, so it goes on with the same run.
    """
    given = (flow_run.parameters or {}).get("run_id")
    return str(given) if given else derive_run_id(str(flow_run.id))


def derive_run_id(flow_run_id: str) -> str:
    """A run's id from the id of the flow run that starts it."""
    return f"run-{flow_run_id.replace('-', '')[:12]}"


def start_run(
    run_id: str | None,
    config: str,
    overrides: dict[str, Any] | None,
    queries_file: str | None,
) -> Run:
    """The run to work on, its folder started if it is new.

    Raises:
        ConfigError: the profile or the queries file can't be read.
        ContractError: the run id is not allowed.
        AwsError: the bucket can't be reached.
    """
    settings = load_settings(config, overrides)
    check_prices(settings)
    flow_run_id = str(flow_run.id) if flow_run.id else None
    storage = Storage(settings)
    storage.check()
    run = Run(storage, check_run_id(run_id or derive_run_id(str(flow_run_id))))
    queries = read_queries_file(queries_file) if queries_file else None
    run.start(settings, overrides or {}, flow_run_id, queries)
    return run


def check_prices(settings: Settings) -> None:
    """Raise ConfigError if a model of the profile has no price: nothing is bought unpriced."""
    models = settings.models
    for model in (models.teacher, models.student, models.large_baseline, models.judge):
        settings.price(model)


def read_queries_file(path: str) -> bytes:
    """A file of own queries as bytes; its lines are judged one by one in the label stage.

    Raises:
        ConfigError: it can't be read or is too large.
    """
    file = Path(path) if Path(path).is_absolute() else ROOT / path
    try:
        size = file.stat().st_size
        if size > MAX_QUERIES_FILE_BYTES:
            raise ConfigError(
                f"queries file {path} has {size:,} bytes, at most {MAX_QUERIES_FILE_BYTES:,} are "
                "read: split it"
            )
        return file.read_bytes()
    except OSError as error:
        raise ConfigError(f"queries file {path} can't be read: {error.strerror}") from None
