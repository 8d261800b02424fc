"""The model card: what a student folder holds, from what it was made, and how good it was."""

from __future__ import annotations

import hashlib
from datetime import datetime
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from reelroute.student.errors import StudentError

CARD_FILE: Final = "card.json"
MODEL_FILE: Final = "model.onnx"
TOKENIZER_FILE: Final = "tokenizer.json"
DECODER_FILE: Final = "decoder.json"
#: What a folder holds beside its card.
MODEL_FILES: Final = (MODEL_FILE, TOKENIZER_FILE, DECODER_FILE)

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class EncoderSource(_Frozen):
    """Where the encoder's first weights came from.

    Attributes:
        name: the package, hub id or folder name.
        sha256: of its `model.safetensors`.
        layers: which of its layers the student kept, counted from 0.
    """

    name: str
    sha256: Sha256
    layers: tuple[int, ...]


class DevMetrics(_Frozen):
    """The student on its development rows, which it was not trained on.

    Attributes:
        rubric: mean rubric score, 1 to 5.
        mae: mean absolute error of a weight, 0 to 1.
        dominant: share of answers with the right leading channel.
        expected_rubric: the mean that the student itself expected; near `rubric` if calibrated.
        expected_mae: the mean absolute error that it expected.
        error_correlation: between the error that it expected of an answer and the real one.
        unknown_language: share of development rows that are in a language it doesn't know, as
            the labels of its training say.
        language_accuracy: share of them that it says the same of; None before it has learnt to.
        rows: how many development rows.
    """

    rubric: float = Field(ge=1, le=5)
    mae: float = Field(ge=0, le=1)
    dominant: float = Field(ge=0, le=1)
    expected_rubric: float = Field(ge=1, le=5)
    expected_mae: float = Field(ge=0, le=1)
    error_correlation: float = Field(default=0.0, ge=-1, le=1)
    unknown_language: float = Field(default=0.0, ge=0, le=1)
    language_accuracy: float | None = Field(default=None, ge=0, le=1)
    rows: int = Field(gt=0)


class DecoderFile(_Frozen):
    """`decoder.json`: the label vectors in steps of 0.05, their log priors, the calibration.

    Attributes:
        rubric_line: intercept and slope that correct the expected rubric score.
        error_line: intercept and slope that correct the expected error.
        language_error: what an unknown language adds to the expected error.
    """

    vectors: tuple[tuple[int, int, int, int], ...] = Field(min_length=1)
    log_prior: tuple[float, ...]
    temperature: float = Field(gt=0, allow_inf_nan=False)
    rubric_line: tuple[float, float] = (0.0, 1.0)
    error_line: tuple[float, float] = (0.0, 1.0)
    language_error: float = Field(default=0.0, ge=0, allow_inf_nan=False)


class ModelCard(_Frozen):
    """`card.json` of a student's folder.

    Attributes:
        data_sha256: hash of all labelled rows, whatever their order.
        stopped: why training ended: all epochs done, no more progress on the development rows, or
            the time budget used up.
        epoch: the epoch (from 1) whose weights were kept, the best on the development rows.
        metrics: of the exported int8 model, as it answers at run time.
        versions: of what trained it.
        files: SHA-256 of each file of the folder but the card itself.
    """

    format: Literal[1] = 1
    created: datetime
    data_sha256: Sha256
    train_rows: int = Field(gt=0)
    seed: int
    settings: dict[str, float | int | str | tuple[int, ...] | None]
    encoder: EncoderSource
    max_tokens: int = Field(gt=2)
    epoch: int = Field(gt=0)
    stopped: Literal["finished", "no more progress", "time budget"]
    training_seconds: float = Field(ge=0)
    metrics: DevMetrics
    versions: dict[str, str]
    files: dict[str, Sha256]

    def write(self, folder: Path) -> None:
        """Write the card into its folder."""
        (folder / CARD_FILE).write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> ModelCard:
        """The card of a folder.

        Raises:
            StudentError: it is missing or not a card of this format.
        """
        path = folder / CARD_FILE
        try:
            return cls.model_validate_json(path.read_bytes())
        except OSError as error:
            raise StudentError(f"no student model at {folder}: {error.strerror}") from None
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "it"
            raise StudentError(f"{path} is not a model card: {where}: {first['msg']}") from None

    def verify(self, folder: Path) -> None:
        """Check every file of the folder against its hash.

        Raises:
            StudentError: a file is missing, unlisted in the card, or its content differs.
        """
        for name in MODEL_FILES:
            expected = self.files.get(name)
            if expected is None:
                raise StudentError(f"the card of {folder} has no hash for {name}")
            found = sha256_of(folder / name)
            if found != expected:
                raise StudentError(
                    f"{folder / name} has SHA-256 {found[:12]}..., its card says "
                    f"{expected[:12]}...: fetch the model again"
                )


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in hex.

    Raises:
        StudentError: it can't be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise StudentError(f"{path} can't be read: {error.strerror}") from None
