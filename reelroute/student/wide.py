"""The wide part: a linear model of a query's word pieces and pairs of neighbours.

It stands beside the encoder (wide and deep: Cheng et al., DLRS 2016): each is trained on its own,
and their outputs are averaged. Alone it is much the weaker, but it errs elsewhere; it takes
seconds to train and hardly any time to answer.

A query of n tokens has 2n − 1 features, its tokens and its pairs of neighbours, these hashed into
`PAIR_BUCKETS`. Its outputs are the sum of the features' rows in a table over the root of how many
they are, plus a bias.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from reelroute.student.batches import Tokens
from reelroute.student.encoder import Weights
from reelroute.student.grid import OUTPUTS, Floats
from reelroute.student.settings import TrainSettings

if TYPE_CHECKING:
    from torch import Tensor

#: A pair (a, b) has the hash `(a * PAIR_FACTOR + b) mod PAIR_BUCKETS`.
PAIR_BUCKETS: Final = 2**15
PAIR_FACTOR: Final = 30_011

_BATCH: Final = 64
_BIAS_RATE: Final = 2e-3


def features(tokens: Sequence[int], vocabulary: int) -> NDArray[np.int64]:
    """The rows of the table that a query's token ids stand for, (2n − 1,).

    Args:
        tokens: at least one id below `vocabulary`.
        vocabulary: how many tokens there are: the first row of the pairs.
    """
    ids = np.asarray(tokens, dtype=np.int64)
    pairs = vocabulary + (ids[:-1] * PAIR_FACTOR + ids[1:]) % PAIR_BUCKETS
    return np.concatenate([ids, pairs])


def wide_outputs(weights: Weights, tokens: Tokens) -> Floats:
    """The wide part's outputs, (queries, `OUTPUTS`), computed by numpy."""
    table, bias = weights["wide.table"], weights["wide.bias"]
    rows = [features(query, len(table) - PAIR_BUCKETS) for query in tokens]
    outputs: Floats = np.stack([table[row].sum(axis=0) / np.sqrt(len(row)) + bias for row in rows])
    return outputs


def fit_wide(
    tokens: Tokens,
    loss: Callable[[Tensor, Any], Tensor],
    vocabulary: int,
    settings: TrainSettings,
) -> Weights:
    """Fit the wide part alone by AdaGrad (Duchi et al., JMLR 2011), which suits rare features.

    Args:
        tokens: the training rows'.
        loss: of outputs (rows, `OUTPUTS`) against the labels of the rows at these positions.
        vocabulary: how many tokens there are.
        settings: the recipe.

    Returns:
        `wide.table` (vocabulary + `PAIR_BUCKETS`, `OUTPUTS`) and `wide.bias` (`OUTPUTS`,).
    """
    import torch
    from torch.nn.functional import embedding_bag

    with torch.sparse.check_sparse_tensor_invariants(enable=False):
        random = np.random.default_rng(settings.seed)
        rows = [features(query, vocabulary) for query in tokens]
        table = torch.zeros(vocabulary + PAIR_BUCKETS, OUTPUTS, requires_grad=True)
        bias = torch.zeros(OUTPUTS, requires_grad=True)
        optimisers = (
            torch.optim.Adagrad([table], lr=settings.wide_learning_rate),
            torch.optim.Adam([bias], lr=_BIAS_RATE),
        )
        for _ in range(settings.wide_epochs):
            order = random.permutation(len(rows))
            for start in range(0, len(order), _BATCH):
                batch = order[start : start + _BATCH]
                taken = [rows[place] for place in batch]
                lengths = np.array([len(row) for row in taken])
                outputs = bias + embedding_bag(
                    torch.from_numpy(np.concatenate(taken)),
                    table,
                    torch.from_numpy(lengths.cumsum() - lengths),
                    mode="sum",
                    sparse=True,
                    per_sample_weights=torch.from_numpy(
                        np.repeat(lengths**-0.5, lengths).astype(np.float32)
                    ),
                )
                for optimiser in optimisers:
                    optimiser.zero_grad(set_to_none=True)
                loss(outputs, batch).backward()
                for optimiser in optimisers:
                    optimiser.step()
    return {"wide.table": table.detach().numpy(), "wide.bias": bias.detach().numpy()}


def averaged(deep: Weights, wide: Weights, share: float) -> Weights:
    """The weights of a network that gives `(1 − share) * deep + share * wide`.

    Both are linear at their end, so the shares go into the last weights.
    """
    return {
        **deep,
        "head.weight": (1 - share) * deep["head.weight"],
        "head.bias": (1 - share) * deep["head.bias"] + share * wide["wide.bias"],
        "wide.table": share * wide["wide.table"],
    }
