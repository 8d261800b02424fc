"""Monitor: a window of production logs beside the training set and the window before."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas.objects import State
from prefect.events import emit_event
from prefect.events.worker import EventsWorker
from prefect.runtime import flow_run
from prefect.states import Completed, Failed

from configs.settings import DEFAULT_PROFILE, Settings, load_settings
from data_contracts.events import DRIFT_DETECTED, environment_resource
from data_contracts.monitoring import Aggregate, Window, WindowRecord
from flows.resume import note_process
from reelroute.errors import ReelRouteError
from tasks.base import logger
from tasks.monitor.aggregate import Reading, distinct
from tasks.monitor.drift import compare
from tasks.monitor.logs import find_logs, read_logs
from tasks.monitor.masking import production_queries
from tasks.monitor.records import MonitorFolder, drift_event, new_drift, window_of
from tasks.monitor.reference import TrainingSet, training_set
from tasks.monitor.report import summary, window_report
from tasks.storage import Storage

DESCRIPTION = """\
Look at a window of production logs: have the queries, the answers or the service changed?

Compares with the current release's training set and with the window before. Drift that no
earlier event told of emits `reelroute.drift.detected` with its evidence; queries are sampled and
masked for the next run. A window is monitored once: a second run finds its record and changes
nothing.
"""

#: So many distinct queries of a window are compared with the training set, at most.
DISTINCT_QUERIES = 5_000


def _asked() -> str:
    """The window that was asked for, in the flow run's name."""
    end = (flow_run.parameters or {}).get("window_end")
    return f"up to {end}" if end else "the last window"


@flow(
    name="monitor",
    flow_run_name=lambda: f"monitor {_asked()}",
    description=DESCRIPTION,
    persist_result=False,
)
def monitor(
    window_end: datetime | None = None,
    config: str = DEFAULT_PROFILE,
    logs: str | None = None,
    overrides: dict[str, Any] | None = None,
) -> State[Any]:
    """Look at a window of production logs.

    Args:
        window_end: Where the window ends (UTC); empty takes the last one that is over.
        config: The profile, relative to the checkout.
        logs: A file or folder of this machine, in place of the profile's logs in the bucket.
        overrides: Settings that differ from the profile, as {"monitor.min_queries": 1000}.
    """
    note_process()
    try:
        settings = load_settings(config, overrides)
        storage = Storage(settings)
        window = window_of(settings.monitor, window_end, datetime.now(UTC))
        folder = MonitorFolder(storage, settings.environment)
        record = folder.record(window)
        known = record is not None
        if record is None:
            record = _look_at(settings, storage, folder, window, logs)
        if not record.aggregate.lines.read:
            return Completed(name="Skipped", message=f"{window}: no logs to look at")
        sent = _emit(settings, folder, record)
    except ReelRouteError as error:
        return Failed(message=str(error))
    create_markdown_artifact(
        key="monitor",
        markdown=window_report(record, folder.record_uri(window)),
        description="Production beside the training set and the window before",
    )
    message = summary(record) + (f"; event {DRIFT_DETECTED}" if sent else "")
    if known and logs:
        message += f"; the window has its record already, so {logs} was not read"
    logger().info("%s", message)
    return Completed(name="Skipped" if known and not sent else "Completed", message=message)


def _look_at(
    settings: Settings,
    storage: Storage,
    folder: MonitorFolder,
    window: Window,
    logs: str | None,
) -> WindowRecord:
    """Read the window's logs and compare; the record is written if there was anything to read."""
    limits = settings.monitor
    training = training_set(storage, limits.min_queries)
    models = training.models if training else frozenset()
    reading = Reading(
        window=window,
        vocabulary=training.vocabulary.words if training else None,
        sample_size=max(limits.sample_size, DISTINCT_QUERIES),
        seed=limits.seed,
        memory_mb=limits.memory_mb,
    )
    found = read_logs(settings, find_logs(settings, reading, logs), reading, models)
    before = _before(settings, folder, reading, logs, training)
    comparisons = [
        *(
            # A training set holds each query once.
            compare(limits, distinct(found.sample), training.aggregate, "training")
            if training
            else ()
        ),
        *compare(limits, found.aggregate, before, "before"),
    ]
    release = training.release if training else None
    queries, refused = production_queries(found.sample[: limits.sample_size], window.name)
    record = WindowRecord(
        environment=settings.environment,
        window=window,
        release=release,
        aggregate=found.aggregate,
        comparisons=tuple(comparisons),
        new_drift=new_drift(comparisons, folder.known_drift(window, release, limits.repeat_hours)),
        sample=folder.write_queries(window, queries) if queries else None,
        sampled=len(queries),
        refused=refused,
        created_at=datetime.now(UTC),
    )
    # Logs may come late: a window in which nothing was asked is looked at again.
    return folder.write_record(record) if found.aggregate.lines.requests else record


def _before(
    settings: Settings,
    folder: MonitorFolder,
    reading: Reading,
    logs: str | None,
    training: TrainingSet | None,
) -> Aggregate:
    """The window before: as its record has it, or read now."""
    earlier = folder.record(reading.window.before)
    if earlier and earlier.release == (training.release if training else None):
        return earlier.aggregate
    reading = replace(reading, window=reading.window.before, sample_size=0)
    models = training.models if training else frozenset()
    return read_logs(settings, find_logs(settings, reading, logs), reading, models).aggregate


def _emit(settings: Settings, folder: MonitorFolder, record: WindowRecord) -> bool:
    """Emit the event of a window with new drift, unless it was sent; whether it was sent now."""
    if not record.new_drift or folder.event(record.window):
        return False
    event = drift_event(settings, folder, record)
    emitted = emit_event(
        DRIFT_DETECTED,
        resource=environment_resource(settings.environment),
        payload=event.model_dump(mode="json"),
        id=folder.event_id(record.window),
    )
    if emitted is None:
        logger().warning("no event was sent: there is no Prefect server to send it to")
        return False
    EventsWorker.instance().wait_until_empty()
    folder.write_event(record.window, event)
    return True
