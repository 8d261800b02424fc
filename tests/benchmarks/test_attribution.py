"""The benchmark of reasons, on a student that needs no training."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks import attribution
from reelroute.student import Prediction, StudentModel
from reelroute.student.grid import OUTPUTS, STEPS, Decoder
from reelroute.weights import RoutingWeights

VECTORS = np.array([[14, 2, 2, 2], [2, 14, 2, 2], [2, 2, 14, 2], [2, 2, 2, 14], [5, 5, 5, 5]])


class WordStudent:
    """Every word adds outputs of its own; order counts for nothing."""

    _decoder = Decoder.of_labels(VECTORS)

    def outputs(self, queries: Sequence[str]) -> NDArray[np.float32]:
        found = np.zeros((len(queries), OUTPUTS), dtype=np.float32)
        for row, query in zip(found, queries, strict=True):
            for word in query.split():
                seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:4], "big")
                row += np.random.default_rng(seed).normal(size=OUTPUTS).astype(np.float32)
        return found

    def mean_weights(self, query: str) -> NDArray[np.float64]:
        return self.means_of(self.outputs([query]))[0]

    def means_of(self, outputs: NDArray[np.float32]) -> NDArray[np.float64]:
        return self._decoder.mean(outputs)

    def predict(self, queries: list[str]) -> list[Prediction]:
        decoded = self._decoder.decode(self.outputs(queries))
        return [
            Prediction(
                RoutingWeights.normalised(dict(zip(NAMES, steps / STEPS, strict=True))), 4, 0, 0
            )
            for steps in decoded.steps
        ]


NAMES = ("visual", "audio", "transcription", "metadata")
QUERIES = ["a dog barks at night", "red car", "season 3 of the show with the song"]


@pytest.fixture
def model() -> Any:
    return WordStudent()


def test_words_that_are_named_always_move_the_mean_as_stated(model: Any) -> None:
    largest, named, unnamed, error = attribution.removals(model, QUERIES)
    assert largest.asked == len(QUERIES)
    assert named.asked + unnamed == len(QUERIES)
    assert named.mean_moved == named.asked
    assert named.emitted_moved + named.emitted_same + named.emitted_against == named.asked
    assert error < 1e-4


def test_the_order_of_words_makes_no_difference_to_a_student_that_knows_none(model: Any) -> None:
    found = attribution.injections(model, QUERIES)
    assert found.asked == len(QUERIES) * len(attribution.ORDERS)
    assert found.led == found.led_shuffled
    assert found.moved == pytest.approx(found.moved_shuffled)


def test_it_prints_its_tables(
    model: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(StudentModel, "load", staticmethod(lambda folder: model))
    monkeypatch.setattr(sys, "argv", ["x", "--model", str(tmp_path), "--queries", "3"])
    attribution.main()
    printed = capsys.readouterr().out
    assert "| named by the sentence | 3 | 100.0% |" in printed
    assert "9 orders to weigh a channel 1.0 appended" in printed
