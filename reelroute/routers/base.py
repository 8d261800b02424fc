"""What a router is."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from reelroute.errors import ReelRouteError
from reelroute.weights import RoutingWeights

if TYPE_CHECKING:
    from reelroute.aws import AwsAccess
    from reelroute.routers.following import ReleaseRouter

#: Longer queries are refused: they are no search queries, and every character is paid for.
MAX_QUERY_CHARACTERS: Final = 1_000


class QueryError(ReelRouteError):
    """The query itself can't be routed."""


class Router(ABC):
    """Gives routing weights for a query; `weights.router` says which router answered.

    Attributes:
        name: as `weights.router` shows it.
        is_remote: whether an answer may wait for the network.
    """

    name: str
    is_remote: bool = False

    @abstractmethod
    def route(self, query: str) -> RoutingWeights:
        """The weights of one query.

        Raises:
            QueryError: the query is empty or too long.
            ReelRouteError: the router can't be reached.
        """

    def route_many(self, queries: Sequence[str]) -> list[RoutingWeights]:
        """The weights of many queries, in their order.

        Raises:
            ReelRouteError: as `route`, for any of them.
        """
        return [self.route(query) for query in queries]

    async def aroute(self, query: str) -> RoutingWeights:
        """`route`, without blocking the event loop."""
        return await asyncio.to_thread(self.route, query)

    async def aroute_many(self, queries: Sequence[str]) -> list[RoutingWeights]:
        """`route_many`, without blocking the event loop."""
        return await asyncio.to_thread(self.route_many, queries)

    @staticmethod
    def from_release(
        uri: str,
        access: AwsAccess | None = None,
        *,
        follow_seconds: float | None = 30.0,
        deadline_ms: float | None = 2_000.0,
        cache_size: int = 10_000,
        fallback: bool = True,
    ) -> ReleaseRouter:
        """The router of the release that a pointer names, following it to newer releases.

        Args:
            uri: `s3://bucket/releases/current.json`, or the path of a pointer file with its
                release beside it.
            access: how AWS is reached; without it, the standard AWS chain.
            follow_seconds: how often the pointer is looked at in the background; None never.
            deadline_ms: the longest that one query may take; None waits as long as the model.
            cache_size: the latest so many queries are answered from memory; 0 caches none.
            fallback: answer by keyword rules where the model can't be reached, and say so in
                `weights.router`; otherwise that is an error.

        Raises:
            ReleaseError: pointer, release or model are missing or fail their check.
            AwsError: AWS can't be reached.
        """
        from reelroute.aws import AwsAccess
        from reelroute.routers.following import ReleaseRouter

        return ReleaseRouter(
            uri,
            access or AwsAccess(),
            follow_seconds=follow_seconds,
            deadline_ms=deadline_ms,
            cache_size=cache_size,
            fallback=fallback,
        )


def check_query(query: str) -> str:
    """The query with single spaces.

    Raises:
        QueryError: it is empty or longer than `MAX_QUERY_CHARACTERS`.
    """
    text = " ".join(query.split())
    if not text:
        raise QueryError("the query is empty")
    if len(text) > MAX_QUERY_CHARACTERS:
        raise QueryError(
            f"the query has {len(text)} characters, at most {MAX_QUERY_CHARACTERS} are routed"
        )
    return text
