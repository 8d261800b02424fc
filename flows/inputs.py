"""What a run starts from, checked before anything is bought; free of Prefect."""

from __future__ import annotations

from pathlib import Path

from configs.settings import ROOT, Settings
from reelroute.errors import ConfigError

#: A file of own queries is read whole.
MAX_QUERIES_FILE_BYTES = 100_000_000


def derive_run_id(flow_run_id: str) -> str:
    """A run's id from the id of the flow run that starts it."""
    return f"run-{flow_run_id.replace('-', '')[:12]}"


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
