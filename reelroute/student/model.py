"""The local student at run time: ONNX Runtime, tokenizers and numpy, nothing else.

Many queries are answered in batches of equal length, so that nothing is padded: a query's answer
doesn't depend on its neighbours.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from reelroute.student.batches import Tokens
from reelroute.student.card import (
    DECODER_FILE,
    MODEL_FILE,
    TOKENIZER_FILE,
    DecoderFile,
    ModelCard,
)
from reelroute.student.errors import StudentError
from reelroute.student.grid import OUTPUTS, STEPS, Decoder, Line
from reelroute.weights import RoutingWeights

if TYPE_CHECKING:
    from onnxruntime import InferenceSession
    from tokenizers import Tokenizer

ROUTER_NAME: Final = "local"
#: The model's one input: token ids, int64 (queries, tokens).
INPUT: Final = "tokens"
#: Its outputs: (queries, OUTPUTS), and the logit of an unknown language, (queries, 1).
LOGITS: Final = "logits"
LANGUAGE: Final = "language"
#: Below this many queries the threads' hand-over costs more than it saves.
_THREADED_FROM: Final = 16
#: Equally long queries are answered so many at a time: more gain nothing.
_BATCH: Final = 16
#: Many queries are shared out in so many parts for each thread: few hand-overs, and no thread is
#: left with much more than the others; but not in shares too small for full batches.
_SHARES_A_THREAD: Final = 4
#: Characters of a query that are looked at; its first `max_tokens` tokens always lie within.
_MAX_CHARACTERS: Final = 2_000


@dataclass(frozen=True, slots=True)
class Prediction:
    """The student's answer to a query.

    Attributes:
        weights: on the grid of 0.05, adding up to 1, without reasoning.
        expected_rubric: the rubric score, 1 to 5, that the student expects of its answer.
        expected_error: the mean absolute error of a weight that it expects, 0 to 0.5.
        unknown_language: how likely the query is in, or mixed with, a language that the student
            doesn't know, 0 to 1.
    """

    weights: RoutingWeights
    expected_rubric: float
    expected_error: float
    unknown_language: float


class StudentModel:
    """A trained student, loaded from its folder by `StudentModel.load`. Safe to use by threads."""

    def __init__(
        self, session: InferenceSession, tokenizer: Tokenizer, decoder: Decoder, card: ModelCard
    ) -> None:
        self.card = card
        self._session = session
        self._tokenizer = tokenizer
        self._decoder = decoder

    @classmethod
    def load(cls, folder: str | Path) -> StudentModel:
        """Load a model folder, every file verified against the card's hashes.

        Raises:
            StudentError: the folder is not a student, a file is missing or altered, or the
                run-time packages (onnxruntime, tokenizers) are not installed.
        """
        folder = Path(folder)
        card = ModelCard.read(folder)
        card.verify(folder)
        return cls(
            load_session(folder / MODEL_FILE),
            load_tokenizer(folder / TOKENIZER_FILE, card.max_tokens),
            load_decoder(folder / DECODER_FILE),
            card,
        )

    def predict(self, queries: Sequence[str], *, threads: int | None = None) -> list[Prediction]:
        """Weights for each query, in the queries' order.

        Every text has an answer, the empty one too; tokens beyond `card.max_tokens` are ignored.

        Args:
            queries: any texts.
            threads: how many queries are answered at a time; as many as there are cores if not
                said, for few queries one.
        """
        if not queries:
            return []
        if threads is None:
            threads = 1 if len(queries) < _THREADED_FROM else (os.cpu_count() or 1)
        if threads == 1:
            return self._answers(queries)
        size = max(1, len(queries) // (threads * _SHARES_A_THREAD))
        shares = [queries[start : start + size] for start in range(0, len(queries), size)]
        with ThreadPoolExecutor(threads) as pool:
            return [answer for answers in pool.map(self._answers, shares) for answer in answers]

    def _answers(self, queries: Sequence[str]) -> list[Prediction]:
        outputs, language = self._run(queries)
        decoded = self._decoder.decode(outputs, language)
        return [
            Prediction(_weights(steps), rubric, error, unknown)
            for steps, rubric, error, unknown in zip(
                decoded.steps.tolist(),
                decoded.expected_rubric.tolist(),
                decoded.expected_error.tolist(),
                language.tolist(),
                strict=True,
            )
        ]

    def outputs(self, queries: Sequence[str]) -> NDArray[np.float32]:
        """The network's outputs for n queries: a logit for each channel and value, (n, OUTPUTS)."""
        return self._run(queries)[0]

    def _run(self, queries: Sequence[str]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """As `run_tokens`, for queries of any lengths."""
        tokens = [self._tokens(query) for query in queries]
        outputs = np.empty((len(tokens), OUTPUTS), dtype=np.float32)
        language = np.empty(len(tokens), dtype=np.float32)
        for batch in _equally_long(tokens):
            outputs[batch], language[batch] = run_tokens(
                self._session, [tokens[place] for place in batch]
            )
        return outputs, language

    def _tokens(self, query: str) -> list[int]:
        # A lone half of a surrogate pair can't be encoded as UTF-8 for the tokenizer.
        text = query[:_MAX_CHARACTERS].encode("utf-8", "replace").decode("utf-8")
        tokens: list[int] = self._tokenizer.encode(text).ids
        return tokens

    def mean_weights(self, query: str) -> NDArray[np.float64]:
        """The mean of the predicted distribution, (4,): what attributions add up to."""
        mean: NDArray[np.float64] = self.means_of(self.outputs([query]))[0]
        return mean

    def means_of(self, outputs: NDArray[np.float32]) -> NDArray[np.float64]:
        """The mean weights, (n, 4), for the `outputs` of n queries, (n, OUTPUTS)."""
        return self._decoder.mean(outputs)


def _weights(steps: Sequence[int]) -> RoutingWeights:
    visual, audio, transcription, metadata = (count / STEPS for count in steps)
    return RoutingWeights(
        visual=visual,
        audio=audio,
        transcription=transcription,
        metadata=metadata,
        router=ROUTER_NAME,
    )


def _equally_long(tokens: Tokens) -> Iterator[list[int]]:
    """The positions of all queries, in batches of equally many tokens."""
    by_length: dict[int, list[int]] = {}
    for place, ids in enumerate(tokens):
        by_length.setdefault(len(ids), []).append(place)
    for places in by_length.values():
        for start in range(0, len(places), _BATCH):
            yield places[start : start + _BATCH]


def run_tokens(
    session: InferenceSession, tokens: Tokens
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The network's outputs for n queries of equally many token ids.

    Returns:
        the logits, (n, OUTPUTS), and how likely each language is one that it doesn't know, (n,).
    """
    ids = np.array(tokens, dtype=np.int64)
    logits, language = session.run((LOGITS, LANGUAGE), {INPUT: ids})
    return logits, 1 / (1 + np.exp(-language[:, 0]))


def load_session(path: Path) -> InferenceSession:
    """An ONNX Runtime session on one thread: at a dozen tokens more only get in each other's way.

    Raises:
        StudentError: onnxruntime is not installed, or the file is no such model.
    """
    try:
        import onnxruntime
    except ImportError:
        raise StudentError("the local student needs onnxruntime: pip install onnxruntime") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # The graph is written as it should run; further fusion makes it slower.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:
        raise StudentError(f"{path} can't be loaded by ONNX Runtime: {error}") from error
    widths = {output.name: output.shape[-1] for output in session.get_outputs()}
    if widths != {LOGITS: OUTPUTS, LANGUAGE: 1}:
        raise StudentError(
            f"{path} does not give {OUTPUTS} logits and a language: it is no student of this kind"
        )
    return session


def load_tokenizer(path: Path, max_tokens: int) -> Tokenizer:
    """A tokenizer that truncates to `max_tokens` and doesn't pad.

    Raises:
        StudentError: tokenizers is not installed, or the file is no tokenizer.
    """
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise StudentError("the local student needs tokenizers: pip install tokenizers") from None
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:
        raise StudentError(f"{path} can't be read as a tokenizer: {error}") from error
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_tokens)
    return tokenizer


def load_decoder(path: Path) -> Decoder:
    """The decoder of a `decoder.json`.

    Raises:
        StudentError: the file can't be read or is not a decoder.
    """
    try:
        file = DecoderFile.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise StudentError(f"{path} can't be read as a decoder: {error}") from None
    return Decoder(
        np.array(file.vectors, dtype=np.int64),
        np.array(file.log_prior, dtype=np.float32),
        file.temperature,
        Line(*file.rubric_line),
        Line(*file.error_line),
        file.language_error,
    )
