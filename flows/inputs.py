"""What a run starts from, checked before anything is bought; free of Prefect."""

from __future__ import annotations

from pathlib import Path

from configs.settings import ROOT, Settings
from reelroute.errors import ConfigError
from tasks.storage import Storage

#: A file of own queries is read whole.
MAX_QUERIES_FILE_BYTES = 100_000_000


def derive_run_id(flow_run_id: str) -> str:
    """A run's id from the id of the flow run that starts it."""
    return f"run-{flow_run_id.replace('-', '')[:12]}"


def check_prices(settings: Settings) -> None:
    """Raise ConfigError if something that the profile buys has no price, or is not confirmed."""
    models = settings.models
    for model in (models.teacher, models.student, models.large_baseline, models.judge):
        settings.price(model)
    settings.distillation_price()
    settings.provisioned_usd_per_hour()


def from_production(path: str) -> bool:
    """Whether a file of queries, by its name, is the monitor's sample."""
    return path.endswith(".jsonl")


def read_queries_file(path: str, storage: Storage) -> bytes:
    """A file of own queries as bytes; its lines are judged one by one in the label stage.

    Args:
        path: relative to the checkout or absolute, or the `s3://` address of an object of the
            profile's bucket.
        storage: the profile's bucket.

    Raises:
        ConfigError: it can't be read or is too large.
    """
    if path.startswith("s3://"):
        return _read_object(path, storage)
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
        raise ConfigError(
            f"queries file {path} can't be read: {error.strerror}. For a worker on another machine "
            f"put it into the bucket, as {storage.uri('queries.txt')}"
        ) from None


def _read_object(uri: str, storage: Storage) -> bytes:
    own = storage.uri("")
    if not uri.startswith(own):
        raise ConfigError(f"queries file {uri} lies outside of the profile's bucket {own}")
    stored = storage.get(uri.removeprefix(own))
    if stored is None:
        raise ConfigError(f"queries file {uri} doesn't exist")
    return stored.data
