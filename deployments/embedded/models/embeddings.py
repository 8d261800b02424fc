"""Static token embeddings: a text becomes the mean of its tokens' vectors.

The vectors and the tokenizer are files of the `wordllama` package (32,000 x 256, half
precision). They are read without importing the package: its loader looks for them in
another folder, and its import costs more than the reading.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file
from tokenizers import Tokenizer

from reelroute.errors import ReelRouteError

Matrix = npt.NDArray[np.float32]

DIMENSIONS: Final = 256
_TINY: Final = 1e-9
_WEIGHTS: Final = "weights/l2_supercat_256.safetensors"
_TOKENIZER: Final = "tokenizers/l2_supercat_tokenizer_config.json"


class StaticEmbeddings:
    """Turns texts into vectors of unit length (0 for a text without tokens)."""

    def __init__(self, vectors: Matrix, tokenizer: Any) -> None:
        """Keep the vectors and their tokenizer.

        Args:
            vectors: one row a token, shape (tokens, 256).
            tokenizer: a `tokenizers.Tokenizer` whose ids are the rows' numbers.
        """
        self._vectors = vectors
        self._tokenizer = tokenizer

    def embed(self, text: str) -> Matrix:
        """The text's vector, shape (256,)."""
        ids = self._tokenizer.encode(text, add_special_tokens=False).ids
        return self._pooled(ids)

    def embed_all(self, texts: Sequence[str]) -> Matrix:
        """The texts' vectors, shape (texts, 256)."""
        encodings = self._tokenizer.encode_batch(list(texts), add_special_tokens=False)
        if not encodings:
            return np.zeros((0, DIMENSIONS), dtype=np.float32)
        return np.stack([self._pooled(encoding.ids) for encoding in encodings])

    def _pooled(self, ids: Sequence[int]) -> Matrix:
        if not ids:
            return np.zeros(DIMENSIONS, dtype=np.float32)
        # The mean's length carries nothing that the unit vector of the sum does not.
        total = self._vectors[list(ids)].sum(axis=0)
        length = float(np.sqrt(total @ total))
        pooled: Matrix = total / np.float32(max(length, _TINY))
        return pooled


@cache
def static_embeddings() -> StaticEmbeddings:
    """The embeddings of the installed `wordllama` package, loaded once.

    Raises:
        ReelRouteError: the package is not installed or lacks one of its two files.
    """
    spec = importlib.util.find_spec("wordllama")
    if spec is None or not spec.submodule_search_locations:
        raise ReelRouteError(
            "the embedded models need the package 'wordllama', which is not installed: "
            "install the pipeline's requirements"
        )
    folder = Path(next(iter(spec.submodule_search_locations)))
    for name in (_WEIGHTS, _TOKENIZER):
        if not (folder / name).is_file():
            raise ReelRouteError(
                f"the installed package 'wordllama' lacks {name}: "
                "install the version that the constraints file names"
            )
    (vectors,) = load_file(folder / _WEIGHTS).values()
    return StaticEmbeddings(
        vectors.astype(np.float32), Tokenizer.from_file(str(folder / _TOKENIZER))
    )
