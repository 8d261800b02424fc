"""The light student: ridge regression that a customization job trains in seconds.

Features of a query: tf-idf of words (1-2) and of characters within words (2-5), both
sublinear and of unit length, beside a static embedding of unit length. Targets: the four
weights. It is trained from the uploaded file and nothing else.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import scipy.sparse
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import Ridge

from deployments.embedded.models.answers import bare_json
from deployments.embedded.models.embeddings import Matrix, StaticEmbeddings
from deployments.embedded.models.stop_words import STOP_WORDS
from reelroute.weights import MODALITIES, RoutingWeights, round_to_grid

ALPHA: Final = 1.0
_TOLERANCE: Final = 1e-3


@dataclass(frozen=True, slots=True)
class _Grams:
    """One block of tf-idf features, fit, with the coefficients of its terms.

    Attributes:
        analyse: the terms of a text, repeats included.
        rows: term to its row.
        idf: shape (terms,).
        coefficients: shape (terms, 4).
    """

    analyse: Callable[[str], list[str]]
    rows: dict[str, int]
    idf: Matrix
    coefficients: Matrix

    def by_part(self, parts: Sequence[str]) -> Matrix:
        """What each part of a text adds to the four weights, shape (parts, 4).

        The sum over the parts is what the block adds for the text that they make up.
        """
        known = [[self.rows[t] for t in self.analyse(part) if t in self.rows] for part in parts]
        counts = Counter(row for rows in known for row in rows)
        if not counts:
            return np.zeros((len(parts), len(MODALITIES)), dtype=np.float32)
        values = {row: (1 + math.log(n)) * float(self.idf[row]) for row, n in counts.items()}
        length = math.sqrt(sum(value * value for value in values.values()))
        added = np.zeros((len(parts), len(MODALITIES)), dtype=np.float32)
        for index, rows in enumerate(known):
            if rows:
                shares = np.array([values[r] / counts[r] / length for r in rows], np.float32)
                added[index] = shares @ self.coefficients[rows]
        return added


class LightStudent:
    """A trained light student. Make one with `train`."""

    def __init__(
        self,
        words: _Grams,
        characters: _Grams,
        embedding: Matrix,
        intercept: Matrix,
        embeddings: StaticEmbeddings,
        training_loss: float,
    ) -> None:
        """Put the fit parts together.

        Args:
            words: features of words and pairs of words.
            characters: features of the characters within words.
            embedding: coefficients of the static embedding, shape (256, 4).
            intercept: shape (4,).
            embeddings: turns a query into a vector.
            training_loss: mean squared error of one weight over the training records.
        """
        self._words = words
        self._characters = characters
        self._embedding = embedding
        self._intercept = intercept
        self._embeddings = embeddings
        self.training_loss = training_loss

    def answer(self, text: str) -> str:
        """Weights and reasoning for a query, as bare JSON."""
        pairs = self._words.analyse(text)
        from_pairs = self._words.by_part(pairs)
        tokens = text.split()
        from_tokens = self._characters.by_part(tokens)
        raw = self._intercept + from_pairs.sum(axis=0) + from_tokens.sum(axis=0)
        raw = raw + self._embeddings.embed(text) @ self._embedding
        clipped = np.maximum(raw, 0.0)
        weights = round_to_grid(clipped.tolist() if clipped.sum() > 0 else [1.0] * 4)
        leading = max(MODALITIES, key=lambda modality: weights[modality])
        reasoning = _reasoning(
            _pull(tokens, from_tokens, pairs, from_pairs, MODALITIES.index(leading)), leading
        )
        return bare_json(weights, reasoning)


def train(
    queries: Sequence[str], labels: Sequence[RoutingWeights], embeddings: StaticEmbeddings
) -> LightStudent:
    """Fit the student; the same records give the same student.

    Args:
        queries: at least one text.
        labels: the weights of each query, in the same order.
        embeddings: turns queries into vectors; not trained.
    """
    words = TfidfVectorizer(
        ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"(?u)\b\w+\b", dtype=np.float32
    )
    characters = TfidfVectorizer(
        analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True, dtype=np.float32
    )
    by_words = words.fit_transform(queries)
    by_characters = characters.fit_transform(queries)
    dense = scipy.sparse.csr_matrix(embeddings.embed_all(queries))
    features = scipy.sparse.hstack([by_words, by_characters, dense], format="csr")
    targets = np.array([label.values() for label in labels], dtype=np.float32)
    ridge = Ridge(alpha=ALPHA, solver="lsqr", tol=_TOLERANCE).fit(features, targets)
    coefficients = np.ascontiguousarray(ridge.coef_.T, dtype=np.float32)
    first, second = by_words.shape[1], by_words.shape[1] + by_characters.shape[1]
    loss = float(np.mean((ridge.predict(features) - targets) ** 2))
    return LightStudent(
        words=_grams(words, coefficients[:first]),
        characters=_grams(characters, coefficients[first:second]),
        embedding=coefficients[second:],
        intercept=np.asarray(ridge.intercept_, dtype=np.float32),
        embeddings=embeddings,
        training_loss=loss,
    )


def _grams(vectorizer: TfidfVectorizer, coefficients: Matrix) -> _Grams:
    return _Grams(
        analyse=vectorizer.build_analyzer(),
        rows={term: int(row) for term, row in vectorizer.vocabulary_.items()},
        idf=np.asarray(vectorizer.idf_, dtype=np.float32),
        coefficients=coefficients,
    )


def _pull(
    tokens: Sequence[str], from_tokens: Matrix, pairs: Sequence[str], from_pairs: Matrix, to: int
) -> list[tuple[str, float]]:
    """How much more each word adds to one channel than to the mean channel, most first."""
    pull: dict[str, float] = {}
    for token, added in zip(tokens, from_tokens, strict=True):
        word = token.strip(".,;:!?\"'()[]{}").lower()
        if word:
            pull[word] = pull.get(word, 0.0) + float(added[to] - added.mean())
    for pair, added in zip(pairs, from_pairs, strict=True):
        words = pair.split()
        for word in words:
            if word in pull:
                pull[word] += float(added[to] - added.mean()) / len(words)
    return sorted(pull.items(), key=lambda item: (-item[1], item[0]))


def _reasoning(pull: Sequence[tuple[str, float]], leading: str) -> str:
    telling = [(word, added) for word, added in pull if word not in STOP_WORDS]
    towards = [word for word, added in telling if added > 0][:3]
    against = [word for word, added in reversed(telling) if added < 0][:1]
    if not towards:
        named = f" ('{pull[0][0]}' comes nearest)" if pull else ""
        return f"No single word points to {leading}; the query as a whole leans to it{named}."
    quoted = [f"'{word}'" for word in towards]
    listed = quoted[0] if len(quoted) == 1 else f"{', '.join(quoted[:-1])} and {quoted[-1]}"
    verb = "points" if len(quoted) == 1 else "point"
    if not against:
        return f"{listed} {verb} most to {leading}."
    return f"{listed} {verb} most to {leading}, while '{against[0]}' pulls away from it."
