"""What a router is."""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

from reelroute.errors import ReelRouteError
from reelroute.weights import RoutingWeights

if TYPE_CHECKING:
    from reelroute.aws import AwsAccess
    from reelroute.routers.following import ReleaseRouter

#: Longer queries are refused: they are no search queries, and every character is paid for.
MAX_QUERY_CHARACTERS: Final = 1_000


class QueryError(ReelRouteError):
    """The query itself can't be routed."""


@dataclass(frozen=True, slots=True)
class Deadline:
    """The moment by which an answer is wanted.

    Attributes:
        milliseconds: what was allowed, for messages.
        at: on the clock of `time.monotonic`.
    """

    milliseconds: float
    at: float

    @classmethod
    def after(cls, milliseconds: float) -> Self:
        """The deadline so many milliseconds from now."""
        return cls(milliseconds, time.monotonic() + milliseconds / 1000)

    def seconds_left(self) -> float:
        """What is left of it, in seconds; 0 once it has passed."""
        return max(0.0, self.at - time.monotonic())


#: What came of asking for one query: its weights, or why there are none.
Attempt = RoutingWeights | ReelRouteError


class Router(ABC):
    """Gives routing weights for a query; `weights.router` says which router answered.

    Attributes:
        name: as `weights.router` shows it.
    """

    name: str

    @property
    def is_remote(self) -> bool:
        """Whether an answer may wait for the network."""
        return False

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

    def attempt_many(
        self, queries: Sequence[str], deadline: Deadline | None = None
    ) -> list[Attempt]:
        """As `route_many`, with the reason where a query has no answer.

        Args:
            queries: the queries.
            deadline: for all of them together. Routers that answer in this process keep it by
                being fast; they don't look at it.

        Raises:
            QueryError: one of the queries is empty or too long.
        """
        return [self._attempt(query) for query in queries]

    def close(self) -> None:  # noqa: B027 (most have nothing to let go of)
        """Let go of threads. A closed router must not be asked any more."""

    def _attempt(self, query: str) -> Attempt:
        try:
            return self.route(query)
        except QueryError:
            raise
        except ReelRouteError as error:
            return error

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
            deadline_ms: the longest that a query, or a call of `route_many`, may wait for a model
                behind the network; None waits as long as the model. A cascade past it answers
                with its local student.
            cache_size: the latest so many queries are answered from memory; 0 caches none.
            fallback: answer by keyword rules where the model gives no answer, and say so in
                `weights.router`; otherwise that is an error.

        Raises:
            ValueError: an argument is out of its range.
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


#: The name of the keyword rules.
RULES: Final = "rules"
#: Ends the name of a router that answered because the one that should have did not.
_INSTEAD: Final = " (instead of {})"


def instead_of(router: str, missing: str) -> str:
    """The name of a router that answers in place of another."""
    return router + _INSTEAD.format(missing)


def is_stopgap(weights: RoutingWeights) -> bool:
    """Whether these weights stand in for those of a model that gave none, or none to be read."""
    return weights.router == RULES or _INSTEAD.partition("{")[0] in weights.router


def check_query(query: str) -> str:
    """The query with single spaces; half a surrogate pair in it becomes U+FFFD.

    Halves come from clients that cut texts in the middle of an emoji.

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
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
