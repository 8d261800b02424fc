"""The hybrid query of the example, against what OpenSearch documents."""

from __future__ import annotations

import importlib.util
import json
import math
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reelroute.weights import MODALITIES, Modality, RoutingWeights, round_to_grid

EXAMPLE: Final = Path(__file__).parents[2] / "examples" / "opensearch.py"


def load_example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("opensearch_example", EXAMPLE)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


example = load_example()


def exactly(**properties: Any) -> dict[str, Any]:
    """An object with these keys, all required, and no others."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def one_of_a_field(inner: dict[str, Any]) -> dict[str, Any]:
    """An object with one key, the name of a field."""
    return {
        "type": "object",
        "minProperties": 1,
        "maxProperties": 1,
        "patternProperties": {"^[a-z][a-z_.]*$": inner},
        "additionalProperties": False,
    }


# Written by hand from docs.opensearch.org, the part that the example uses:
# - query-dsl/specialized/k-nn: `vector`, an array of floats; `k` in [1, 10,000].
KNN = exactly(
    knn=one_of_a_field(
        exactly(
            vector={"type": "array", "items": {"type": "number"}, "minItems": 1},
            k={"type": "integer", "minimum": 1, "maximum": 10_000},
        )
    )
)
# - query-dsl/full-text/multi-match: `query`, `fields` with boosts as in `title^4`.
MULTI_MATCH = exactly(
    multi_match=exactly(
        query={"type": "string"},
        fields={
            "type": "array",
            "items": {"type": "string", "pattern": r"^[a-z][a-z_.]*(\^[0-9.]+)?$"},
            "minItems": 1,
        },
    )
)
# - query-dsl/compound/hybrid: `queries`, one or more and at most 5; only at the top level.
HYBRID = exactly(
    hybrid=exactly(
        # vector-search/ai-search/hybrid-search/pagination, up to `index.max_result_window`
        pagination_depth={"type": "integer", "minimum": 1, "maximum": 10_000},
        queries={
            "type": "array",
            "minItems": 1,
            "maxItems": 5,
            "items": {"oneOf": [KNN, MULTI_MATCH]},
        },
    )
)
# - search-plugins/search-pipelines/normalization-processor: the techniques; `weights` each in
#   [0, 1], as many as there are queries, adding up to 1 (the last two are tested apart).
PROCESSOR = exactly(
    normalization=exactly(technique={"enum": ["min_max", "l2", "z_score"]}),
    combination=exactly(
        technique={"enum": ["arithmetic_mean", "geometric_mean", "harmonic_mean"]},
        parameters=exactly(
            weights={"type": "array", "items": {"type": "number", "minimum": 0, "maximum": 1}}
        ),
    ),
)
# - search-plugins/search-pipelines/using-search-pipeline: a temporary pipeline in the body.
SEARCH = exactly(
    size={"type": "integer", "minimum": 0},
    _source=exactly(excludes={"type": "array", "items": {"type": "string"}}),
    query=HYBRID,
    search_pipeline=exactly(
        phase_results_processors={
            "type": "array",
            "minItems": 1,
            "items": exactly(**{"normalization-processor": PROCESSOR}),
        }
    ),
)

on_the_grid = st.lists(st.integers(0, 20), min_size=4, max_size=4).filter(any)


def embed(query: str, channel: Modality) -> list[float]:
    return [float(len(query)), float(MODALITIES.index(channel))]


def searched(body: dict[str, Any]) -> list[str]:
    """The channels of a body's sub-queries, in their order."""
    channels = {field: channel for channel, field in example.VECTOR_FIELDS.items()}
    return [
        channels[next(iter(sub["knn"]))] if "knn" in sub else "metadata"
        for sub in body["query"]["hybrid"]["queries"]
    ]


def weights_of(body: dict[str, Any]) -> list[float]:
    (processor,) = body["search_pipeline"]["phase_results_processors"]
    found: list[float] = processor["normalization-processor"]["combination"]["parameters"][
        "weights"
    ]
    return found


@given(counts=on_the_grid, query=st.text(max_size=50))
def test_every_body_is_what_opensearch_documents(counts: list[int], query: str) -> None:
    weights = RoutingWeights(**round_to_grid([float(count) for count in counts]))
    body = example.hybrid_search(query, weights, embed)
    jsonschema.validate(json.loads(json.dumps(body)), SEARCH)
    assert searched(body) == list(weights.active())
    assert weights_of(body) == list(weights.active().values())
    assert math.isclose(math.fsum(weights_of(body)), 1)


def test_weights_stand_in_the_order_of_their_sub_queries() -> None:
    weights = RoutingWeights(visual=0.2, audio=0.0, transcription=0.7, metadata=0.1)
    body = example.hybrid_search("CEO on earnings", weights, embed, size=5)
    assert searched(body) == ["visual", "transcription", "metadata"]
    assert weights_of(body) == pytest.approx([0.2, 0.7, 0.1])
    visual, transcription, metadata = body["query"]["hybrid"]["queries"]
    assert visual["knn"]["visual_embedding"] == {"vector": [15.0, 0.0], "k": 100}
    assert transcription["knn"]["transcription_embedding"]["vector"] == [15.0, 2.0]
    assert metadata["multi_match"]["query"] == "CEO on earnings"
    assert body["size"] == 5


def test_channels_that_are_not_searched_are_not_embedded() -> None:
    asked: list[str] = []

    def counted(query: str, channel: Modality) -> list[float]:
        asked.append(channel)
        return [1.0]

    weights = RoutingWeights(visual=0.0, audio=0.97, transcription=0.03, metadata=0.0)
    body = example.hybrid_search("a dog barks", weights, counted)
    assert asked == ["audio"]
    assert weights_of(body) == [1.0]


@pytest.mark.parametrize("spoil", ["pipeline", "wights", "k", "sub-query"])
def test_the_schema_notices_what_is_not_documented(spoil: str) -> None:
    body = example.hybrid_search("a dog", RoutingWeights.uniform(), embed)
    (processor,) = body["search_pipeline"]["phase_results_processors"]
    if spoil == "pipeline":
        body["pipeline"] = body.pop("search_pipeline")
    elif spoil == "wights":
        parameters = processor["normalization-processor"]["combination"]["parameters"]
        parameters["wights"] = parameters.pop("weights")
    elif spoil == "k":
        body["query"]["hybrid"]["queries"][0]["knn"]["visual_embedding"]["k"] = 0
    else:
        body["query"]["hybrid"]["queries"].append({"bool": {}})
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(body, SEARCH)


def test_it_runs_as_a_program() -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLE), "loud barking"], capture_output=True, text=True, check=True
    )
    body = json.loads(done.stdout)
    jsonschema.validate(body, SEARCH)
    assert "audio" in searched(body)
