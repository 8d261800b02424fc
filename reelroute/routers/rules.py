"""Keyword rules: what is left when no model gives a usable answer."""

from __future__ import annotations

import re
from typing import Final

from reelroute.routers.base import RULES, Router, check_query
from reelroute.weights import MODALITIES, Modality, RoutingWeights, round_to_grid


class RulesRouter(Router):
    """Keyword rules: the fallback that needs no model.

    Each cue word adds to its channel; every channel starts with a small share, so that a query
    without cues leans on the picture and on titles, as most queries do.
    """

    name = RULES
    _START: Final[dict[Modality, float]] = {
        "visual": 0.45,
        "audio": 0.1,
        "transcription": 0.2,
        "metadata": 0.25,
    }
    _CUES: Final[dict[Modality, re.Pattern[str]]] = {
        "visual": re.compile(
            r"\b(red|blue|green|black|white|yellow|colou?r\w*|shot|aerial|drone|close-?up|slow "
            r"motion|sunset|sunrise|wearing|standing|walking|running|driving|holding|smiling|"
            r"landscape|silhouette|footage of)\b",
            re.IGNORECASE,
        ),
        "audio": re.compile(
            r"\b(sounds?|noise|music|song|singing|barking|cheer\w*|applause|laugh\w*|scream\w*|"
            r"loud\w*|whisper\w*|guitar|piano|drums?|bell|siren|thunder|engine|crying|hum\w*|"
            r"roar\w*|audio|melody)\b",
            re.IGNORECASE,
        ),
        "transcription": re.compile(
            r"\b(say\w*|said|talk\w*|discuss\w*|explain\w*|speech|interview\w*|quote|mention\w*|"
            r"tell\w*|ask\w*|answer\w*|debate|lecture|announc\w*|describ\w*|dialogue|narrat\w*|"
            r"speak\w*|argu\w*|story about)\b|[\"“”]",
            re.IGNORECASE,
        ),
        "metadata": re.compile(
            r"\b(season|episode|s\d+e\d+|part \d+|(19|20)\d\d|4k|1080p|hd|trailer|directed by|"
            r"starring|title|licen[cs]e\w*|full (game|movie|episode)|vol(ume)?|chapter|"
            r"documentary|uploaded|channel)\b",
            re.IGNORECASE,
        ),
    }

    def route(self, query: str) -> RoutingWeights:
        """The weights that the cue words of the query give."""
        text = check_query(query)
        found = {m: [c.group(0) for c in self._CUES[m].finditer(text)] for m in MODALITIES}
        raw: dict[str, float] = {m: self._START[m] + 0.6 * len(found[m]) for m in MODALITIES}
        cues = [f"{', '.join(words)} for {m}" for m, words in found.items() if words]
        reasoning = f"Cue words: {'; '.join(cues)}." if cues else "No cue words: the usual shares."
        return RoutingWeights(**round_to_grid(raw), reasoning=reasoning, router=self.name)
