"""The student's network as an ONNX file, in float32 or with int8 weights.

The graph is written node by node rather than traced: it uses ONNX Runtime's fused operators
(`com.microsoft` domain: MultiHeadAttention, Gelu, MatMulIntegerToFloat), fifteen nodes a layer,
because at a dozen tokens the cost of a node matters as much as arithmetic.
All queries of a batch have the same number of tokens, so nothing is padded and nothing masked.

int8: each matrix gets one symmetric scale an output; the word embeddings and the wide part's table
get one scale a row. Activations get one scale a tensor, from the range that they take over
training queries. Ranges taken from each input as it comes would do as well, but then the answer
to a query would depend on the others of its batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from reelroute.student.batches import Tokens
from reelroute.student.encoder import LAYER_NORM_EPSILON, Weights
from reelroute.student.model import INPUT, LANGUAGE, LOGITS
from reelroute.student.wide import PAIR_BUCKETS, PAIR_FACTOR

_OPSET: Final = 17
_MICROSOFT: Final = "com.microsoft"
_IR_VERSION: Final = 8

#: Each matrix's name and the least and the largest value that it is multiplied with.
Ranges = Mapping[str, tuple[float, float]]
#: A range holds all values of this share of the queries; what lies outside is clipped.
_WITHIN_RANGE: Final = 0.99
_SMALLEST_RANGE: Final = 1e-6
#: They are taken from so many queries.
_RANGE_QUERIES: Final = 400


def activation_ranges(weights: Weights, tokens: Tokens, *, layers: int, heads: int) -> Ranges:
    """How far the activations before each matrix reach, in float32.

    Args:
        weights: as `write_onnx` takes them.
        tokens: of some training queries; a few hundred are enough.
        layers: how many layers the network has.
        heads: attention heads of a layer.
    """
    import onnxruntime

    graph = _Graph(None)
    model = _model(graph, weights, layers, heads)
    inputs = graph.linear_inputs
    shape = ["queries", "tokens", None]
    model.graph.output.extend(_value(name, "FLOAT", shape) for name in set(inputs.values()))
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    extremes = np.array(
        [
            [
                (found.min(), found.max())
                for found in session.run(list(inputs.values()), {INPUT: [ids]})
            ]
            for ids in tokens
        ]
    )
    least = np.quantile(extremes[:, :, 0], 1 - _WITHIN_RANGE, axis=0)
    largest = np.quantile(extremes[:, :, 1], _WITHIN_RANGE, axis=0)
    pairs = zip(inputs, least.tolist(), largest.tolist(), strict=True)
    # Zero must be in the range, to be represented exactly.
    return {name: (min(low, 0.0), max(high, 0.0)) for name, low, high in pairs}


def write_int8(weights: Weights, tokens: Tokens, path: Path, *, layers: int, heads: int) -> None:
    """Write a network in int8, the ranges of its activations taken from training queries.

    Args:
        weights: as `write_onnx` takes them.
        tokens: the training queries', in an order that says nothing.
        path: the file to write.
        layers: how many layers the network has.
        heads: attention heads of a layer.
    """
    ranges = activation_ranges(weights, tokens[:_RANGE_QUERIES], layers=layers, heads=heads)
    write_onnx(weights, path, layers=layers, heads=heads, ranges=ranges)


def write_onnx(
    weights: Weights, path: Path, *, layers: int, heads: int, ranges: Ranges | None
) -> None:
    """Write a network as an ONNX file.

    Input `tokens`: int64 (queries, tokens), all queries equally long. Outputs, float32: `logits`
    (queries, outputs of the head) and `language` (queries, 1), the logit of an unknown language.

    Args:
        weights: as `network_weights` gives them, those of `head` and `language`, and `wide.table`.
        path: the file to write.
        layers: how many layers the network has.
        heads: attention heads of a layer.
        ranges: of the activations, from `activation_ranges`: matrices, word embeddings and the
            wide part's table are then stored in int8, and the matrices multiplied in it. None
            leaves everything in float32.
    """
    import onnx

    onnx.save(_model(_Graph(ranges), weights, layers, heads), str(path))


def _model(graph: _Graph, weights: Weights, layers: int, heads: int) -> Any:
    """The whole network, built in an empty graph."""
    from onnx import helper

    hidden = graph.embeddings(weights)
    for layer in range(layers):
        hidden = graph.layer(weights, f"layer.{layer}", hidden, heads)
    pooled = graph.node("ReduceMean", [hidden], "pooled", axes=[1], keepdims=0)
    deep = graph.head(weights, "head", pooled, "head.sum")
    graph.node("Add", [deep, graph.wide(weights["wide.table"])], LOGITS)
    graph.head(weights, "language", pooled, LANGUAGE)
    outputs = len(weights["head.bias"])
    return helper.make_model(
        helper.make_graph(
            graph.nodes,
            "student",
            [_value(INPUT, "INT64", ["queries", "tokens"])],
            [
                _value(LOGITS, "FLOAT", ["queries", outputs]),
                _value(LANGUAGE, "FLOAT", ["queries", 1]),
            ],
            initializer=graph.constants,
        ),
        producer_name="reelroute",
        opset_imports=[helper.make_opsetid("", _OPSET), helper.make_opsetid(_MICROSOFT, 1)],
        ir_version=_IR_VERSION,
    )


def _value(name: str, kind: str, shape: Sequence[str | int | None]) -> Any:
    """An input or output of the graph, declared."""
    from onnx import TensorProto, helper

    return helper.make_tensor_value_info(name, TensorProto.DataType.Value(kind), shape)


def quantise(matrix: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """A matrix in int8 with one symmetric scale a row: `matrix ≈ int8 * scale[:, None]`."""
    peak = np.abs(matrix).max(axis=1)
    scale = (np.where(peak > 0, peak, 1.0) / 127).astype(np.float32)
    return np.round(matrix / scale[:, None]).astype(np.int8), scale


class _Graph:
    """The nodes and constants of the graph while it is written."""

    def __init__(self, ranges: Ranges | None) -> None:
        self._ranges = ranges
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        #: What each quantisable matrix is multiplied with.
        self.linear_inputs: dict[str, str] = {}

    def constant(self, name: str, value: NDArray[Any]) -> str:
        from onnx import numpy_helper

        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def node(
        self, kind: str, inputs: list[str], output: str, domain: str = "", **attributes: Any
    ) -> str:
        """Add a node with one output; its name is the output's."""
        from onnx import helper

        self.nodes.append(
            helper.make_node(kind, inputs, [output], name=output, domain=domain, **attributes)
        )
        return output

    def embeddings(self, weights: Weights) -> str:
        words = self._rows("word", weights["word"], INPUT)
        shape = self.node("Shape", [INPUT], "token_count", start=1, end=2)
        positions = self.node(
            "Slice",
            [
                self.constant("position", weights["position"]),
                self.integers("first", 0),
                shape,
                self.integers("axis", 0),
            ],
            "positions",
        )
        total = self.node("Add", [words, positions], "embedded")
        return self._layer_norm(weights, "norm", total)

    def layer(self, weights: Weights, name: str, hidden: str, heads: int) -> str:
        """One transformer layer: attention and feed-forward, each with its residual and norm."""
        from onnx import helper

        projected = self._linear(weights, f"{name}.qkv", hidden)
        split = [f"{name}.{part}" for part in ("query", "key", "value")]
        self.nodes.append(
            helper.make_node("Split", [projected], split, name=f"{name}.split", axis=-1)
        )
        context = self.node(
            "MultiHeadAttention", split, f"{name}.context", domain=_MICROSOFT, num_heads=heads
        )
        attended = self._linear(weights, f"{name}.out", context)
        hidden = self._skip_norm(weights, f"{name}.norm1", attended, hidden)
        inner = self.node(
            "Gelu", [self._linear(weights, f"{name}.up", hidden)], f"{name}.gelu", _MICROSOFT
        )
        return self._skip_norm(
            weights, f"{name}.norm2", self._linear(weights, f"{name}.down", inner), hidden
        )

    def head(self, weights: Weights, name: str, pooled: str, output: str) -> str:
        """A linear output. It is small and the last word: it stays in float32."""
        matrix = self.constant(f"{name}.weight", weights[f"{name}.weight"].T)
        product = self.node("MatMul", [pooled, matrix], f"{name}.product")
        bias = self.constant(f"{name}.bias", weights[f"{name}.bias"])
        return self.node("Add", [product, bias], output)

    def wide(self, table: NDArray[np.float32]) -> str:
        """The wide part: the features' rows of its table, summed, over the root of their count."""
        from onnx import TensorProto

        first, last = (
            self.node(
                "Slice",
                [INPUT, *(self.integers(f"wide.{name}.{at}", value) for at, value in bounds)],
                f"wide.{name}",
            )
            for name, bounds in (
                ("firsts", (("start", 0), ("end", -1), ("axis", 1))),
                ("seconds", (("start", 1), ("end", 2**31 - 1), ("axis", 1))),
            )
        )
        scaled = self.node("Mul", [first, self.integers("wide.factor", PAIR_FACTOR)], "wide.scaled")
        mixed = self.node("Add", [scaled, last], "wide.mixed")
        hashed = self.node("Mod", [mixed, self.integers("wide.buckets", PAIR_BUCKETS)], "wide.hash")
        pairs = self.node(
            "Add", [hashed, self.integers("wide.offset", len(table) - PAIR_BUCKETS)], "wide.pairs"
        )
        features = self.node("Concat", [INPUT, pairs], "wide.features", axis=1)
        rows = self._rows("wide.table", table, features)
        total = self.node(
            "ReduceSum", [rows, self.integers("wide.axis", 1)], "wide.total", keepdims=0
        )
        shape = self.node("Shape", [features], "wide.count", start=1, end=2)
        count = self.node("Cast", [shape], "wide.count.float", to=TensorProto.FLOAT)
        return self.node("Div", [total, self.node("Sqrt", [count], "wide.root")], "wide.outputs")

    def integers(self, name: str, value: int) -> str:
        """A constant of one int64."""
        return self.constant(name, np.array([value], dtype=np.int64))

    def _rows(self, name: str, table: NDArray[np.float32], places: str) -> str:
        """The table's rows at these places, in float32."""
        if self._ranges is None:
            return self.node("Gather", [self.constant(name, table), places], f"{name}.rows", axis=0)
        from onnx import TensorProto

        values, scale = quantise(table)
        rows = self.node("Gather", [self.constant(name, values), places], f"{name}.int8", axis=0)
        scales = self.node(
            "Gather",
            [self.constant(f"{name}.scale", scale[:, None]), places],
            f"{name}.scales",
            axis=0,
        )
        floats = self.node("Cast", [rows], f"{name}.floats", to=TensorProto.FLOAT)
        return self.node("Mul", [floats, scales], f"{name}.rows")

    def _linear(self, weights: Weights, name: str, hidden: str) -> str:
        self.linear_inputs[name] = hidden
        matrix = weights[f"{name}.weight"]
        bias = self.constant(f"{name}.bias", weights[f"{name}.bias"])
        if self._ranges is None:
            product = self.node(
                "MatMul", [hidden, self.constant(f"{name}.weight", matrix.T)], f"{name}.product"
            )
            return self.node("Add", [product, bias], f"{name}.sum")
        least, largest = self._ranges[name]
        step = max(largest - least, _SMALLEST_RANGE) / 255
        input_scale = self.constant(f"{name}.input.scale", np.array(step, dtype=np.float32))
        input_zero = self.constant(
            f"{name}.input.zero", np.array(round(-least / step), dtype=np.uint8)
        )
        rounded = self.node("QuantizeLinear", [hidden, input_scale, input_zero], f"{name}.input")
        values, scale = quantise(matrix)
        inputs = [
            rounded,
            self.constant(f"{name}.weight", values.T),
            input_scale,
            self.constant(f"{name}.scale", scale),
            input_zero,
            self.constant(f"{name}.zero", np.zeros(len(scale), dtype=np.int8)),
            bias,
        ]
        return self.node("MatMulIntegerToFloat", inputs, f"{name}.sum", _MICROSOFT)

    def _skip_norm(self, weights: Weights, name: str, branch: str, skip: str) -> str:
        # ONNX Runtime's fused SkipLayerNormalization takes twice as long as the two nodes.
        total = self.node("Add", [branch, skip], f"{name}.sum")
        return self._layer_norm(weights, name, total)

    def _layer_norm(self, weights: Weights, name: str, value: str) -> str:
        return self.node(
            "LayerNormalization",
            [
                value,
                self.constant(f"{name}.weight", weights[f"{name}.weight"]),
                self.constant(f"{name}.bias", weights[f"{name}.bias"]),
            ],
            f"{name}.normed",
            axis=-1,
            epsilon=LAYER_NORM_EPSILON,
        )
