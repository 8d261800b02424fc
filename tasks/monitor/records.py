"""What monitoring leaves in the bucket: a record a window, its sampled queries, its event."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Final, TypeVar
from uuid import NAMESPACE_URL, UUID, uuid5

from pydantic import BaseModel, ValidationError

from configs.settings import MonitorSettings, Settings
from data_contracts.monitoring import (
    Comparison,
    DriftEvent,
    ProductionQuery,
    Window,
    WindowRecord,
)
from reelroute.errors import ConfigError, StageError
from reelroute.problems import first_problem
from tasks.reporting.text import visible
from tasks.storage import Storage

R = TypeVar("R", bound=BaseModel)

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def window_of(settings: MonitorSettings, end: datetime | None, now: datetime) -> Window:
    """The window that ends at `end` or, without it, the last one whose logs should be there.

    Raises:
        ConfigError: the end lies in the future.
    """
    length = timedelta(minutes=settings.window_minutes)
    if end is None:
        settled = now - timedelta(minutes=settings.delay_minutes)
        end = settled - (settled - _EPOCH) % length
    end = (end if end.tzinfo else end.replace(tzinfo=UTC)).astimezone(UTC)
    end = end.replace(second=0, microsecond=0)
    if end > now:
        raise ConfigError(f"the window would end at {end:%Y-%m-%d %H:%M} UTC, in the future")
    return Window(start=end - length, end=end)


class MonitorFolder:
    """An environment's folder `monitor/<environment>/`."""

    def __init__(self, storage: Storage, environment: str) -> None:
        self._storage = storage
        self._environment = environment
        self._prefix = f"monitor/{environment}/"

    def record_uri(self, window: Window) -> str:
        """Where the window's record lies."""
        return self._storage.uri(self._record_key(window))

    def record(self, window: Window) -> WindowRecord | None:
        """A window's record, or None before it was monitored.

        Raises:
            StageError: what lies there is no record.
        """
        return self._read(self._record_key(window), WindowRecord)

    def write_record(self, record: WindowRecord) -> WindowRecord:
        """Write a window's record, once; the one that is there, by whomever it was written."""
        data = record.model_dump_json(indent=2).encode()
        if self._storage.put_new(self._record_key(record.window), data):
            return record
        written = self.record(record.window)
        assert written is not None
        return written

    def write_queries(self, window: Window, queries: Sequence[ProductionQuery]) -> str:
        """Write the window's sampled queries; their address."""
        key = f"{self._prefix}{window.name}/queries.jsonl"
        lines = "".join(f"{query.model_dump_json()}\n" for query in queries)
        self._storage.put_file(key, lines.encode(), "application/jsonl")
        return self._storage.uri(key)

    def event_id(self, window: Window) -> UUID:
        """The id of the window's event: the same however often it is sent."""
        return uuid5(NAMESPACE_URL, self.record_uri(window))

    def event(self, window: Window) -> DriftEvent | None:
        """The event that the window has led to, or None."""
        return self._read(self._event_key(window), DriftEvent)

    def write_event(self, window: Window, event: DriftEvent) -> None:
        """Note that the window's event was sent."""
        data = event.model_dump_json(indent=2).encode()
        self._storage.put_new(self._event_key(window), data)

    def known_drift(self, window: Window, release: str | None, hours: int) -> frozenset[str]:
        """The measures that events of this release told of in the hours before the window."""
        oldest = f"{self._prefix}events/{window.end - timedelta(hours=hours):%Y%m%dT%H%MZ}"
        own = self._event_key(window)
        keys = self._storage.keys(f"{self._prefix}events/")
        events = (self._read(key, DriftEvent) for key in keys if oldest <= key < own)
        return frozenset(
            measure.name
            for event in events
            if event and event.release == release
            for measure in event.measures
        )

    def _record_key(self, window: Window) -> str:
        return f"{self._prefix}{window.name}.json"

    def _event_key(self, window: Window) -> str:
        return f"{self._prefix}events/{window.name}.json"

    def _read(self, key: str, contract: type[R]) -> R | None:
        stored = self._storage.get(key)
        if stored is None:
            return None
        try:
            return contract.model_validate_json(stored.data)
        except ValidationError as error:
            raise StageError(
                f"{self._storage.uri(key)} is not what monitoring wrote: {first_problem(error)}"
            ) from None


def drift_event(settings: Settings, folder: MonitorFolder, record: WindowRecord) -> DriftEvent:
    """The event of a window with new drift, with its evidence."""
    return DriftEvent(
        environment=settings.environment,
        window=str(record.window),
        release=record.release,
        measures=tuple(
            comparison.model_copy(update={"evidence": visible(comparison.evidence)})
            for comparison in record.drifted
        ),
        record=folder.record_uri(record.window),
        queries=record.sample or "",
    )


def new_drift(comparisons: Sequence[Comparison], known: frozenset[str]) -> tuple[str, ...]:
    """The drifted measures that were not told of before."""
    drifted = {comparison.name for comparison in comparisons if comparison.drifted}
    return tuple(sorted(drifted - known))
