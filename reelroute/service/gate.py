"""The app's outermost layer: request ids, limits, counts, the log, and no error without a body."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from datetime import UTC, datetime
from itertools import count, repeat
from typing import Any, Final
from uuid import uuid4

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from reelroute.service.errors import ApiError
from reelroute.service.logs import LineWriter, RouteLine
from reelroute.service.metrics import Metrics
from reelroute.service.settings import ServiceSettings

_log = logging.getLogger(__name__)

REQUEST_ID_HEADER: Final = "x-request-id"
_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

#: Paths that have a label of their own; all others share one, so that nobody can invent labels.
ROUTE_PATH: Final = "/v1/route"
_PATHS: Final = frozenset({ROUTE_PATH, "/healthz", "/readyz", "/metrics", "/openapi.json"})


class _Disconnected(Exception):
    """The client went away before its request was whole."""


class Gate:
    """Reads each request whole, within the limits, before the app sees it.

    What the app leaves in the request's state (`release`, `queries`, `error`) goes into the log.
    """

    def __init__(
        self, app: ASGIApp, settings: ServiceSettings, metrics: Metrics, log: LineWriter
    ) -> None:
        self._app = app
        self._settings = settings
        self._metrics = metrics
        self._log = log
        self._in_flight = 0
        # Cheaper than randomness for each request, and as unique.
        self._ids = map("{}-{}".format, repeat(uuid4().hex[:16]), count())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request; pass on everything else."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        state = scope.setdefault("state", {})
        given = headers.get(REQUEST_ID_HEADER, "")
        state["request_id"] = given if _REQUEST_ID.fullmatch(given) else next(self._ids)
        state["arrived"] = time.perf_counter()
        status = 0

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                out = MutableHeaders(scope=message)
                out[REQUEST_ID_HEADER] = state["request_id"]
                out["cache-control"] = "no-store"
                out["x-content-type-options"] = "nosniff"
            await send(message)

        self._in_flight += 1
        try:
            if self._in_flight > self._settings.max_in_flight and scope["path"] == ROUTE_PATH:
                raise ApiError(
                    503,
                    "overloaded",
                    f"{self._settings.max_in_flight} requests are at work already: try again.",
                    {"retry-after": "1", "connection": "close"},
                )
            body = await self._body(headers, receive)
            state["arrived"] = time.perf_counter()
            await self._app(scope, _replay(body, receive), answer)
        except ApiError as error:
            state["error"] = error.code
            await error.response()(scope, receive, answer)
        except _Disconnected:
            return
        except Exception:
            _log.exception("request %s failed", state["request_id"])
            state["error"] = "internal"
            if not status:
                failure = ApiError(500, "internal", "The service failed; its log says why.")
                await failure.response()(scope, receive, answer)
        finally:
            self._in_flight -= 1
            if status:
                self._finish(scope["path"], status, state)

    def _finish(self, path: str, status: int, state: dict[str, Any]) -> None:
        """Count and log a request that got an answer."""
        seconds = time.perf_counter() - state["arrived"]
        self._metrics.request(path if path in _PATHS else "other", status, seconds)
        if path != ROUTE_PATH:
            return
        queries = state.get("queries", ())
        line = RouteLine(
            ts=datetime.now(UTC),
            request_id=state["request_id"],
            status=status,
            error=state.get("error"),
            release=state.get("release"),
            latency_ms=round(seconds * 1000, 3),
            query_count=len(queries),
            queries=queries,
        )
        self._log.write(line.to_line())

    async def _body(self, headers: Headers, receive: Receive) -> bytes:
        limit = self._settings.max_body_bytes
        too_large = ApiError(
            413,
            "body_too_large",
            f"The body is longer than {limit} bytes: send fewer queries at once.",
            {"connection": "close"},
        )
        declared = headers.get("content-length", "0")
        if declared.isdecimal() and int(declared) > limit:
            raise too_large
        parts: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(self._settings.body_seconds):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise _Disconnected
                    parts.append(message.get("body", b""))
                    size += len(parts[-1])
                    if size > limit:
                        raise too_large
                    if not message.get("more_body", False):
                        return b"".join(parts)
        except TimeoutError:
            raise ApiError(
                408,
                "body_too_slow",
                f"The body did not arrive within {self._settings.body_seconds:g} s.",
                {"connection": "close"},
            ) from None


def _replay(body: bytes, receive: Receive) -> Receive:
    """The request's body once, then what the server says."""
    whole: Message | None = {"type": "http.request", "body": body, "more_body": False}

    async def again() -> Message:
        nonlocal whole
        message, whole = whole, None
        return message or await receive()

    return again
