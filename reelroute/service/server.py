"""The server: sockets, signals, processes."""

from __future__ import annotations

import asyncio
import gc
import logging.config
import multiprocessing
import os
import signal
import socket
import tempfile
import threading
import time
from multiprocessing.connection import wait
from multiprocessing.synchronize import Lock
from types import FrameType
from typing import Any, Final

import uvicorn

from reelroute.errors import ReelRouteError
from reelroute.service.app import create_app
from reelroute.service.lifecycle import Lifecycle, OpenRouter
from reelroute.service.logs import LineWriter
from reelroute.service.metrics import SHARED_FOLDER_VARIABLE
from reelroute.service.settings import ServiceSettings

_log = logging.getLogger(__name__)

#: Longer than load balancers keep an idle connection (60 s is usual), so that they never send a
#: request into one that is being closed.
_KEEP_ALIVE_SECONDS: Final = 75

_LOGGING: Final[dict[str, Any]] = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"json": {"()": "reelroute.service.logs.JsonFormatter"}},
    "handlers": {
        "stderr": {
            "class": "logging.StreamHandler",
            "formatter": "json",
            "stream": "ext://sys.stderr",
        }
    },
    "root": {"level": "WARNING", "handlers": ["stderr"]},
    "loggers": {"reelroute": {"level": "INFO"}},
}


def serve(open_router: OpenRouter, settings: ServiceSettings) -> None:
    """Serve until SIGTERM or SIGINT.

    Args:
        open_router: opens the release's router; with several workers it must be picklable.
        settings: the service's settings.

    Raises:
        ReelRouteError: the address can't be listened on, or a worker died.
    """
    logging.config.dictConfig(_LOGGING)
    listener = _listen(settings.host, settings.port)
    with listener:
        if settings.workers == 1:
            server = _server(open_router, settings, LineWriter())
            _announce(listener)
            server.run(sockets=[listener])
        else:
            _supervise(open_router, settings, listener)
    _log.info("stopped")


def _listen(host: str, port: int) -> socket.socket:
    listener: socket.socket | None = None
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        # Without the protocol's name asyncio leaves Nagle's algorithm on, and every answer waits
        # some 40 ms for the client's delayed acknowledgement.
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(2048)
        return listener
    except (OSError, UnicodeError) as error:
        if listener is not None:
            listener.close()
        why = getattr(error, "strerror", None) or error
        raise ReelRouteError(
            f"can't listen on {host}, port {port}: {why}. Choose another with --host and --port"
        ) from None


def _announce(listener: socket.socket) -> None:
    host, port = listener.getsockname()[:2]
    _log.info("listening on http://%s:%d", f"[{host}]" if ":" in host else host, port)


def _server(open_router: OpenRouter, settings: ServiceSettings, log: LineWriter) -> _Server:
    """The server of this process; from here on signals end it in order."""
    app = create_app(open_router, settings, log=log)
    config = uvicorn.Config(
        app,
        lifespan="on",
        ws="none",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=settings.shutdown_seconds,
    )
    server = _Server(config, app.state.lifecycle, settings.drain_seconds)
    # uvicorn handles signals from its start to its end, and then raises once more the one that
    # ended it: to these handlers, so that an end that was asked for is a success.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, server.handle_exit)
    return server


class _Server(uvicorn.Server):
    """Ends readiness first, listening after a while, and then itself."""

    def __init__(self, config: uvicorn.Config, lifecycle: Lifecycle, drain_seconds: float) -> None:
        super().__init__(config)
        self._lifecycle = lifecycle
        self._drain_seconds = drain_seconds

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        # What start-up made lives as long as the process: no collection needs to look at it.
        gc.collect()
        gc.freeze()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._lifecycle.shutting_down = True
        super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        until = time.monotonic() + self._drain_seconds
        while time.monotonic() < until and not self.force_exit:
            await asyncio.sleep(min(0.05, self._drain_seconds))
        await super().shutdown(sockets)


def _supervise(open_router: OpenRouter, settings: ServiceSettings, listener: socket.socket) -> None:
    """Serve in several processes that share the socket; if one dies, all end."""
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    context = multiprocessing.get_context("spawn")
    writing = context.Lock()
    with tempfile.TemporaryDirectory(prefix="reelroute-metrics-") as folder:
        os.environ[SHARED_FOLDER_VARIABLE] = folder
        workers = [
            context.Process(target=_worker, args=(open_router, settings, listener, writing))
            for _ in range(settings.workers)
        ]
        for worker in workers:
            worker.start()
        _announce(listener)
        ended: list[Any] = []
        while not stopping.is_set() and not ended:
            ended = wait([worker.sentinel for worker in workers], timeout=0.2)
        died = [worker.pid for worker in workers if worker.sentinel in ended]
        for worker in workers:
            worker.terminate()
        for worker in workers:
            worker.join()
    if died and not stopping.is_set():
        raise ReelRouteError(
            f"worker process {died[0]} ended by itself and the service with it: start it again; "
            "the log above says why, or the machine is out of memory"
        )


def _worker(
    open_router: OpenRouter, settings: ServiceSettings, listener: socket.socket, writing: Lock
) -> None:
    logging.config.dictConfig(_LOGGING)
    threading.Thread(target=_follow_parent, daemon=True).start()
    _server(open_router, settings, LineWriter(lock=writing)).run(sockets=[listener])


def _follow_parent() -> None:
    """End this worker when the process that started it is gone."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)
