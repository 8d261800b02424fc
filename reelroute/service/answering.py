"""Asking the router without holding up the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, NamedTuple

from reelroute.routers import Router
from reelroute.service.lifecycle import release_version
from reelroute.weights import RoutingWeights


class Answered(NamedTuple):
    """What a router said, and for which release."""

    release: str | None
    weights: list[RoutingWeights]
    reasoning: list[str | None]


class Answering:
    """Asks routers: in the event loop where that takes no longer than a thread's hand-over."""

    #: Queries that a router in the process answers in a few milliseconds.
    _INLINE: Final = 4

    def __init__(self, threads: int) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="reelroute-service")

    async def answer(self, router: Router, queries: Sequence[str], reasoning: bool) -> Answered:
        """The router's weights for the queries, and why if asked.

        Raises:
            ReelRouteError: the router can't be reached.
        """
        if not router.is_remote and not reasoning and len(queries) <= self._INLINE:
            return _ask(router, queries, reasoning)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._pool, _ask, router, queries, reasoning)

    def close(self) -> None:
        """Let threads end with what they do."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def _ask(router: Router, queries: Sequence[str], reasoning: bool) -> Answered:
    # The version is read beside the question: a release that changes between them is a matter
    # of microseconds, not of the time in a queue.
    version = release_version(router)
    weights = router.route_many(queries) if len(queries) > 1 else [router.route(queries[0])]
    return Answered(version, weights, [w.reasoning if reasoning else None for w in weights])
