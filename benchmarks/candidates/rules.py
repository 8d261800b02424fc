"""Keyword rules: what a team writes first."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.candidates.base import Answer, Candidate
from reelroute.routers.rules import RulesRouter
from reelroute.student.rows import LabelledRow


class Rules(Candidate):
    """ReelRoute's own fallback."""

    name = "rules"
    label = "keyword rules"
    learns = False

    def train(self, rows: Sequence[LabelledRow], folder: Path, student: Path) -> None:
        """Nothing to learn."""

    def load(self, folder: Path) -> Answer:
        """The rules router."""
        return RulesRouter().route
