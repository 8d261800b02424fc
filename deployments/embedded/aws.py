"""The embedded AWS inside this process, for tests."""

from __future__ import annotations

import tempfile
from pathlib import Path
from threading import Thread
from types import TracebackType
from typing import Any, Self

from deployments.embedded.bedrock.objects import ACCOUNT
from deployments.embedded.calls import Call
from deployments.embedded.credentials import PROFILE, REGION
from deployments.embedded.faults import Faults
from deployments.embedded.provision import client, make_bucket, make_role
from deployments.embedded.server import Server


class EmbeddedAws:
    """A server in a thread, with its bucket. Use it in a `with` statement.

    It starts empty, unless another one runs in this process: the two share their buckets,
    because moto keeps its state in module globals.

    Attributes:
        bucket: the bucket that is there from the start.
        profile: the section of the credentials file.
        region: the region of the bucket.
    """

    def __init__(
        self, port: int = 0, bucket: str = "reelroute-local", state: Path | None = None
    ) -> None:
        """Nothing runs yet.

        Args:
            port: 0 takes any free one.
            bucket: created, versioned, when the server starts.
            state: the folder for the credentials file; a temporary one if left out.
        """
        self._port = port
        self._state = state
        self.bucket = bucket
        self.profile = PROFILE
        self.region = REGION
        self._server: Server | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start the server and make the bucket and the role.

        Raises:
            ReelRouteError: the port is taken.
        """
        if self._state is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="embedded-aws-")
        state = self._state or Path(self._temporary.name)
        self._server = Server(self._port, state)
        self._thread = Thread(target=self._server.serve, daemon=True, name="embedded-aws")
        self._thread.start()
        make_bucket(self.client("s3"), self.bucket)
        make_role(self.client("iam"), ACCOUNT)

    def stop(self) -> None:
        """Stop the server; its state is gone."""
        if self._server is None:
            return
        self._server.stop()
        self._thread.join()
        self._server = None
        if self._state is None:
            self._temporary.cleanup()

    @property
    def _running(self) -> Server:
        if self._server is None:
            raise RuntimeError("the embedded AWS is not running: use it in a with statement")
        return self._server

    @property
    def endpoint_url(self) -> str:
        """Where clients of every service point to."""
        return self._running.endpoint_url

    @property
    def credentials_file(self) -> Path:
        """The AWS shared-credentials file."""
        return self._running.credentials_file

    @property
    def faults(self) -> Faults:
        """What is made to fail."""
        return self._running.app.faults

    def calls(self) -> list[Call]:
        """All calls so far, in the order in which they ended; the making of the bucket too."""
        return self._running.app.calls.all()

    def client(self, service: str) -> Any:
        """A boto3 client of this server, without retries."""
        return client(service, self.endpoint_url, self.credentials_file)
