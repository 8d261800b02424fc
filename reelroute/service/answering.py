"""Asking the router, without holding up the event loop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

from reelroute.errors import ReelRouteError
from reelroute.routers import QueryError, Router
from reelroute.routers.following import ReleaseRouter
from reelroute.service.errors import ApiError
from reelroute.service.lifecycle import release_version
from reelroute.service.logs import QueryLog, is_fallback
from reelroute.service.schemas import RouteAnswer, RouteAnswers, RouteRequest
from reelroute.service.settings import ServiceSettings
from reelroute.weights import RoutingWeights

_log = logging.getLogger(__name__)

Ask = Callable[[Sequence[str]], Sequence[RoutingWeights]]


class Answered(NamedTuple):
    """An answered request.

    Attributes:
        body: the answer as it is sent.
        release: the release that answered.
        queries: what the log says of each query.
    """

    body: str
    release: str | None
    queries: tuple[QueryLog, ...]


class Answering:
    """Asks routers in threads.

    That holds for models in the process too. They let go of Python's lock while they work, so
    that the event loop goes on; asked inside it, models of 2 ms at 200 requests a second on two
    busy cores piled up to several hundred milliseconds at p99, in threads to some tens.
    """

    def __init__(self, settings: ServiceSettings) -> None:
        self._log_queries = settings.log_queries
        self._pool = ThreadPoolExecutor(settings.threads, thread_name_prefix="reelroute-service")

    async def answer(
        self, router: Router, request: RouteRequest, queries: Sequence[str]
    ) -> Answered:
        """The router's answer to a request, whose queries have passed their check.

        Raises:
            ApiError: the router refuses a query or can't be reached.
        """
        loop = asyncio.get_running_loop()
        ask: Ask = router.route_many
        if isinstance(router, ReleaseRouter):  # its deadline counts from here, not from a thread
            ask = partial(router.route_by, router.deadline())
        try:
            return await loop.run_in_executor(
                self._pool, self._answer, router, ask, request, queries
            )
        except QueryError as error:
            raise ApiError(422, "query_refused", f"{error}.") from None
        except ReelRouteError as error:
            _log.warning("%s", error)
            raise ApiError(
                503, "router_unreachable", "The model can't be reached: try again."
            ) from None

    def close(self) -> None:
        """Let threads end with what they do."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _answer(
        self, router: Router, ask: Ask, request: RouteRequest, queries: Sequence[str]
    ) -> Answered:
        # The version is read beside the question: a release that changes between them is a
        # matter of microseconds, not of the time in a queue.
        release = release_version(router)
        found = ask(queries)
        answers = [
            RouteAnswer.of(weights, release, weights.reasoning if request.reasoning else None)
            for weights in found
        ]
        single = request.query is not None
        answer = answers[0] if single else RouteAnswers(answers=tuple(answers))
        logs = tuple(
            QueryLog.of(
                query,
                weights,
                fallback=is_fallback(weights, router),
                with_text=self._log_queries,
            )
            for query, weights in zip(queries, found, strict=True)
        )
        return Answered(answer.model_dump_json(), release, logs)
