"""ReelRoute: intent routing for video search.

Routing weights for a query in milliseconds, from the release that the distillation pipeline
promoted last.
"""

from reelroute.errors import ReelRouteError
from reelroute.parsing import ParsedAnswer, parse_forgiving, parse_strict
from reelroute.routers import Router, RulesRouter
from reelroute.weights import MODALITIES, Modality, RoutingWeights, round_to_grid

__version__ = "0.1.0"

__all__ = [
    "MODALITIES",
    "Modality",
    "ParsedAnswer",
    "ReelRouteError",
    "Router",
    "RoutingWeights",
    "RulesRouter",
    "__version__",
    "parse_forgiving",
    "parse_strict",
    "round_to_grid",
]
