"""Ridge regression on tf-idf, on static embeddings, or on both, as scikit-learn gives it."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final

from benchmarks.candidates.base import Answer, Candidate, on_grid
from reelroute.student.rows import LabelledRow, weight_array

if TYPE_CHECKING:
    from deployments.embedded.models.embeddings import Matrix

_MODEL: Final = "ridge.pickle"
_ALPHA: Final = 1.0
#: Enough for three decimals of a weight; the default takes ten times as long for the same answers.
_TOLERANCE: Final = 1e-3


class _Ridge(Candidate):
    """A ridge regression of the four weights on some features of the query."""

    needs: ClassVar[tuple[str, ...]] = ("sklearn",)
    tfidf: ClassVar[bool] = False
    static: ClassVar[bool] = False

    def train(self, rows: Sequence[LabelledRow], folder: Path, student: Path) -> None:
        """Fit features and regression."""
        from sklearn.linear_model import Ridge
        from sklearn.pipeline import make_pipeline, make_union

        features = (_tfidf() if self.tfidf else []) + (_static() if self.static else [])
        solver = "lsqr" if self.tfidf else "auto"
        model = make_pipeline(
            make_union(*features), Ridge(alpha=_ALPHA, solver=solver, tol=_TOLERANCE)
        )
        model.fit([row.query for row in rows], weight_array(rows))
        (folder / _MODEL).write_bytes(pickle.dumps(model))

    def load(self, folder: Path) -> Answer:
        """The regression's answers, clipped and rounded to the grid."""
        model: Any = pickle.loads((folder / _MODEL).read_bytes())

        def answer(query: str) -> Any:
            return on_grid(model.predict([query])[0], self.name)

        answer("a first query takes longer")
        return answer

    def files(self, folder: Path) -> list[Path]:
        """The regression, and the static vectors if it uses them."""
        return super().files(folder) + (_static_files() if self.static else [])


class TfidfRidge(_Ridge):
    """Words and pairs of words, two to five characters."""

    name = "tfidf-ridge"
    label = "ridge on tf-idf"
    tfidf = True


class StaticRidge(_Ridge):
    """The mean of WordLlama's 256 static dimensions."""

    name = "static-ridge"
    label = "ridge on static embeddings"
    needs = ("sklearn", "wordllama")
    static = True


class BothRidge(_Ridge):
    """Both kinds of features beside each other."""

    name = "both-ridge"
    label = "ridge on both"
    needs = ("sklearn", "wordllama")
    tfidf = True
    static = True


def _tfidf() -> list[Any]:
    from sklearn.feature_extraction.text import TfidfVectorizer

    return [
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"(?u)\b\w+\b"),
        TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True),
    ]


def _static() -> list[Any]:
    from sklearn.preprocessing import FunctionTransformer

    return [FunctionTransformer(embed_all)]


def embed_all(queries: Sequence[str]) -> Matrix:
    """The queries' static vectors; a function of the module, so that it can be pickled."""
    from deployments.embedded.models.embeddings import static_embeddings

    return static_embeddings().embed_all(queries)


def _static_files() -> list[Path]:
    from importlib.util import find_spec

    spec = find_spec("wordllama")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    package = Path(next(iter(spec.submodule_search_locations)))
    return [*package.glob("weights/*_256.safetensors"), *package.glob("tokenizers/*.json")]
