"""Routing weights to a hybrid query of OpenSearch: `python examples/opensearch.py "a dog barks"`.

One sub-query for each channel worth searching: k-NN on the channel's embedding for visual, audio
and transcription, keywords for metadata. The search pipeline normalises each sub-query's scores
and takes their mean, weighted as the router says. Both are sent in one request, since every query
has weights of its own. Needs OpenSearch 2.19 or later, with its k-NN and neural-search plugins.

Documented at docs.opensearch.org: hybrid query (query-dsl/compound/hybrid), its depth
(vector-search/ai-search/hybrid-search/pagination), k-NN query (query-dsl/specialized/k-nn),
normalization processor and temporary search pipelines (search-plugins/search-pipelines).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from reelroute import Modality, Router, RoutingWeights, RulesRouter

Vector = Sequence[float]
#: Embeds a query as the channel's clips were embedded; asked for active channels alone.
Embed = Callable[[str, Modality], Vector]

#: The index's fields: a `knn_vector` for each of three channels, texts for the fourth.
VECTOR_FIELDS: Final[Mapping[Modality, str]] = {
    "visual": "visual_embedding",
    "audio": "audio_embedding",
    "transcription": "transcription_embedding",
}
METADATA_FIELDS: Final = ("title^2", "description", "tags", "people")
#: Hits of each sub-query and shard: normalisation sees no others, and without the depth they
#: would be no more than the clips wanted. 100 to 200 are recommended.
CANDIDATES: Final = 100


def hybrid_search(
    query: str, weights: RoutingWeights, embed: Embed, size: int = 10
) -> dict[str, Any]:
    """The body of `POST /clips/_search` for a routed query.

    Args:
        query: what the user typed.
        weights: the router's; channels that are not active are not searched.
        embed: gives the query's vector for a channel.
        size: clips wanted.
    """
    active = weights.active()  # in one order for both lists below
    return {
        "size": size,
        "_source": {"excludes": list(VECTOR_FIELDS.values())},
        "query": {
            "hybrid": {
                "pagination_depth": CANDIDATES,
                "queries": [_sub_query(query, channel, embed) for channel in active],
            }
        },
        "search_pipeline": pipeline(list(active.values())),
    }


def pipeline(weights: Sequence[float]) -> dict[str, Any]:
    """The search pipeline that fuses sub-queries, weighted in their order."""
    combination = {"technique": "arithmetic_mean", "parameters": {"weights": list(weights)}}
    processor = {"normalization": {"technique": "min_max"}, "combination": combination}
    return {"phase_results_processors": [{"normalization-processor": processor}]}


def _sub_query(query: str, channel: Modality, embed: Embed) -> dict[str, Any]:
    if channel in VECTOR_FIELDS:
        vector = list(embed(query, channel))
        return {"knn": {VECTOR_FIELDS[channel]: {"vector": vector, "k": CANDIDATES}}}
    return {"multi_match": {"query": query, "fields": list(METADATA_FIELDS)}}


def main(query: str, release: str | None = None) -> None:
    """Print the search body of a query, routed by a release or by keyword rules."""
    router: Router = Router.from_release(release, follow_seconds=None) if release else RulesRouter()
    no_vector: Embed = lambda *_: [0.1, 0.2, 0.3]  # noqa: E731 (your embedding models' place)
    print(json.dumps(hybrid_search(query, router.route(query), no_vector), indent=2))


if __name__ == "__main__":
    if not 2 <= len(sys.argv) <= 3:
        sys.exit("usage: python examples/opensearch.py QUERY [RELEASE-POINTER]")
    main(*sys.argv[1:])
