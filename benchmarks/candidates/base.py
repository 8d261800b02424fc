"""What a candidate of the benchmark is: it trains into a folder and answers from that folder."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar

from reelroute.student.rows import LabelledRow
from reelroute.weights import MODALITIES, RoutingWeights, round_to_grid

#: A query in, weights out.
Answer = Callable[[str], RoutingWeights]


class Candidate(ABC):
    """A router that is compared; training and answering may happen in different processes.

    Attributes:
        name: as the command line names it.
        label: as the table shows it.
        needs: the packages without which it is skipped, by the name that is imported.
        learns: whether it takes training at all.
    """

    name: ClassVar[str]
    label: ClassVar[str]
    needs: ClassVar[tuple[str, ...]] = ()
    learns: ClassVar[bool] = True

    def missing(self) -> list[str]:
        """Which of `needs` are not installed."""
        return [package for package in self.needs if find_spec(package) is None]

    @abstractmethod
    def train(self, rows: Sequence[LabelledRow], folder: Path, student: Path) -> None:
        """Learn from rows and leave everything learnt in a folder.

        Args:
            rows: labelled queries.
            folder: an empty folder of the candidate's own.
            student: the folder of the trained local student.
        """

    @abstractmethod
    def load(self, folder: Path) -> Answer:
        """What answers queries, from the folder that `train` filled."""

    def files(self, folder: Path) -> list[Path]:
        """Every file that answering needs, packages' code aside."""
        return [path for path in folder.rglob("*") if path.is_file()]


def on_grid(numbers: Sequence[float], router: str) -> RoutingWeights:
    """Four numbers as weights on the labels' grid; negative ones count as 0, all 0 as equal."""
    clipped = [max(float(number), 0.0) for number in numbers]
    shares = clipped if sum(clipped) > 0 else [1.0] * len(MODALITIES)
    return RoutingWeights(**round_to_grid(shares), reasoning="", router=router)
