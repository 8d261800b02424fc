"""Production logs: which files a window may lie in, and each of them to its aggregate."""

from __future__ import annotations

import tempfile
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from configs.settings import ROOT, Settings
from data_contracts.monitoring import Aggregate
from reelroute.errors import ConfigError
from tasks.base import Progress, logger
from tasks.mapped import map_task
from tasks.monitor.aggregate import FileAggregate, Reading, Sampled, aggregate_file
from tasks.monitor.invocations import is_invocation_log, write_as_lines
from tasks.storage import Storage

_ENDINGS: Final = (".jsonl", ".jsonl.gz", ".json", ".json.gz", ".log", ".log.gz")


@dataclass(frozen=True, slots=True)
class LogFile:
    """A file of logs: an object of the bucket, or a file of this machine."""

    name: str
    path: Path | None = None


@dataclass(frozen=True, slots=True)
class WindowLogs:
    """What the log files of a window come to."""

    files: int
    aggregate: Aggregate
    sample: tuple[Sampled, ...]


def find_logs(settings: Settings, reading: Reading, logs: str | None) -> list[LogFile]:
    """The files that may hold lines of the window, by name.

    An object that was last written before the window began holds none of it.

    Args:
        logs: a file or folder of this machine, in place of the profile's `monitor.logs`.

    Raises:
        ConfigError: there is no such file or folder.
        AwsError: the bucket can't be reached.
    """
    if logs is not None:
        return list(_local(logs))
    storage = Storage(settings)
    return [
        LogFile(key)
        for prefix in settings.monitor.logs
        for key, written in storage.files(prefix)
        if key.endswith(_ENDINGS) and written >= reading.window.start
    ]


def _local(logs: str) -> Iterator[LogFile]:
    place = Path(logs) if Path(logs).is_absolute() else ROOT / logs
    if place.is_file():
        yield LogFile(place.name, place)
    elif place.is_dir():
        for path in sorted(place.rglob("*")):
            if path.is_file() and path.name.endswith(_ENDINGS):
                yield LogFile(path.relative_to(place).as_posix(), path)
    else:
        raise ConfigError(f"logs {logs}: there is no such file or folder")


def read_logs(
    settings: Settings, files: Sequence[LogFile], reading: Reading, models: Collection[str]
) -> WindowLogs:
    """Aggregate the files as mapped tasks and add them up; the sample is the files' best.

    Args:
        models: the deployments whose calls in invocation logs are requests.
    """
    progress = Progress("monitor-files", f"{len(files)} log files", len(files))
    results = map_task(
        settings.task_runner,
        aggregate_log,
        "log",
        files,
        settings=settings,
        reading=reading,
        models=frozenset(models),
    )
    found = add_up(results, reading.sample_size, progress.advance)
    for name, reason in found.aggregate.unreadable.items():
        logger().warning("%s can't be read: %s", name, reason)
    return found


def add_up(
    results: Iterable[FileAggregate], sample_size: int, done: Callable[[], None]
) -> WindowLogs:
    """The files' aggregates added up; of their samples the texts of the lowest ranks."""
    files, aggregate, sample = 0, Aggregate(), dict[str, Sampled]()
    for result in results:
        files += 1
        aggregate += result.aggregate
        sample = _merged(sample, result.sample, sample_size)
        done()
    return WindowLogs(files, aggregate, tuple(sample.values()))


def aggregate_log(
    log: LogFile, settings: Settings, reading: Reading, models: frozenset[str]
) -> FileAggregate:
    """Aggregate one file of logs, of either format; one that can't be read is said to be so."""
    with tempfile.TemporaryDirectory(prefix="reelroute-logs-") as folder:
        # A name of our own: DuckDB takes special characters in names for patterns.
        local = Path(folder) / ("log.jsonl.gz" if log.name.endswith(".gz") else "log.jsonl")
        if log.path:
            local.symlink_to(log.path.resolve())
        else:
            Storage(settings).download(log.name, local)
        try:
            if is_invocation_log(local):
                lines = Path(folder) / "lines.jsonl"
                write_as_lines(local, lines, models)
                local = lines
            return aggregate_file(local, reading)
        except (OSError, EOFError, ValueError, zlib.error) as error:
            reason = str(error).replace(folder, "")[:200]
            return FileAggregate(Aggregate(unreadable={log.name: reason}))


def _merged(sample: dict[str, Sampled], more: Sequence[Sampled], size: int) -> dict[str, Sampled]:
    """The `size` queries of the lowest rank of both, by rank, each with all that it was seen."""
    both = dict(sample)
    for one in more:
        both[one.rank] = both[one.rank] + one if one.rank in both else one
    return {rank: both[rank] for rank in sorted(both)[:size]}
