"""The HTTP server: moto's application behind ours, a thread a connection, on loopback."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any, Final

from moto.backends import get_backend
from moto.moto_api._internal import moto_api_backend
from moto.moto_server.werkzeug_app import (
    DomainDispatcherApplication,
    MotoRequestHandler,
    create_backend_app,
)
from werkzeug.serving import make_server

from deployments.embedded.bedrock.api import BedrockApi
from deployments.embedded.credentials import Credentials
from deployments.embedded.faults import Faults
from deployments.embedded.models.catalogue import routing_models
from deployments.embedded.wsgi import EmbeddedApp
from reelroute.errors import ReelRouteError

HOST: Final = "127.0.0.1"
CREDENTIALS_FILE: Final = "credentials"
#: The ports of this process's servers.
_LIVE: Final[set[int]] = set()


class _Handler(MotoRequestHandler):  # type: ignore[misc]  # moto has no types
    """A handler without a log of its own, that sends each part of an answer at once."""

    disable_nagle_algorithm = True

    def log_request(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: the calls are logged by the application."""


class Server:
    """The embedded AWS, bound to its port; nothing of an earlier server is left in it.

    Moto keeps its state in module globals, so servers that run together in one process share
    their buckets (Bedrock's state, calls and faults are each server's own).

    Attributes:
        port: the port that it listens on.
        app: the application, with its call log and faults.
        credentials_file: the shared-credentials file with its keys, freshly made.
    """

    def __init__(self, port: int, state: Path) -> None:
        """Bind the port, empty moto, make fresh keys.

        Args:
            port: 0 takes any free one.
            state: the folder for the credentials file.

        Raises:
            ReelRouteError: the port is taken.
        """
        listening = _listen(port)
        self.port: int = listening.getsockname()[1]
        if not _LIVE:  # else its buckets would vanish from under another server
            moto_api_backend.reset()
        _LIVE.add(self.port)
        credentials = Credentials.fresh()
        self.credentials_file = state / CREDENTIALS_FILE
        credentials.write(self.credentials_file)
        faults = Faults()
        self._bedrock = BedrockApi(routing_models(), faults)
        self.app = EmbeddedApp(
            credentials.key_id,
            DomainDispatcherApplication(create_backend_app),
            self._bedrock,
            faults,
        )
        get_backend("s3")  # imported now, not in the first call
        self._http = make_server(
            HOST,
            self.port,
            self.app,
            threaded=True,
            request_handler=_Handler,
            fd=listening.detach(),
        )

    @property
    def endpoint_url(self) -> str:
        """Where clients of every service point to."""
        return f"http://{HOST}:{self.port}"

    def serve(self) -> None:
        """Answer requests until `stop`."""
        self._http.serve_forever()

    def stop(self) -> None:
        """End `serve`, from another thread; running jobs end without another trace."""
        self._bedrock.close()
        self._http.shutdown()
        self._http.server_close()
        _LIVE.discard(self.port)


def _listen(port: int) -> socket.socket:
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((HOST, port))
    except OSError as error:
        listening.close()
        raise port_taken(port) from error
    listening.listen(128)
    return listening


def port_taken(port: int) -> ReelRouteError:
    """The error that says so."""
    return ReelRouteError(
        f"port {port} of {HOST} is taken by another program: "
        "choose another one with --port, or stop that program"
    )
