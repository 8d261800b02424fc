"""Training the local student: labelled rows in, a model folder with its card out."""

from __future__ import annotations

import platform
import shutil
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import numpy as np

import reelroute
from reelroute.student.card import (
    DECODER_FILE,
    MODEL_FILE,
    MODEL_FILES,
    TOKENIZER_FILE,
    DecoderFile,
    DevMetrics,
    EncoderSource,
    ModelCard,
    sha256_of,
)
from reelroute.student.descent import Data, Progress, fit
from reelroute.student.encoder import load_encoder
from reelroute.student.errors import StudentError
from reelroute.student.export import write_int8
from reelroute.student.grid import Decoder
from reelroute.student.measure import calibrate, dev_metrics
from reelroute.student.model import load_session, load_tokenizer, run_tokens
from reelroute.student.rows import LabelledRow, data_sha256, split_dev
from reelroute.student.settings import TrainSettings

__all__ = ["Progress", "TrainSettings", "train"]

#: Packages whose versions the card names.
_PACKAGES: Final = ("torch", "onnx", "onnxruntime", "tokenizers", "numpy", "py3langid")
_NEEDED: Final = (*_PACKAGES, "safetensors")


def train(
    rows: Sequence[LabelledRow],
    out_dir: Path,
    settings: TrainSettings | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> ModelCard:
    """Train a student and write its folder: ONNX model, tokenizer, decoder and card.

    Args:
        rows: labelled queries, in any order; the result doesn't depend on it.
        out_dir: the folder; made if missing, files of the same names are replaced.
        settings: the recipe; its defaults if not given.
        progress: called after every epoch.

    Returns:
        The card, as written. Its metrics are of the int8 model on the development rows.

    Raises:
        StudentError: torch or another package for training is missing, there are too few rows,
            or the encoder isn't there or fails its hash.
    """
    settings = settings or TrainSettings()
    for package in _NEEDED:
        if find_spec(package) is None:
            raise StudentError(f"training the local student needs {package}: pip install {package}")
    started = time.monotonic()
    encoder = load_encoder(settings.encoder, settings.encoder_sha256)
    layers = settings.layers if settings.layers is not None else tuple(range(encoder.layers))
    train_rows, dev_rows = split_dev(rows, settings.dev_share)
    tokenizer = load_tokenizer(encoder.tokenizer_path, settings.max_tokens)
    data, dev = Data.of(train_rows, tokenizer), Data.of(dev_rows, tokenizer)
    fitted = fit(data, dev, encoder, layers, settings, progress)

    out_dir.mkdir(parents=True, exist_ok=True)
    model_file = out_dir / MODEL_FILE
    write_int8(fitted.weights, data.tokens, model_file, layers=len(layers), heads=encoder.heads)
    shutil.copyfile(encoder.tokenizer_path, out_dir / TOKENIZER_FILE)
    metrics = _calibrate(out_dir, fitted.decoder, dev)
    card = ModelCard(
        created=datetime.now(UTC),
        data_sha256=data_sha256(rows),
        train_rows=len(train_rows),
        seed=settings.seed,
        settings=settings.model_dump(),
        encoder=EncoderSource(name=encoder.name, sha256=encoder.sha256, layers=layers),
        max_tokens=settings.max_tokens,
        epoch=fitted.epoch,
        stopped=fitted.stopped,
        training_seconds=round(time.monotonic() - started, 1),
        metrics=metrics,
        versions={
            "reelroute": reelroute.__version__,
            "python": platform.python_version(),
            **{package: version(package) for package in _PACKAGES},
        },
        files={name: sha256_of(out_dir / name) for name in MODEL_FILES},
    )
    card.write(out_dir)
    return card


def _calibrate(folder: Path, decoder: Decoder, dev: Data) -> DevMetrics:
    """Calibrate the decoder to the exported model, write it, and measure the whole."""
    session = load_session(folder / MODEL_FILE)
    logits, languages = zip(*(run_tokens(session, [ids]) for ids in dev.tokens), strict=True)
    outputs, language = np.concatenate(logits), np.concatenate(languages)
    decoder = calibrate(decoder, outputs, language, dev.steps)
    (folder / DECODER_FILE).write_text(_decoder_file(decoder), encoding="utf-8")
    metrics = dev_metrics(decoder, outputs, dev.steps, language)
    return metrics.model_copy(
        update={
            "unknown_language": float(dev.unknown_language.mean()),
            "language_accuracy": float(np.mean((language > 0.5) == (dev.unknown_language > 0.5))),
        }
    )


def _decoder_file(decoder: Decoder) -> str:
    file = DecoderFile(
        vectors=tuple(map(tuple, decoder.vectors.tolist())),
        log_prior=tuple(decoder.log_prior.tolist()),
        temperature=decoder.temperature,
        rubric_line=(decoder.rubric_line.intercept, decoder.rubric_line.slope),
        error_line=(decoder.error_line.intercept, decoder.error_line.slope),
        language_error=decoder.language_error,
    )
    return file.model_dump_json() + "\n"
