"""How a student is trained."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from reelroute.student.encoder import DEFAULT_ENCODER, DEFAULT_SHA256


class TrainSettings(BaseModel):
    """Settings of a training; the defaults are the recipe that won the trials.

    Attributes:
        seed: of initial weights, order and dropout. Runs of one seed, machine and thread count
            give the same model, unless the time budget cuts one of them short.
        epochs: passes over the training rows.
        min_steps: with few rows, as many more epochs as this many steps of descent take.
        max_seconds: the time budget of the descent; the schedule is shortened after an epoch if
            the rest would not fit. None: no limit. One epoch is always done.
        patience: training stops after this many epochs without a better development score.
        dev_share: share of rows, by hash, that training doesn't see; more of small sets.
        layers: which layers of the encoder to keep, counted from 0; None: all.
        max_tokens: what of a query is read, in tokens with the two special ones.
        batch: queries a step.
        learning_rate: of the last layer at its peak (AdamW).
        layer_decay: each layer's learning rate is its successor's times this.
        head_factor: the head's learning rate over the last layer's.
        warmup: share of the steps in which the learning rate rises; then it falls to 0.
        weight_decay: of matrices.
        dropout: of each branch's output and of the pooled vector.
        smoothing: how far a label spreads over the grid: a vector that is d moves of 0.05 away
            gets exp(-d / smoothing) of the label's own share.
        mean_loss: weight of the mean's absolute error beside the cross-entropy.
        language_loss: weight of the cross-entropy of the query's language, known or not.
        average_decay: of the moving average of the weights over the second half.
        threads: torch's; 0 leaves torch's own choice.
        wide_share: the wide part's share in the outputs, the encoder's being the rest.
        wide_epochs: passes over the training rows for the wide part.
        wide_learning_rate: of the wide part (AdaGrad).
        encoder: as `load_encoder` takes it. The hash of one of your own is not checked unless you
            give it.
        encoder_sha256: of the encoder's weights; None skips the check.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int = Field(default=0, ge=0)
    epochs: int = Field(default=3, ge=1)
    min_steps: int = Field(default=150, ge=1)
    max_seconds: float | None = Field(default=420.0, gt=0)
    patience: int = Field(default=3, ge=1)
    dev_share: float = Field(default=0.05, gt=0, le=0.5)
    layers: tuple[int, ...] | None = None
    max_tokens: int = Field(default=64, ge=8)
    batch: int = Field(default=32, ge=1)
    learning_rate: float = Field(default=2e-4, gt=0)
    layer_decay: float = Field(default=0.9, gt=0, le=1)
    head_factor: float = Field(default=10.0, gt=0)
    warmup: float = Field(default=0.1, gt=0, lt=1)
    weight_decay: float = Field(default=0.01, ge=0)
    dropout: float = Field(default=0.1, ge=0, lt=1)
    smoothing: float = Field(default=0.6, gt=0)
    mean_loss: float = Field(default=2.0, ge=0)
    language_loss: float = Field(default=0.2, ge=0)
    average_decay: float = Field(default=0.99, ge=0, lt=1)
    wide_share: float = Field(default=0.2, ge=0, lt=1)
    wide_epochs: int = Field(default=4, ge=1)
    wide_learning_rate: float = Field(default=0.05, gt=0)
    threads: int = Field(default=0, ge=0)
    encoder: str = DEFAULT_ENCODER
    encoder_sha256: str | None = DEFAULT_SHA256

    @model_validator(mode="before")
    @classmethod
    def _own_encoder_has_its_own_hash(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("encoder", DEFAULT_ENCODER) != DEFAULT_ENCODER:
            return {"encoder_sha256": None, **values}
        return values
