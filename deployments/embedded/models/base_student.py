"""The base student: no training, only the likeness of a query to each channel's description."""

from __future__ import annotations

from typing import Final

import numpy as np

from deployments.embedded.models.answers import bare_json, fenced, fraction_of
from deployments.embedded.models.embeddings import StaticEmbeddings
from reelroute.weights import MODALITIES, Modality, round_to_grid

#: What each channel holds, from the labelling guide.
DESCRIPTIONS: Final[dict[Modality, str]] = {
    "visual": "the picture: appearance, colours, objects, actions, scenes, camera angle",
    "audio": "the sound track: music, noise, sound effects, ambience, tone of voice",
    "transcription": "what is said: spoken words, quotes, dialogue, narration, discussion",
    "metadata": "facts: person names, titles, genres, dates, places, episode numbers, licences",
}
#: Of all queries, the share that is answered in prose, as base models do.
PROSE_SHARE: Final = 0.25
_TEMPERATURE: Final = 0.08


class BaseStudent:
    """Zero-shot routing: a softmax over four cosines."""

    def __init__(self, embeddings: StaticEmbeddings) -> None:
        self._embeddings = embeddings
        self._channels = embeddings.embed_all([DESCRIPTIONS[m] for m in MODALITIES])

    def answer(self, text: str) -> str:
        """Weights for a query: bare JSON, or prose around fenced or broken JSON."""
        cosines = self._channels @ self._embeddings.embed(text)
        odds = np.exp((cosines - cosines.max()) / _TEMPERATURE)
        weights = round_to_grid(odds.tolist())
        leading = max(weights, key=lambda modality: weights[modality])
        answer = bare_json(weights, f"The query fits the {leading} channel best.")
        draw = fraction_of(text, "base-student") / PROSE_SHARE
        if draw >= 1:
            return answer
        return _as_prose(answer, text.strip(), leading, broken=draw < 0.6)


def _as_prose(answer: str, query: str, leading: Modality, *, broken: bool) -> str:
    opening = f'Sure! For the query "{query}" I would look mostly at the {leading} channel.'
    if not broken:
        return f"{opening} Here are the weights:\n\n{fenced(answer)}\n\nLet me know if it helps."
    unquoted = answer.replace('"', "")
    return f"{opening} My suggestion is {unquoted[:-1]}, and the rest can stay low."
