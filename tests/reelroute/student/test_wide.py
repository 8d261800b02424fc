from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from reelroute.student.grid import OUTPUTS, Decoder
from reelroute.student.settings import TrainSettings
from reelroute.student.wide import PAIR_BUCKETS, averaged, features, fit_wide, wide_outputs

VOCABULARY = 50


def test_a_query_has_its_tokens_and_its_pairs() -> None:
    found = features([7, 8, 9], VOCABULARY)
    assert found[:3].tolist() == [7, 8, 9]
    assert len(found) == 5
    assert ((found[3:] >= VOCABULARY) & (found[3:] < VOCABULARY + PAIR_BUCKETS)).all()
    assert features([8, 7], VOCABULARY)[2] not in found


def test_outputs_are_the_sum_of_rows_over_the_root_of_their_count() -> None:
    table = np.random.default_rng(0).normal(size=(VOCABULARY + PAIR_BUCKETS, OUTPUTS))
    weights = {"wide.table": table.astype("f4"), "wide.bias": np.full(OUTPUTS, 0.5, "f4")}
    (outputs,) = wide_outputs(weights, [[3, 4]])
    pair = features([3, 4], VOCABULARY)[2]
    expected = (table[3] + table[4] + table[pair]) / 3**0.5 + 0.5
    assert outputs == pytest.approx(expected, rel=1e-5)


def test_it_learns_from_words_and_from_their_order() -> None:
    torch = pytest.importorskip("torch")
    # The same words, the labels by their order alone.
    tokens = [[1, 5, 6, 2], [1, 6, 5, 2]] * 40
    labels = np.array([[16, 2, 1, 1], [1, 2, 16, 1]] * 40)
    targets = torch.tensor(labels)

    def loss(outputs: Any, rows: Any) -> Any:
        logits = outputs.view(len(rows), 4, -1)
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets[rows].flatten())

    settings = TrainSettings(wide_epochs=30, wide_learning_rate=0.5)
    weights = fit_wide(tokens, loss, VOCABULARY, settings)
    decoder = Decoder.of_labels(labels)
    assert decoder.decode(wide_outputs(weights, tokens[:2])).steps.tolist() == labels[:2].tolist()
    again = fit_wide(tokens, loss, VOCABULARY, settings)
    assert (again["wide.table"] == weights["wide.table"]).all()


def test_averaging_goes_into_the_last_weights() -> None:
    deep: Mapping[str, np.ndarray] = {
        "word": np.ones((2, 2), "f4"),
        "head.weight": np.full((OUTPUTS, 2), 4.0, "f4"),
        "head.bias": np.full(OUTPUTS, 2.0, "f4"),
    }
    wide = {
        "wide.table": np.full((3, OUTPUTS), 8.0, "f4"),
        "wide.bias": np.full(OUTPUTS, 6.0, "f4"),
    }
    both = averaged(dict(deep), wide, 0.25)
    assert (both["head.weight"][0, 0], both["head.bias"][0]) == (3.0, 3.0)
    assert both["wide.table"][0, 0] == 2.0
    assert (both["word"] == deep["word"]).all()
