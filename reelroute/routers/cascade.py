"""The cascade: the local student answers, and passes on what it expects to answer badly."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from reelroute.errors import ReelRouteError
from reelroute.limited_log import LimitedLog
from reelroute.routers.base import Attempt, Deadline, Router, instead_of, is_stopgap
from reelroute.routers.local import LocalRouter
from reelroute.weights import RoutingWeights

_log = logging.getLogger("reelroute")


class CascadeRouter(Router):
    """The local student's answer where it is sure of it, another router's where it is not.

    Where the other one gives no answer, none in time or none that can be read, the local one
    stands, and `weights.router` says so, as in `local (instead of bedrock)`.

    Args:
        local: answers first.
        behind: answers what is passed on.
        pass_on_above: the expected error (0 to 0.5) above which a query is passed on.
    """

    name = "cascade"

    def __init__(self, local: LocalRouter, behind: Router, pass_on_above: float) -> None:
        self.local = local
        self.behind = behind
        self.pass_on_above = pass_on_above
        self._warnings = LimitedLog(_log)

    @property
    def is_remote(self) -> bool:
        """Whether the router behind is."""
        return self.behind.is_remote

    def route(self, query: str) -> RoutingWeights:
        """The weights of the query; `weights.router` says who gave them."""
        return self._answer([query], None)[0]

    def route_many(self, queries: Sequence[str]) -> list[RoutingWeights]:
        """The weights of many queries; what is passed on, is together."""
        return self._answer(queries, None)

    def attempt_many(
        self, queries: Sequence[str], deadline: Deadline | None = None
    ) -> list[Attempt]:
        """The weights of many queries, never without an answer; local ones past the deadline."""
        return [*self._answer(queries, deadline)]

    def close(self) -> None:
        """Close both routers."""
        self.local.close()
        self.behind.close()

    def _answer(self, queries: Sequence[str], deadline: Deadline | None) -> list[RoutingWeights]:
        local = self.local.answer_many(queries)
        answers: list[RoutingWeights] = [*local]
        unsure = [i for i, own in enumerate(local) if own.expected_error > self.pass_on_above]
        if not unsure:
            return answers
        passed_on = self.behind.attempt_many([queries[i] for i in unsure], deadline)
        for i, attempt in zip(unsure, passed_on, strict=True):
            if isinstance(attempt, ReelRouteError) or is_stopgap(attempt):
                answers[i] = local[i].renamed(instead_of(local[i].router, self.behind.name))
            else:
                answers[i] = attempt
        for why in {str(attempt) for attempt in passed_on if isinstance(attempt, ReelRouteError)}:
            self._warnings.warning(f"{why}: answered by the local student")
        return answers
