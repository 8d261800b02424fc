"""The descent: fitting the network to labelled rows with torch.

The wide part is fitted first, alone. Then the encoder is fine-tuned as a whole; its embeddings
alone stay. The loss of both is the cross-entropy of the distribution over label vectors against
the label, spread over its neighbours on the grid, plus the absolute error of the distribution's
mean. The weights that are kept are averaged over the steps of the second half (Polyak and
Juditsky, 1992), exponentially.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from reelroute.student import network
from reelroute.student.batches import Tokens, padded, shuffled_batches
from reelroute.student.card import DevMetrics
from reelroute.student.encoder import Encoder, Weights, network_weights
from reelroute.student.grid import (
    OUTPUTS,
    STEPS,
    Decoder,
    Floats,
    Steps,
    indicator,
    to_steps,
    total_steps,
)
from reelroute.student.language import in_unknown_language
from reelroute.student.measure import dev_metrics
from reelroute.student.rows import LabelledRow, weight_array
from reelroute.student.settings import TrainSettings
from reelroute.student.wide import averaged, fit_wide, wide_outputs

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from torch import Tensor

_FROZEN: Final = ("word", "position", "norm.weight", "norm.bias")
_EVALUATION_BATCH: Final = 64
#: The learning rate never falls below this share of its peak.
_LAST_RATE: Final = 0.02
#: The averaging of weights begins after this share of the steps.
_AVERAGED_FROM: Final = 0.5


@dataclass(frozen=True, slots=True)
class Data:
    """Rows as the descent takes them.

    Attributes:
        tokens: their token ids.
        steps: their labels in steps of the grid, (n, 4).
        unknown_language: 1 where the language is one that the encoder doesn't know, else 0, (n,).
    """

    tokens: Tokens
    steps: Steps
    unknown_language: Floats

    @classmethod
    def of(cls, rows: Sequence[LabelledRow], tokenizer: Tokenizer) -> Data:
        """Labelled rows, tokenised."""
        queries = [row.query for row in rows]
        encoded = tokenizer.encode_batch(queries)
        steps = to_steps(weight_array(rows))
        return cls([one.ids for one in encoded], steps, in_unknown_language(queries))


@dataclass(frozen=True, slots=True)
class Progress:
    """Where training stands after an epoch.

    Attributes:
        epoch: epochs done.
        epochs: epochs planned; falls if the time budget is too short for them.
        loss: the mean training loss of the epoch.
        dev: the student on the development rows, in float32.
        seconds: since the descent began.
    """

    epoch: int
    epochs: int
    loss: float
    dev: DevMetrics
    seconds: float


@dataclass(frozen=True, slots=True)
class Fitted:
    """What the descent found.

    Attributes:
        weights: of the network, as `write_onnx` takes them.
        decoder: over the training rows' label vectors, of temperature 1.
        epoch: the epoch that the weights are of, from 1.
        stopped: why it ended.
    """

    weights: Weights
    decoder: Decoder
    epoch: int
    stopped: Literal["finished", "no more progress", "time budget"]


def fit(
    data: Data,
    dev: Data,
    encoder: Encoder,
    layers: Sequence[int],
    settings: TrainSettings,
    progress: Callable[[Progress], None] | None = None,
) -> Fitted:
    """Fit the network to `data`; of all epochs, the weights that are best on `dev` are kept."""
    with _torch_set_up(settings):
        return _Descent(data, dev, encoder, layers, settings).run(progress or (lambda _: None))


@contextmanager
def _torch_set_up(settings: TrainSettings) -> Iterator[None]:
    """Seed and threads for the time of the descent, without a trace afterwards."""
    import torch

    threads = torch.get_num_threads()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        torch.set_num_threads(settings.threads or threads)
        try:
            yield
        finally:
            torch.set_num_threads(threads)


class _Descent:
    """The state of one descent."""

    def __init__(
        self,
        data: Data,
        dev: Data,
        encoder: Encoder,
        layers: Sequence[int],
        settings: TrainSettings,
    ) -> None:
        import torch

        self._data, self._dev, self._settings = data, dev, settings
        self._layers, self._heads = range(len(layers)), encoder.heads
        self._random = np.random.default_rng(settings.seed)
        self._decoder = Decoder.of_labels(data.steps)
        weights = network_weights(encoder, layers, settings.max_tokens)
        reach = encoder.width**-0.5
        weights["head.weight"] = self._random.uniform(
            -reach, reach, (OUTPUTS, encoder.width)
        ).astype(np.float32)
        weights["head.bias"] = np.zeros(OUTPUTS, dtype=np.float32)
        weights["language.weight"] = np.zeros((1, encoder.width), dtype=np.float32)
        weights["language.bias"] = np.zeros(1, dtype=np.float32)
        self._parameters = {name: torch.tensor(value) for name, value in weights.items()}
        self._trained = {n: t for n, t in self._parameters.items() if n not in _FROZEN}
        for tensor in self._trained.values():
            tensor.requires_grad_(True)
        self._average: dict[str, Tensor] = {}
        self._loss = _Loss(self._decoder, data.steps, settings)
        self._unknown_language = torch.from_numpy(data.unknown_language)
        self._optimiser = torch.optim.AdamW(self._groups(), betas=(0.9, 0.98), fused=True)

    def run(self, progress: Callable[[Progress], None]) -> Fitted:
        """All epochs, or as many as the budget and the development rows allow."""
        settings = self._settings
        steps_an_epoch = -(-len(self._data.tokens) // settings.batch)
        epochs = max(settings.epochs, -(-settings.min_steps // steps_an_epoch))
        stopped: Literal["finished", "no more progress", "time budget"] = "finished"
        best: tuple[float, int, Weights] | None = None
        started, epoch = time.monotonic(), 0
        self._wide = fit_wide(
            self._data.tokens, self._loss, len(self._parameters["word"]), settings
        )
        self._wide_dev = wide_outputs(self._wide, self._dev.tokens)
        while epoch < epochs:
            loss = self._epoch(epoch * steps_an_epoch, epochs * steps_an_epoch)
            epoch += 1
            dev = dev_metrics(self._decoder, self._outputs(), self._dev.steps)
            if best is None or dev.rubric >= best[0]:
                best = (dev.rubric, epoch, self._snapshot())
            seconds = time.monotonic() - started
            affordable = _affordable(epoch, seconds, settings.max_seconds)
            if affordable < epochs:
                epochs, stopped = max(epoch, affordable), "time budget"
            progress(Progress(epoch, epochs, loss, dev, seconds))
            if epoch - best[1] >= settings.patience and epoch < epochs:
                stopped = "no more progress"
                break
        assert best is not None
        return Fitted(best[2], self._decoder, best[1], stopped)

    def _groups(self) -> list[dict[str, Any]]:
        """Parameters by learning rate and weight decay, as AdamW takes them."""
        settings, last = self._settings, len(self._layers) - 1
        groups: list[dict[str, Any]] = []
        for name, tensor in self._trained.items():
            if name.startswith("layer."):
                factor = settings.layer_decay ** (last - int(name.split(".")[1]))
            else:
                factor = settings.head_factor
            peak = settings.learning_rate * factor
            decay = settings.weight_decay if tensor.ndim > 1 else 0.0
            groups.append({"params": [tensor], "lr": 0.0, "peak": peak, "weight_decay": decay})
        return groups

    def _epoch(self, step: int, steps: int) -> float:
        """One pass over the data from `step` of `steps`; the mean loss."""
        from torch.nn.functional import binary_cross_entropy_with_logits

        losses: list[float] = []
        for rows in shuffled_batches(self._data.tokens, self._settings.batch, self._random):
            self._set_rate(step / steps)
            pooled = self._pooled(
                self._parameters, self._data.tokens, rows.tolist(), self._settings.dropout
            )
            loss = self._loss(network.head(self._parameters, pooled), rows)
            loss = loss + self._settings.language_loss * binary_cross_entropy_with_logits(
                network.language(self._parameters, pooled), self._unknown_language[rows]
            )
            self._optimiser.zero_grad(set_to_none=True)
            loss.backward()
            self._optimiser.step()
            losses.append(loss.item())
            step += 1
            if step > _AVERAGED_FROM * steps:
                self._add_to_average()
        return float(np.mean(losses))

    def _set_rate(self, done: float) -> None:
        """The learning rates when the share `done` of all steps is behind."""
        warmup = self._settings.warmup
        rate = done / warmup if done < warmup else 1 - (done - warmup) / (1 - warmup)
        for group in self._optimiser.param_groups:
            group["lr"] = group["peak"] * max(rate, _LAST_RATE)

    def _pooled(
        self, parameters: Mapping[str, Tensor], tokens: Tokens, rows: Sequence[int], dropout: float
    ) -> Tensor:
        import torch

        ids, present = padded(tokens, rows)
        mask = None if present.all() else torch.from_numpy(present)
        hidden = network.embed(parameters, torch.from_numpy(ids))
        hidden = network.encode(
            parameters, hidden, mask, layers=self._layers, heads=self._heads, dropout=dropout
        )
        return network.pool(hidden, mask, dropout)

    def _add_to_average(self) -> None:
        import torch

        with torch.no_grad():
            for name, tensor in self._trained.items():
                if name in self._average:
                    self._average[name].lerp_(tensor, 1 - self._settings.average_decay)
                else:
                    self._average[name] = tensor.detach().clone()

    def _outputs(self) -> Floats:
        """The student's outputs for the development rows, with averaged weights once there are."""
        import torch

        parameters = {**self._parameters, **self._average}
        tokens = self._dev.tokens
        by_length = sorted(range(len(tokens)), key=lambda row: len(tokens[row]))
        outputs = np.empty((len(tokens), OUTPUTS), dtype=np.float32)
        with torch.no_grad():
            for start in range(0, len(by_length), _EVALUATION_BATCH):
                rows = by_length[start : start + _EVALUATION_BATCH]
                pooled = self._pooled(parameters, tokens, rows, 0.0)
                outputs[rows] = network.head(parameters, pooled).numpy()
        share = self._settings.wide_share
        return (1 - share) * outputs + share * self._wide_dev

    def _snapshot(self) -> Weights:
        parameters = {**self._parameters, **self._average}
        deep = {name: tensor.detach().numpy().copy() for name, tensor in parameters.items()}
        return averaged(deep, self._wide, self._settings.wide_share)


class _Loss:
    """The loss of outputs (rows, OUTPUTS) against the labels of those rows."""

    def __init__(self, decoder: Decoder, labels: Steps, settings: TrainSettings) -> None:
        import torch

        self._mean_loss = settings.mean_loss
        places = {tuple(vector): place for place, vector in enumerate(decoder.vectors.tolist())}
        self._places = torch.tensor([places[tuple(label)] for label in labels.tolist()])
        self._indicator = torch.from_numpy(indicator(decoder.vectors))
        self._log_prior = torch.from_numpy(decoder.log_prior)
        self._vectors = torch.tensor(decoder.vectors, dtype=torch.float32) / STEPS
        # A move of 0.05 from one channel to another changes two weights by one step.
        moves = total_steps(decoder.vectors, decoder.vectors) / 2
        spread = np.exp(-moves / settings.smoothing)
        spread /= spread.sum(axis=1, keepdims=True)
        self._targets = torch.tensor(spread, dtype=torch.float32)

    def __call__(self, outputs: Tensor, rows: Any) -> Tensor:
        places = self._places[rows]
        logs = (outputs @ self._indicator + self._log_prior).log_softmax(dim=1)
        entropy = -(self._targets[places] * logs).sum(dim=1).mean()
        error = (logs.exp() @ self._vectors - self._vectors[places]).abs().sum(dim=1).mean()
        return entropy + self._mean_loss * error


def _affordable(epoch: int, seconds: float, budget: float | None) -> int:
    """How many epochs fit the budget at the pace of those done."""
    return epoch + 10**9 if budget is None else int(budget / (seconds / epoch))
