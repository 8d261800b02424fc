"""The pretrained encoder that the student starts from, for those who use it untrained."""

from __future__ import annotations

from pathlib import Path

from reelroute.student.card import TOKENIZER_FILE
from reelroute.student.encoder import CONFIG_FILE, WEIGHTS_FILE, load_encoder


def encoder_folder() -> Path:
    """The folder of all-MiniLM-L6-v2 in its installed package, its hash verified.

    Raises:
        StudentError: the package is not installed, or its weights are others.
    """
    return load_encoder().folder


def encoder_files() -> list[Path]:
    """What the encoder needs to answer."""
    return [encoder_folder() / name for name in (WEIGHTS_FILE, CONFIG_FILE, TOKENIZER_FILE)]
