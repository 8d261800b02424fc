"""The app: what is asked for, and what is answered, counted and logged."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any, Final

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

from reelroute import __version__
from reelroute.routers import Router
from reelroute.service.answering import Answering
from reelroute.service.errors import ApiError, ErrorBody, install_error_handlers
from reelroute.service.gate import ROUTE_PATH, Gate
from reelroute.service.lifecycle import Lifecycle, OpenRouter
from reelroute.service.logs import LineWriter
from reelroute.service.metrics import CONTENT_TYPE, Metrics
from reelroute.service.schemas import (
    ROUTE_REQUEST_BODY,
    Health,
    Readiness,
    RouteAnswer,
    RouteAnswers,
    RouteRequest,
)
from reelroute.service.settings import ServiceSettings

_DESCRIPTION: Final = (
    "How much each of four channels of a video (visual, audio, transcription, metadata) should "
    "count for a search query."
)
_REFUSALS: Final[dict[int | str, dict[str, Any]]] = {
    400: {"model": ErrorBody, "description": "The body is not JSON."},
    413: {"model": ErrorBody, "description": "The body is too long."},
    415: {"model": ErrorBody, "description": "The body is not declared as JSON."},
    422: {"model": ErrorBody, "description": "Not a request, or a query outside the limits."},
    503: {"model": ErrorBody, "description": "No answer now: not ready, or too much at once."},
}


def create_app(
    router: Router | OpenRouter,
    settings: ServiceSettings | None = None,
    *,
    log: LineWriter | None = None,
) -> FastAPI:
    """The service as an ASGI app.

    Args:
        router: the router, or the way to open it: then the app opens it in the background, is
            not ready until it has succeeded, and closes it at the end.
        settings: the service's settings; those of the socket are the server's matter.
        log: where the request log goes; by default standard output.
    """
    settings = settings or ServiceSettings()
    lifecycle = Lifecycle(router)
    metrics = Metrics()
    log = log or LineWriter()
    service = _Service(settings, lifecycle, metrics, log)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        log.start()
        opening = asyncio.create_task(lifecycle.open(settings.retry_seconds))
        yield
        lifecycle.shutting_down = True
        opening.cancel()
        service.answering.close()
        await asyncio.to_thread(lifecycle.close)
        await asyncio.to_thread(log.close)

    app = FastAPI(
        title="ReelRoute",
        version=__version__,
        description=_DESCRIPTION,
        lifespan=lifespan,
        # The pages of the framework load their scripts from elsewhere.
        docs_url=None,
        redoc_url=None,
        swagger_ui_oauth2_redirect_url=None,
    )
    app.state.lifecycle = lifecycle
    app.post(
        ROUTE_PATH,
        summary="Weigh the channels of one query or many",
        response_model=RouteAnswer | RouteAnswers,
        responses=_REFUSALS,
        openapi_extra=ROUTE_REQUEST_BODY,
        tags=["routing"],
    )(service.route)
    app.get("/healthz", summary="Does the process live?", tags=["operation"])(service.health)
    app.get(
        "/readyz",
        summary="Are queries answered?",
        responses={503: {"model": ErrorBody, "description": "Not now; the body says why."}},
        tags=["operation"],
    )(service.readiness)
    app.get(
        "/metrics",
        summary="Counts for Prometheus",
        response_class=Response,
        responses={200: {"content": {"text/plain": {}}}},
        tags=["operation"],
    )(service.exposition)
    install_error_handlers(app)
    app.add_middleware(Gate, settings=settings, metrics=metrics, log=log)
    return app


class _Service:
    """The endpoints and what they share."""

    def __init__(
        self,
        settings: ServiceSettings,
        lifecycle: Lifecycle,
        metrics: Metrics,
        log: LineWriter,
    ) -> None:
        self.settings = settings
        self.lifecycle = lifecycle
        self.metrics = metrics
        self.answering = Answering(settings)
        self.log = log

    async def route(self, request: Request) -> Response:
        """One query gives its answer; many give `answers`, in their order."""
        _check_media_type(request)
        asked = RouteRequest.of_body(await request.body())
        queries = asked.texts(self.settings)
        answered = await self.answering.answer(self.lifecycle.router(), asked, queries)
        self.metrics.release(answered.release)
        # Here too: of several workers only the one that is asked for metrics shows its latest.
        self.metrics.cache(self.lifecycle.cache())
        for query in answered.queries:
            self.metrics.query(query.router, fallback=query.fallback)
        request.state.release = answered.release
        request.state.queries = answered.queries
        return Response(answered.body, media_type="application/json")

    async def health(self) -> Health:
        """Always ok while the process answers."""
        return Health(status="ok")

    async def readiness(self) -> Readiness:
        """Ready while a release is at work and the service is not shutting down."""
        self.lifecycle.check_ready()
        return Readiness(status="ready", release=self.lifecycle.release())

    async def exposition(self) -> Response:
        """Requests, latencies, queries, fallbacks, the cache and the release at work."""
        self.metrics.release(self.lifecycle.release())
        self.metrics.cache(self.lifecycle.cache())
        self.metrics.dropped_lines(self.log.dropped)
        return Response(self.metrics.exposition(), media_type=CONTENT_TYPE)


def _check_media_type(request: Request) -> None:
    """Refuse what doesn't say that it is JSON: a form on a foreign page can't say so.

    Raises:
        ApiError: it doesn't.
    """
    declared = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if declared != "application/json":
        raise ApiError(
            415,
            "unsupported_media_type",
            "Send JSON with the header `content-type: application/json`.",
        )
