"""Routers: a query in, routing weights out.

`Router.from_release` gives the router of a release and follows newer ones. `route` never raises
because of a model's bad answer: it is repaired, or replaced by keyword rules, and
`weights.router` says so.
"""

from reelroute.routers.base import (
    MAX_QUERY_CHARACTERS,
    Attempt,
    Deadline,
    QueryError,
    Router,
    check_query,
    is_stopgap,
)
from reelroute.routers.bedrock import BedrockRouter
from reelroute.routers.cascade import CascadeRouter
from reelroute.routers.local import ExplainedWeights, LocalRouter
from reelroute.routers.rules import RulesRouter

__all__ = [
    "MAX_QUERY_CHARACTERS",
    "Attempt",
    "BedrockRouter",
    "CascadeRouter",
    "Deadline",
    "ExplainedWeights",
    "LocalRouter",
    "QueryError",
    "Router",
    "RulesRouter",
    "check_query",
    "is_stopgap",
]
