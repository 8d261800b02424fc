"""Whether a larger encoder between the teacher and the student makes the student better.

    python -m benchmarks.middle_teacher --encoder FOLDER     # all-mpnet-base-v2, say

A middle teacher is fine-tuned on the labelled rows. It then gives every training row a
distribution over the label vectors, and answers queries that nobody labelled: halves of two
training queries joined, or a part of one. Students of the default recipe learn from the labels
alone, from labels and distributions mixed (Hinton et al., Distilling the Knowledge in a Neural
Network, 2015), and from unlabelled queries beside them. All are scored as int8 models on rows that
neither training nor the choice of an epoch has seen.

With everything it takes about an hour on two cores. What the middle teacher said is kept in
`--work`, so that a second run trains the students alone.
"""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import click
import numpy as np

from benchmarks.rows import evaluation_rows, training_rows
from data_contracts.heldout import NEAR_HELD_OUT, NearIndex
from reelroute.student.batches import Tokens, shuffled_batches
from reelroute.student.card import DevMetrics
from reelroute.student.descent import Data, _Descent, _Loss, _torch_set_up
from reelroute.student.encoder import Encoder, load_encoder
from reelroute.student.export import write_int8
from reelroute.student.grid import OUTPUTS, Decoder, Floats, Steps
from reelroute.student.language import in_unknown_language
from reelroute.student.measure import dev_metrics, fit_temperature
from reelroute.student.model import load_session, load_tokenizer, run_tokens
from reelroute.student.rows import LabelledRow, split_dev
from reelroute.student.settings import TrainSettings
from reelroute.student.wide import fit_wide, wide_outputs

#: Of the corpus, by the hash of the query: what all are scored on.
_SCORED_SHARE: Final = 0.12
_EVALUATION_BATCH: Final = 64
#: A part of a query has at least so many words, if the query has.
_MIN_WORDS: Final = 3


@dataclass(frozen=True, slots=True)
class Split:
    """The rows of the trial: `scored` are near none of the others."""

    train: list[LabelledRow]
    dev: list[LabelledRow]
    scored: list[LabelledRow]

    @classmethod
    def of_corpus(cls, size: int | None) -> Split:
        """The corpus without what is near the committed benchmark, at most `size` rows."""
        rows = training_rows(evaluation_rows(None), size).rows
        scored = [row for row in rows if _place(row.query) < _SCORED_SHARE]
        index, taken = NearIndex(row.query for row in scored), {row.query for row in scored}
        rest = [
            row
            for row in rows
            if row.query not in taken and index.near(row.query, NEAR_HELD_OUT) is None
        ]
        return cls(*split_dev(rest, TrainSettings().dev_share), scored)


def _place(query: str) -> float:
    """Where a query stands in [0, 1), by a hash of its own."""
    digest = hashlib.sha256(f"middle-teacher:{query}".encode()).digest()
    return int.from_bytes(digest[:8]) / 2**64


@dataclass(frozen=True, slots=True)
class Recipe:
    """How the middle teacher is fine-tuned; as for the student, whose words these are."""

    epochs: int = 3
    batch: int = 32
    learning_rate: float = 4e-5
    layer_decay: float = 0.9
    head_factor: float = 20.0
    warmup: float = 0.1
    weight_decay: float = 0.01


class MiddleTeacher:
    """A larger encoder from a folder, as `transformers` reads it, with the student's outputs."""

    def __init__(self, folder: Path, settings: TrainSettings) -> None:
        import torch
        from transformers import AutoModel

        self._encoder: Any = AutoModel.from_pretrained(folder, local_files_only=True)
        self._head: Any = torch.nn.Linear(self._encoder.config.hidden_size, OUTPUTS)
        self._pad = int(self._encoder.config.pad_token_id)
        self._tokenizer = load_tokenizer(folder / "tokenizer.json", settings.max_tokens)
        self._settings = settings

    def tokens(self, queries: Sequence[str]) -> Tokens:
        """Token ids of its own tokenizer."""
        return [one.ids for one in self._tokenizer.encode_batch(list(queries))]

    def fit(self, rows: Sequence[LabelledRow], steps: Steps, recipe: Recipe) -> None:
        """Fine-tune all but the embeddings, and a wide part beside it."""
        import torch

        tokens, decoder = self.tokens([row.query for row in rows]), Decoder.of_labels(steps)
        loss = _Loss(decoder, steps, self._settings)
        vocabulary = int(self._encoder.config.vocab_size)
        self._wide = fit_wide(tokens, loss, vocabulary, self._settings)
        groups = list(self._groups(recipe))
        optimiser = torch.optim.AdamW(groups, betas=(0.9, 0.98))
        random = np.random.default_rng(self._settings.seed)
        total = recipe.epochs * -(-len(rows) // recipe.batch)
        step = 0
        self._encoder.train()
        started = time.monotonic()
        for epoch in range(recipe.epochs):
            losses = []
            for batch in shuffled_batches(tokens, recipe.batch, random):
                done = step / total
                rate = done / recipe.warmup if done < recipe.warmup else (1 - done) / 0.9
                for group in optimiser.param_groups:
                    group["lr"] = group["peak"] * max(rate, 0.02)
                value = loss(self._forward(tokens, batch.tolist()), batch)
                optimiser.zero_grad(set_to_none=True)
                value.backward()
                optimiser.step()
                losses.append(value.item())
                step += 1
                if step % 50 == 0:
                    _say(f"  step {step} of {total}, {time.monotonic() - started:.0f} s")
            _say(f"  middle teacher, epoch {epoch + 1}: loss {np.mean(losses):.3f}")
        self._encoder.eval()

    def outputs(self, queries: Sequence[str]) -> Floats:
        """Its outputs, (queries, `OUTPUTS`), the wide part's share included."""
        import torch

        tokens = self.tokens(queries)
        by_length = sorted(range(len(tokens)), key=lambda row: len(tokens[row]))
        found = np.empty((len(tokens), OUTPUTS), dtype=np.float32)
        with torch.no_grad():
            for start in range(0, len(by_length), _EVALUATION_BATCH):
                rows = by_length[start : start + _EVALUATION_BATCH]
                found[rows] = self._forward(tokens, rows).numpy()
        share = self._settings.wide_share
        mixed: Floats = (1 - share) * found + share * wide_outputs(self._wide, tokens)
        return mixed

    def _forward(self, tokens: Tokens, rows: Sequence[int]) -> Any:
        import torch

        longest = max(len(tokens[row]) for row in rows)
        ids = torch.full((len(rows), longest), self._pad)
        for place, row in enumerate(rows):
            ids[place, : len(tokens[row])] = torch.tensor(tokens[row])
        mask = ids != self._pad
        hidden = self._encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        kept = mask.unsqueeze(2).to(hidden.dtype)
        return self._head((hidden * kept).sum(dim=1) / kept.sum(dim=1))

    def _groups(self, recipe: Recipe) -> Iterator[dict[str, Any]]:
        last = int(self._encoder.config.num_hidden_layers) - 1
        for name, tensor in self._encoder.named_parameters():
            parts = name.split(".")
            if "embeddings" in parts or "pooler" in parts:
                tensor.requires_grad_(False)
                continue
            depth = int(parts[parts.index("layer") + 1]) if "layer" in parts else last
            peak = recipe.learning_rate * recipe.layer_decay ** (last - depth)
            decay = recipe.weight_decay if tensor.ndim > 1 else 0.0
            yield {"params": [tensor], "lr": 0.0, "peak": peak, "weight_decay": decay}
        peak = recipe.learning_rate * recipe.head_factor
        yield {"params": list(self._head.parameters()), "lr": 0.0, "peak": peak}


class _SoftLoss:
    """The student's loss against a distribution over the label vectors for each row."""

    def __init__(self, hard: _Loss, targets: Floats) -> None:
        import torch

        self._hard, self._soft = hard, torch.from_numpy(targets)

    def __call__(self, outputs: Any, rows: Any) -> Any:
        hard, soft = self._hard, self._soft[rows]
        logs = (outputs @ hard._indicator + hard._log_prior).log_softmax(dim=1)
        entropy = -(soft * logs).sum(dim=1).mean()
        error = (logs.exp() - soft) @ hard._vectors
        return entropy + hard._mean_loss * error.abs().sum(dim=1).mean()


def unlabelled_queries(rows: Sequence[LabelledRow], count: int, seed: int) -> list[str]:
    """Queries that nobody labelled, from the words of those that are: parts, and halves joined."""
    random = np.random.default_rng(seed)
    words = [row.query.split() for row in rows]
    known = {row.query for row in rows}
    found: dict[str, None] = {}
    while len(found) < count:
        one, two = (words[place] for place in random.integers(len(words), size=2))
        if random.random() < 0.5:
            made = one[: -(-len(one) // 2)] + two[len(two) // 2 :]
        else:
            length = int(random.integers(min(_MIN_WORDS, len(one)), len(one) + 1))
            start = int(random.integers(len(one) - length + 1))
            made = one[start : start + length]
        query = " ".join(made)
        if query not in known:
            found[query] = None
    return list(found)


@dataclass(frozen=True, slots=True)
class Said:
    """The middle teacher's outputs, (n, `OUTPUTS`), for the rows and the unlabelled queries."""

    train: Floats
    unlabelled: Floats
    scored: Floats
    seconds: float

    @classmethod
    def by(
        cls, folder: Path, split: Split, unlabelled: Sequence[str], settings: TrainSettings
    ) -> Said:
        """Fine-tune the encoder of a folder and ask it everything."""
        started = time.monotonic()
        with _torch_set_up(settings):
            teacher = MiddleTeacher(folder, settings)
            steps = _steps(split.train)
            teacher.fit(split.train, steps, Recipe())
            seconds = time.monotonic() - started
            _say(f"  fine-tuned in {seconds:.0f} s; answering {len(unlabelled)} queries")
            return cls(
                train=teacher.outputs([row.query for row in split.train]),
                unlabelled=teacher.outputs(unlabelled),
                scored=teacher.outputs([row.query for row in split.scored]),
                seconds=seconds,
            )

    @classmethod
    def kept(cls, file: Path) -> Said:
        """What `keep` left."""
        with np.load(file) as stored:
            return cls(
                stored["train"], stored["unlabelled"], stored["scored"], float(stored["seconds"])
            )

    def keep(self, file: Path) -> None:
        """Keep it for the next run."""
        np.savez(
            file,
            train=self.train,
            unlabelled=self.unlabelled,
            scored=self.scored,
            seconds=self.seconds,
        )


def _steps(rows: Sequence[LabelledRow]) -> Steps:
    from reelroute.student.grid import to_steps
    from reelroute.student.rows import weight_array

    return to_steps(weight_array(rows))


def crosswise(decoder: Decoder, outputs: Floats, reference: Steps) -> DevMetrics:
    """Scores, the temperature of each half of the rows fitted on the other half."""
    chosen = []
    halves = (np.arange(0, len(outputs), 2), np.arange(1, len(outputs), 2))
    for here, there in (halves, halves[::-1]):
        fitted = decoder.calibrated(fit_temperature(decoder, outputs[there], reference[there]))
        chosen.append(dev_metrics(fitted, outputs[here], reference[here]))
    mean = {
        name: float(
            np.average([getattr(m, name) for m in chosen], weights=[m.rows for m in chosen])
        )
        for name in ("rubric", "mae", "dominant")
    }
    return chosen[0].model_copy(update={**mean, "rows": len(outputs)})


class Students:
    """Students of one recipe that differ in what they learn from."""

    def __init__(self, split: Split, settings: TrainSettings) -> None:
        self._split, self._settings = split, settings
        self._encoder: Encoder = load_encoder(settings.encoder, settings.encoder_sha256)
        self._tokenizer = load_tokenizer(self._encoder.tokenizer_path, settings.max_tokens)
        self._train = Data.of(split.train, self._tokenizer)
        self._dev = Data.of(split.dev, self._tokenizer)
        self._decoder = Decoder.of_labels(self._train.steps)

    def of_labels(self) -> tuple[DevMetrics, float]:
        """The student as it ships."""
        return self._fit(self._train, None)

    def distilled(
        self, said: Said, label_share: float, unlabelled: Sequence[str]
    ) -> tuple[DevMetrics, float]:
        """A student of the labels mixed with the middle teacher's distributions.

        Args:
            said: what the middle teacher said.
            label_share: of the label in a training row's target, 0 to 1.
            unlabelled: queries that it learns beside the rows, those that `said` begins with.
        """
        hard = _Loss(self._decoder, self._train.steps, self._settings)
        labels = hard._targets[hard._places].numpy()
        soft = self._decoder.probabilities(said.train)
        targets = label_share * labels + (1 - label_share) * soft
        data = self._train
        if unlabelled:
            answers = said.unlabelled[: len(unlabelled)]
            targets = np.concatenate([targets, self._decoder.probabilities(answers)])
            encoded = self._tokenizer.encode_batch(list(unlabelled))
            data = replace(
                data,
                tokens=[*data.tokens, *(one.ids for one in encoded)],
                steps=np.concatenate([data.steps, self._decoder.decode(answers).steps]),
                unknown_language=np.concatenate(
                    [data.unknown_language, in_unknown_language(list(unlabelled))]
                ),
            )
        return self._fit(data, targets.astype(np.float32))

    def score(self, outputs: Floats) -> DevMetrics:
        """Outputs for the scored rows, decoded and compared with their labels."""
        return crosswise(self._decoder, outputs, _steps(self._split.scored))

    def _fit(self, data: Data, targets: Floats | None) -> tuple[DevMetrics, float]:
        started = time.monotonic()
        layers = tuple(range(self._encoder.layers))
        with _torch_set_up(self._settings):
            descent = _Descent(data, self._dev, self._encoder, layers, self._settings)
            descent._decoder = self._decoder
            descent._loss = _Loss(self._decoder, data.steps, self._settings)
            if targets is not None:
                descent._loss = _SoftLoss(descent._loss, targets)  # type: ignore[assignment]
            fitted = descent.run(lambda p: _say(f"  epoch {p.epoch}: dev {p.dev.rubric:.3f}"))
        seconds = time.monotonic() - started
        with tempfile.TemporaryDirectory(prefix="reelroute-bench-") as folder:
            path = Path(folder) / "model.onnx"
            write_int8(
                fitted.weights,
                self._train.tokens,
                path,
                layers=len(layers),
                heads=self._encoder.heads,
            )
            session = load_session(path)
            encoded = self._tokenizer.encode_batch([row.query for row in self._split.scored])
            outputs = np.concatenate([run_tokens(session, [one.ids])[0] for one in encoded])
        return self.score(outputs), seconds


def _say(what: str) -> None:
    click.echo(what, err=True)


@click.command()
@click.option(
    "--encoder",
    required=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="The middle teacher's folder: config.json, model.safetensors, tokenizer.json.",
)
@click.option("--size", type=click.IntRange(min=500), help="Use at most so many rows.")
@click.option("--unlabelled", default=9_000, show_default=True, help="So many unlabelled queries.")
@click.option(
    "--work", type=click.Path(file_okay=False, path_type=Path), help="Keeps the middle teacher."
)
@click.option("--seed", default=0, show_default=True, help="Of every training.")
def main(encoder: Path, size: int | None, unlabelled: int, work: Path | None, seed: int) -> None:
    """Compare students with and without a middle teacher; prints a table."""
    split, settings = Split.of_corpus(size), TrainSettings(seed=seed, max_seconds=None)
    _say(f"{len(split.train)} rows to train on, {len(split.dev)} to choose by, {len(split.scored)}")
    queries = unlabelled_queries(split.train, unlabelled, 0)
    kept = work / "middle_teacher.npz" if work else None
    if kept and kept.exists():
        said = Said.kept(kept)
        sizes = (len(said.train), len(said.unlabelled), len(said.scored))
        if sizes != (len(split.train), len(queries), len(split.scored)):
            raise click.ClickException(f"{kept} is of another trial: delete it, or name another")
    else:
        said = Said.by(encoder, split, queries, TrainSettings())
        if work and kept:
            work.mkdir(parents=True, exist_ok=True)
            said.keep(kept)
    students = Students(split, settings)
    click.echo("| run | rubric | mae | dominant | seconds |\n|---|---|---|---|---|")

    def row(name: str, found: tuple[DevMetrics, float]) -> None:
        scores, seconds = found
        figures = f"{scores.rubric:.3f} | {scores.mae:.4f} | {scores.dominant:.3f}"
        click.echo(f"| {name} | {figures} | {seconds:.0f} |")

    row("the middle teacher itself", (students.score(said.scored), said.seconds))
    row("labels alone", students.of_labels())
    name = f"50% label, 50% middle teacher, and {len(queries)} unlabelled queries"
    row(name, students.distilled(said, 0.5, queries))
    for share in (0.5, 0.0):
        name = f"{share:.0%} label, {1 - share:.0%} middle teacher"
        row(name, students.distilled(said, share, []))


if __name__ == "__main__":
    main()
