"""Starts by the command line: `reelroute run`, whose flow a runner executes and Prefect tracks.

Slower than a start of one's own (`start.py`), and with the whole benchmark, but the way on which
people start a killed run again.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.chaos.start import Ended
from benchmarks.chaos.world import RUN_ID, Site, wait_until
from configs.settings import ROOT
from deployments.embedded.process import end
from tasks.runs import Run
from tasks.storage import Storage


class CliStart:
    """`reelroute run --run ID`, and the flow process that works for it."""

    def __init__(self, site: Site, runner: psutil.Process) -> None:
        self._runner = runner
        self._said = site.log.with_suffix(".cli")
        with self._said.open("wb") as output:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "reelroute.cli", "run"),
                    *("--config", site.config, "--run", RUN_ID),
                ],
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    @property
    def runs(self) -> bool:
        """Whether the command follows the run."""
        return self._process.poll() is None

    def kill(self) -> None:
        """End the flow's processes at once; the command sees it and ends by itself."""
        for process in self._runner.children(recursive=True):
            process.kill()
        self._process.wait()

    def wait(self, seconds: float) -> Ended:
        """Wait for the command's end.

        Args:
            seconds: the longest that it may take.
        """
        try:
            code = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            return Ended("Killed", f"it did not end in {seconds:.0f} s")
        said = self._said.read_text(errors="replace").strip().splitlines()
        return Ended("FAILED" if code else "COMPLETED", "\n".join(said[-3:]))


@dataclass(frozen=True)
class Runner:
    """A runner that executes the flows which the command starts."""

    process: psutil.Process
    log: Path

    def start(self, site: Site) -> CliStart:
        """Start a run, or start it again."""
        # A run of a known id is one that was started before.
        Run(Storage(site.settings), RUN_ID).start(site.settings, {}, None, None)
        if not site.log.exists():
            site.log.symlink_to(self.log)
        return CliStart(site, self.process)


@contextmanager
def runner(site: Site) -> Iterator[Runner]:
    """A runner, as long as the block lasts.

    Args:
        site: any; its profile names environment and servers.
    """
    log, ready = site.log.with_suffix(".runner"), site.log.with_suffix(".ready")
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "deployments.local", "runner", "--config", site.config],
            cwd=ROOT,
            env={
                **os.environ,
                "PYTHONPATH": str(ROOT),
                "PREFECT_RUNNER_POLL_FREQUENCY": "1",
                "REELROUTE_RUNNER_READY": str(ready),
            },
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        wait_until(ready.is_file, process, log)
        time.sleep(1)
        yield Runner(psutil.Process(process.pid), log)
    finally:
        end(process.pid)
