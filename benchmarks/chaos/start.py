"""One start of the pipeline in a process group of its own, which may be killed.

This module is loaded once, by a server that forks (`preload`), so that a start costs no imports.
The benchmark is cut to a few queries and charts are left out: they cost most of the time of a
small run, and none of its restarts.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any, Final

from data_contracts.queries import LabelledQuery

_CONTEXT: Final = multiprocessing.get_context("forkserver")


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be started.

    Attributes:
        config: the profile's path.
        run_id: the run.
        benchmark: the held-out queries that candidates are asked.
        log: the file that takes what the process prints.
    """

    config: str
    run_id: str
    benchmark: Sequence[LabelledQuery]
    log: Path


@dataclass(frozen=True, slots=True)
class Ended:
    """How a start ended; `state` is `Killed` where it didn't end by itself."""

    state: str
    message: str


class Start:
    """A pipeline that runs in a process of its own."""

    def __init__(self, order: Order) -> None:
        self._ours, theirs = _CONTEXT.Pipe(duplex=False)
        self._process: ForkServerProcess = _CONTEXT.Process(target=_run, args=(order, theirs))
        self._process.start()
        theirs.close()

    @property
    def runs(self) -> bool:
        """Whether its process lives."""
        return self._process.is_alive()

    def kill(self) -> None:
        """End the whole process group at once."""
        assert self._process.pid is not None
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except ProcessLookupError:  # it has no group of its own yet, or has ended
            self._process.kill()
        self._process.join()

    def wait(self, seconds: float) -> Ended:
        """Wait for its end; what takes longer is killed.

        Args:
            seconds: the longest that a start may take.
        """
        self._process.join(seconds)
        if self._process.is_alive():
            self.kill()
            return Ended("Killed", f"it did not end in {seconds:.0f} s")
        try:
            return Ended(*self._ours.recv()) if self._ours.poll() else Ended("Killed", "")
        except EOFError:
            return Ended("Killed", "")


def preload(environment: dict[str, str]) -> None:
    """Start the server that forks, with the pipeline loaded.

    Args:
        environment: variables that its children live with; Prefect reads them at import.
    """
    os.environ |= environment
    _CONTEXT.set_forkserver_preload(["benchmarks.chaos.loaded"])
    first = _CONTEXT.Process(target=_nothing)
    first.start()
    first.join()


def _nothing() -> None:
    """A child that shows that the server is up."""


def _run(order: Order, answer: Connection) -> None:
    os.setsid()
    os.environ["PREFECT_LOGGING_LEVEL"] = "INFO"  # the log tells which stage has begun
    output = os.open(order.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for stream in (1, 2):
        os.dup2(output, stream)

    from prefect.flow_engine import BaseFlowRunEngine

    import tasks.evaluate
    from flows.pipeline import pipeline

    # At a flow run's end its heartbeat may sleep for a second yet.
    BaseFlowRunEngine.heartbeat_seconds = None  # type: ignore[assignment, method-assign]
    evaluate: Any = tasks.evaluate
    evaluate.benchmark_queries = lambda: order.benchmark
    evaluate.report_charts = lambda report, training: {}
    state = pipeline(config=order.config, run_id=order.run_id, return_state=True)
    answer.send((state.type.value, state.message or ""))
    sys.stdout.flush()
    # Prefect's threads need not be waited for.
    os._exit(0)
