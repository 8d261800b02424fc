"""A whole Prefect of a test's own: a server with its services, what is deployed, a worker."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import psutil
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import FlowRun

from configs.settings import ROOT
from deployments.embedded.process import end
from deployments.local.services import prefect_environment
from flows.resume import stages_of

T = TypeVar("T")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def until(what: str, found: Callable[[], T | None], seconds: float = 120) -> T:
    """What `found` gives as soon as it gives something."""
    deadline = time.monotonic() + seconds
    while True:
        value = found()
        if value:
            return value
        assert time.monotonic() < deadline, f"after {seconds:.0f} s not yet: {what}"
        time.sleep(0.5)


@dataclass
class Stack:
    """Processes of one Prefect; their logs lie in `folder`."""

    folder: Path
    port: int = field(default_factory=free_port)
    more: dict[str, str] = field(default_factory=dict)
    _running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def api_url(self) -> str:
        return f"{self.url}/api"

    def environment(self) -> dict[str, str]:
        mine = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT")}
        ours = prefect_environment(self.api_url)
        home = {"PREFECT_HOME": str(self.folder / "prefect"), "PYTHONPATH": str(ROOT)}
        return {**mine, **ours, **home, **self.more}

    def start_server(self) -> None:
        command = ["-m", "prefect", "server", "start", "--port", str(self.port)]
        self._start("server", command)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

        def healthy() -> bool:
            try:
                opener.open(f"{self.api_url}/health", timeout=2).close()
            except OSError:
                return False
            return True

        until("the server is healthy", healthy)

    def deploy(self, config: str) -> str:
        """`make deploy`; what it says."""
        command = [sys.executable, "-m", "deployments", "deploy", "--config", config]
        done = subprocess.run(
            command, cwd=ROOT, env=self.environment(), capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def start_worker(self, config: str) -> None:
        self._start("worker", ["-m", "deployments", "worker", "--config", config])

    def stop(self, name: str) -> None:
        process = self._running.pop(name, None)
        if process:
            end(process.pid)
            process.wait()

    def kill_tree(self, name: str) -> None:
        """SIGKILL a process with everything that it has started, the innermost first."""
        process = self._running.pop(name)
        for child in reversed(psutil.Process(process.pid).children(recursive=True)):
            child.kill()
        process.kill()
        process.wait()

    def close(self) -> None:
        for name in reversed(list(self._running)):
            self.stop(name)

    def client(self) -> SyncPrefectClient:
        return SyncPrefectClient(self.api_url)

    def trigger(self, deployment: str, **parameters: Any) -> FlowRun:
        """A flow run of a deployment, as the UI starts one."""
        with self.client() as prefect:
            found = prefect.read_deployment_by_name(deployment)
            return prefect.create_flow_run_from_deployment(found.id, parameters=parameters)

    def flow_run(self, flow_run: FlowRun) -> FlowRun:
        with self.client() as prefect:
            return prefect.read_flow_run(flow_run.id)

    def ended(self, flow_run: FlowRun, seconds: float = 240) -> FlowRun:
        def final() -> FlowRun | None:
            found = self.flow_run(flow_run)
            return found if found.state and found.state.is_final() else None

        return until(f"{flow_run.name} ends", final, seconds)

    def in_state(self, flow_run: FlowRun, name: str, seconds: float = 120) -> FlowRun:
        def there() -> FlowRun | None:
            found = self.flow_run(flow_run)
            return found if found.state_name == name else None

        return until(f"{flow_run.name} is {name}", there, seconds)

    def stage_states(self, flow_run: FlowRun) -> dict[str, str | None]:
        """The latest state's name of each stage below a pipeline."""
        with self.client() as prefect:
            found = stages_of(prefect, flow_run.id)
            return {run.name.partition(" ")[0]: run.state_name for run in found}

    def _start(self, name: str, command: list[str]) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            self._running[name] = subprocess.Popen(
                [sys.executable, *command],
                cwd=ROOT,
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
