"""The cascade: the local student answers, and passes on what it expects to answer badly."""

from __future__ import annotations

import logging

from reelroute.errors import ReelRouteError
from reelroute.routers.base import Router, check_query
from reelroute.routers.local import LocalRouter
from reelroute.routers.rules import RulesRouter
from reelroute.weights import RoutingWeights

_log = logging.getLogger("reelroute")


class CascadeRouter(Router):
    """The local student's answer where it is sure of it, another router's where it is not.

    Args:
        local: answers first.
        behind: answers what is passed on; where it fails, the local answer stands.
        pass_on_above: the expected error (0 to 0.5) from which a query is passed on.
    """

    name = "cascade"
    is_remote = True

    def __init__(self, local: LocalRouter, behind: Router, pass_on_above: float) -> None:
        self.local = local
        self.behind = behind
        self.pass_on_above = pass_on_above

    def route(self, query: str) -> RoutingWeights:
        """The weights of the query; `weights.router` says who gave them."""
        text = check_query(query)
        answer = self.local.route(text)
        if answer.expected_error <= self.pass_on_above:
            return answer
        try:
            passed_on = self.behind.route(text)
        except ReelRouteError as error:
            _log.warning("%s: answered by the local student", error)
            return answer
        return answer if passed_on.router == RulesRouter.name else passed_on
