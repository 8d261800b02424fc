"""The app with routers that need no model, and what it logged."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import settings as hypothesis_settings
from starlette.testclient import TestClient

from reelroute.errors import ReelRouteError
from reelroute.routers import Router, RulesRouter
from reelroute.service.app import create_app
from reelroute.service.lifecycle import OpenRouter
from reelroute.service.logs import LineWriter
from reelroute.service.settings import ServiceSettings
from reelroute.weights import RoutingWeights

hypothesis_settings.register_profile("steady", deadline=None, derandomize=True)
hypothesis_settings.load_profile("steady")

WEIGHTS = {"visual": 0.5, "audio": 0.3, "transcription": 0.2, "metadata": 0.0}


class FakeRouter(Router):
    """Answers what it is told to, under a release of its own."""

    name = "fake"

    def __init__(
        self,
        answer: Callable[[str], RoutingWeights] | None = None,
        *,
        version: str | None = "2026-w01",
    ) -> None:
        self.asked: list[str] = []
        self.threads: set[str] = set()
        self.release = SimpleNamespace(version=version) if version else None
        self.closed = False
        self._answer = answer or (lambda _: RoutingWeights(**WEIGHTS, router=self.name))

    def route(self, query: str) -> RoutingWeights:
        self.asked.append(query)
        self.threads.add(threading.current_thread().name)
        return self._answer(query)

    def route_many(self, queries: Sequence[str]) -> list[RoutingWeights]:
        return [self.route(query) for query in queries]

    def close(self) -> None:
        self.closed = True


def unreachable(_: str) -> RoutingWeights:
    raise ReelRouteError("arn:aws:bedrock:us-east-1:1:secret-model: throttled")


@dataclass
class Service:
    """A running app: its client, and its log once it has ended."""

    client: TestClient
    stack: ExitStack
    stream: io.StringIO

    def route(self, query: str, **fields: Any) -> Any:
        return self.client.post("/v1/route", json={"query": query, **fields})

    def lines(self) -> list[dict[str, Any]]:
        """Ends the app; the lines of its log."""
        self.stack.close()
        return [json.loads(line) for line in self.stream.getvalue().splitlines()]

    def metric(self, sample: str) -> float:
        """The value of a sample, as Prometheus writes it."""
        for line in self.client.get("/metrics").text.splitlines():
            name, _, value = line.rpartition(" ")
            if name == sample:
                return float(value)
        return 0.0


@pytest.fixture
def start() -> Iterator[Callable[..., Service]]:
    """Starts apps; the settings are given as keywords."""
    with ExitStack() as all_apps:

        def started(router: Router | OpenRouter | None = None, **settings: Any) -> Service:
            stream = io.StringIO()
            app = create_app(
                router or RulesRouter(),
                ServiceSettings.model_validate(settings),
                log=LineWriter(stream),
            )
            stack = all_apps.enter_context(ExitStack())
            client = stack.enter_context(TestClient(app, raise_server_exceptions=False))
            return Service(client, stack, stream)

        yield started
