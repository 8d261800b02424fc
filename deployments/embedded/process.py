"""The embedded AWS as a background process: up, down, status."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from deployments.embedded.credentials import PROFILE
from reelroute.errors import ReelRouteError

CHECKOUT: Final = Path(__file__).parents[2]
DEFAULT_STATE: Final = CHECKOUT / ".reelroute" / "embedded"
DEFAULT_PORT: Final = 5555
DEFAULT_BUCKET: Final = "reelroute-local"
HOST: Final = "127.0.0.1"
_SECONDS_TO_START: Final = 60
_SECONDS_TO_STOP: Final = 5
_POLL: Final = 0.1


@dataclass(frozen=True, slots=True)
class Running:
    """A server in the background, as `server.json` names it."""

    pid: int
    port: int

    @property
    def endpoint_url(self) -> str:
        """Where clients of every service point to."""
        return f"http://{HOST}:{self.port}"

    def write(self, state: Path) -> None:
        """Leave word of the server."""
        state.mkdir(parents=True, exist_ok=True)
        (state / "server.json").write_text(json.dumps(asdict(self)) + "\n", encoding="utf-8")


def noted(state: Path) -> Running | None:
    """The server that `server.json` names, whether or not it still runs."""
    try:
        return Running(**json.loads((state / "server.json").read_text(encoding="utf-8")))
    except (OSError, TypeError, ValueError):
        return None


def running(state: Path) -> Running | None:
    """The server that `server.json` names, if it answers."""
    server = noted(state)
    if server is None:
        return None
    try:
        health = control(server, "GET", "health")
    except ReelRouteError:
        return None
    return server if health.get("pid") == server.pid else None


def control(server: Running, method: str, place: str, body: dict[str, Any] | None = None) -> Any:
    """Ask one of the server's own endpoints.

    Raises:
        ReelRouteError: it doesn't answer, or says what is wrong.
    """
    request = urllib.request.Request(
        f"{server.endpoint_url}/_embedded/{place}",
        method=method,
        data=None if body is None else json.dumps(body).encode(),
    )
    # No proxy: the server is on this machine.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=5) as response:
            return json.load(response)
    except urllib.error.HTTPError as error:
        raise ReelRouteError(_message(error.read(), error.code)) from error
    except (OSError, ValueError) as error:
        raise ReelRouteError(
            f"the embedded AWS at {server.endpoint_url} does not answer: "
            "start it with `python -m deployments.embedded up`"
        ) from error


def _message(body: bytes, status: int) -> str:
    try:
        return str(json.loads(body)["message"])
    except (KeyError, TypeError, ValueError):
        return f"the embedded AWS answered with HTTP status {status}"


def up(port: int, bucket: str, state: Path) -> tuple[Running, bool]:
    """Start the server, unless it is up, and make its bucket and its role.

    Returns:
        the server, and whether it was started now.

    Raises:
        ReelRouteError: the port is taken, or the server ended or did not answer in time.
    """
    from deployments.embedded.bedrock.objects import ACCOUNT
    from deployments.embedded.provision import client, make_bucket, make_role

    server = running(state)
    started = server is None
    if server is None:
        server = _start(port, state)
    credentials = state / "credentials"
    make_bucket(client("s3", server.endpoint_url, credentials), bucket)
    make_role(client("iam", server.endpoint_url, credentials), ACCOUNT)
    return server, started


def _start(port: int, state: Path) -> Running:
    state.mkdir(parents=True, exist_ok=True)
    with (state / "server.log").open("wb") as log:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "deployments.embedded", "serve"),
                *("--port", str(port), "--state", str(state.resolve())),
            ],
            cwd=CHECKOUT,
            # One thread for linear algebra: calls come in parallel already.
            env={"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", **os.environ},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    deadline = time.monotonic() + _SECONDS_TO_START
    while time.monotonic() < deadline:
        server = running(state)
        if server is not None and server.pid == process.pid:
            return server
        if process.poll() is not None:
            raise ReelRouteError(_last_words(state / "server.log"))
        time.sleep(_POLL)
    process.kill()
    raise ReelRouteError(
        f"the embedded AWS did not answer within {_SECONDS_TO_START} s: see {state / 'server.log'}"
    )


def _last_words(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    last = lines[-1].removeprefix("Error: ") if lines else "it left no message"
    return (
        last
        if lines and lines[-1].startswith("Error: ")
        else (f"the embedded AWS ended while it started ({last}): see {log}")
    )


def down(state: Path) -> bool:
    """Stop the server; its state is gone. Whether there was one to stop."""
    server = running(state) or _silent(state)
    if server is not None:
        end(server.pid)
    for name in ("server.json", "credentials"):
        (state / name).unlink(missing_ok=True)
    return server is not None


def _silent(state: Path) -> Running | None:
    """The server that `server.json` names, if it lives without answering."""
    server = noted(state)
    if server is None:
        return None
    return server if is_alive(server.pid, "deployments.embedded serve") else None


def is_alive(pid: int, command: str) -> bool:
    """Whether a process with this number runs this command; numbers are used again."""
    import psutil

    try:
        return command in " ".join(psutil.Process(pid).cmdline())
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return False


def end(pid: int) -> None:
    """Stop a process: politely first, for good after a few seconds."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            return
        deadline = time.monotonic() + _SECONDS_TO_STOP
        while time.monotonic() < deadline:
            if not _alive(pid):
                return
            time.sleep(_POLL)


def _alive(pid: int) -> bool:
    try:
        if os.waitpid(pid, os.WNOHANG)[0] == pid:  # our own child, if `up` ran in this process
            return False
    except ChildProcessError:
        pass
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def serve(port: int, state: Path) -> None:
    """Run the server in the foreground until SIGTERM or SIGINT.

    Raises:
        ReelRouteError: the port is taken, or the models can't be loaded.
    """
    from threading import Thread

    from deployments.embedded.models.catalogue import routing_models
    from deployments.embedded.server import Server

    server = Server(port, state)
    routing_models().load()
    Running(os.getpid(), server.port).write(state)
    stopping = Thread(target=server.stop)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None if stopping.is_alive() else stopping.start())
    print(f"the embedded AWS listens at {server.endpoint_url}, profile [{PROFILE}]", flush=True)
    server.serve()
    stopping.join()
