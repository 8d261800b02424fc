"""The student's network in torch: pure functions over a dictionary of named tensors.

A BERT encoder (Devlin et al., NAACL 2019; post-norm, GELU), the mean over its tokens, one linear
head, and the wide part (`reelroute.student.wide`) added to it; beside the head, one output for
the query's language. `reelroute.student.export` writes the same network as ONNX.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from reelroute.student.encoder import LAYER_NORM_EPSILON
from reelroute.student.wide import PAIR_BUCKETS, PAIR_FACTOR

if TYPE_CHECKING:
    from torch import Tensor

Parameters = Mapping[str, "Tensor"]


def embed(parameters: Parameters, tokens: Tensor) -> Tensor:
    """Token ids (queries, tokens) to the encoder's input (queries, tokens, width)."""
    from torch.nn import functional

    embedded = functional.embedding(tokens, parameters["word"])
    return _norm(parameters, "norm", embedded + parameters["position"][: tokens.shape[1]])


def encode(
    parameters: Parameters,
    hidden: Tensor,
    mask: Tensor | None,
    *,
    layers: range,
    heads: int,
    dropout: float = 0.0,
) -> Tensor:
    """Run transformer layers.

    Args:
        parameters: the network's tensors.
        hidden: (queries, tokens, width).
        mask: (queries, tokens), true where there is a token; None if all queries are as long.
        layers: which layers, in order.
        heads: attention heads of a layer.
        dropout: the share of each branch's output that is dropped; 0 outside training.
    """
    attended = None if mask is None else mask[:, None, None, :]
    for layer in layers:
        hidden = _layer(parameters, f"layer.{layer}", hidden, attended, heads, dropout)
    return hidden


def pool(hidden: Tensor, mask: Tensor | None, dropout: float = 0.0) -> Tensor:
    """The mean (queries, width) of the last layer's (queries, tokens, width)."""
    from torch.nn import functional

    if mask is None:
        pooled = hidden.mean(dim=1)
    else:
        kept = mask.unsqueeze(2).to(hidden.dtype)
        pooled = (hidden * kept).sum(dim=1) / kept.sum(dim=1)
    return functional.dropout(pooled, dropout, training=dropout > 0)


def head(parameters: Parameters, pooled: Tensor) -> Tensor:
    """The outputs (queries, `OUTPUTS`) from the pooled (queries, width)."""
    return _linear(parameters, "head", pooled)


def language(parameters: Parameters, pooled: Tensor) -> Tensor:
    """The logit (queries,) of a language that the encoder doesn't know."""
    return _linear(parameters, "language", pooled)[:, 0]


def wide(parameters: Parameters, tokens: Tensor) -> Tensor:
    """What the wide part adds to the head: (queries, `OUTPUTS`) for ids (queries, tokens)."""
    import torch
    from torch.nn import functional

    table = parameters["wide.table"]
    pairs = (tokens[:, :-1] * PAIR_FACTOR + tokens[:, 1:]) % PAIR_BUCKETS
    rows = torch.cat([tokens, pairs + (len(table) - PAIR_BUCKETS)], dim=1)
    return functional.embedding_bag(rows, table, mode="sum") / rows.shape[1] ** 0.5


def _layer(
    parameters: Parameters,
    name: str,
    hidden: Tensor,
    mask: Tensor | None,
    heads: int,
    dropout: float,
) -> Tensor:
    from torch.nn import functional

    queries, tokens, width = hidden.shape
    projected = _linear(parameters, f"{name}.qkv", hidden)
    query, key, value = projected.view(queries, tokens, 3, heads, width // heads).permute(
        2, 0, 3, 1, 4
    )
    context = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    context = context.transpose(1, 2).reshape(queries, tokens, width)
    attended = _linear(parameters, f"{name}.out", context)
    attended = functional.dropout(attended, dropout, training=dropout > 0)
    hidden = _norm(parameters, f"{name}.norm1", hidden + attended)
    inner = functional.gelu(_linear(parameters, f"{name}.up", hidden))
    outer = _linear(parameters, f"{name}.down", inner)
    outer = functional.dropout(outer, dropout, training=dropout > 0)
    return _norm(parameters, f"{name}.norm2", hidden + outer)


def _linear(parameters: Parameters, name: str, value: Tensor) -> Tensor:
    from torch.nn import functional

    return functional.linear(value, parameters[f"{name}.weight"], parameters[f"{name}.bias"])


def _norm(parameters: Parameters, name: str, value: Tensor) -> Tensor:
    from torch.nn import functional

    weight, bias = parameters[f"{name}.weight"], parameters[f"{name}.bias"]
    return functional.layer_norm(value, weight.shape, weight, bias, LAYER_NORM_EPSILON)
