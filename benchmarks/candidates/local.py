"""The local student, as it ships: its default recipe, int8, ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.candidates.base import Answer, Candidate
from reelroute.routers.local import LocalRouter
from reelroute.student.rows import LabelledRow


class LocalStudent(Candidate):
    """ReelRoute's local student."""

    name = "local"
    label = "**local student, int8**"
    needs = ("onnxruntime", "tokenizers")

    def train(self, rows: Sequence[LabelledRow], folder: Path, student: Path) -> None:
        """Train with the default recipe."""
        from reelroute.student.train import train

        train(rows, folder)

    def load(self, folder: Path) -> Answer:
        """The local router."""
        return LocalRouter.of_folder(folder).route
