"""The Prefect server and the worker as background processes of the checkout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Literal
from urllib.parse import urlsplit

from configs.settings import ENVIRONMENT_PREFIX, ROOT, Settings
from deployments.embedded.process import end, is_alive
from deployments.worker import worker_command, worker_environment
from reelroute.errors import ReelRouteError

ServiceName = Literal["prefect-server", "worker"]

STATE: Final = ROOT / ".reelroute"
_SECONDS_TO_START: Final = 120
_POLL: Final = 0.25
#: What the worker takes over of the settings in the environment: where things are. All else
#: is a run's own and comes with it.
_WORKER_SETTINGS: Final = ("AWS__", "STORAGE__", "PREFECT__")


@dataclass(frozen=True, slots=True)
class Service:
    """A background process, as its file in `.reelroute` names it."""

    pid: int
    url: str


def running(name: ServiceName) -> Service | None:
    """The service, if its process lives."""
    try:
        service = Service(**json.loads(_file(name, "json").read_text(encoding="utf-8")))
    except (OSError, TypeError, ValueError):
        return None
    return service if is_alive(service.pid, _mark(name)) else None


def start_prefect_server(api_url: str) -> bool:
    """Start a Prefect server of our own, unless it is up; whether it was started now.

    Raises:
        ReelRouteError: the port is taken by something else, or the server doesn't come up.
    """
    service = running("prefect-server")
    if service and service.url == api_url:
        return False
    if service:
        stop("prefect-server")
    parts = urlsplit(api_url)
    if _answers(api_url) or _listens(str(parts.hostname), int(parts.port or 0)):
        raise ReelRouteError(
            f"port {parts.port} is taken by something else than this checkout's Prefect server. "
            "Stop that, or choose another port: make demo PREFECT_PORT=4300"
        )
    command = [*_python("prefect"), "server", "start", "--port", str(parts.port)]
    return _start("prefect-server", command, api_url, lambda: _answers(api_url), {})


def start_worker(settings: Settings, api_url: str) -> bool:
    """Start a worker of the environment's work pool, unless one is up; whether it was started."""
    service = running("worker")
    if service and service.url == api_url:
        return False
    if service:
        stop("worker")
    log = _file("worker", "log")
    log.unlink(missing_ok=True)

    def has_started() -> bool:
        return b"started!" in log.read_bytes()

    return _start("worker", worker_command(settings), api_url, has_started, worker_environment())


def stop(name: ServiceName) -> bool:
    """Stop a service; whether there was one to stop."""
    service = running(name)
    if service:
        end(service.pid)
    _file(name, "json").unlink(missing_ok=True)
    return service is not None


def prefect_environment(api_url: str) -> dict[str, str]:
    """Prefect's settings for this checkout: a home of its own, its server, nothing sent out."""
    return {
        "PREFECT_HOME": str(STATE / "prefect"),
        "PREFECT_API_URL": api_url,
        "PREFECT_SERVER_UI_API_URL": api_url,
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        "PREFECT_CLOUD_ENABLE_ORCHESTRATION_TELEMETRY": "false",
        "DO_NOT_TRACK": "1",
    }


def _start(
    name: ServiceName,
    command: list[str],
    url: str,
    is_up: Callable[[], bool],
    more: Mapping[str, str],
) -> bool:
    STATE.mkdir(parents=True, exist_ok=True)
    log = _file(name, "log")
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**_inherited(), **prefect_environment(url), "PYTHONPATH": str(ROOT), **more},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    _file(name, "json").write_text(json.dumps(asdict(Service(process.pid, url))) + "\n")
    deadline = time.monotonic() + _SECONDS_TO_START
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise ReelRouteError(f"the {name} ended while it started; its log: {log}")
        if is_up():
            return True
        time.sleep(_POLL)
    end(process.pid)
    raise ReelRouteError(f"the {name} didn't come up in {_SECONDS_TO_START} s; its log: {log}")


def _inherited() -> dict[str, str]:
    """The environment without a run's own settings and without another Prefect's."""
    return {
        variable: value
        for variable, value in os.environ.items()
        if not variable.startswith("PREFECT_")
        and (
            not variable.startswith(ENVIRONMENT_PREFIX)
            or variable.removeprefix(ENVIRONMENT_PREFIX).startswith(_WORKER_SETTINGS)
        )
    }


def _answers(api_url: str) -> bool:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"{api_url}/health", timeout=2) as response:
            return bool(response.status == 200)
    except (OSError, ValueError):
        return False


def _listens(host: str, port: int) -> bool:
    import socket

    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((host, port)) == 0


def _python(module: str) -> list[str]:
    return [sys.executable, "-m", module]


def _mark(name: ServiceName) -> str:
    """What the service's command line holds: process numbers are used again."""
    return "server start" if name == "prefect-server" else "worker start"


def _file(name: ServiceName, ending: str) -> Path:
    return STATE / f"{name}.{ending}"
