"""`python -m reelroute.student.command`: a training in a process of its own.

The pipeline trains in a subprocess, so that a worker without torch can run the rest of it.
Standard output carries one JSON object a line: `{"progress": …}` while it trains, at the end
`{"card": …}` or `{"error": "a sentence"}`.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from reelroute.errors import ReelRouteError
from reelroute.problems import first_problem
from reelroute.student.rows import LabelledRow
from reelroute.student.settings import TrainSettings
from reelroute.weights import MODALITIES


def main(arguments: list[str] | None = None) -> int:
    """Train from a file of labelled queries; the exit code is 0 if the model was made."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=Path, required=True, help="labelled queries, JSON a line")
    parser.add_argument("--out", type=Path, required=True, help="the model folder to make")
    parser.add_argument("--settings", default="{}", help="TrainSettings as a JSON object")
    given = parser.parse_args(arguments)
    try:
        settings = TrainSettings.model_validate_json(given.settings)
        rows = read_rows(given.rows)
        try:
            from reelroute.student.train import Progress, train
        except ModuleNotFoundError as error:
            raise ReelRouteError(
                f"training the local student needs {error.name}: "
                "pip install 'reelroute[training]', or leave `local` out of `distill.students`"
            ) from None

        def show(progress: Progress) -> None:
            _say({"progress": {**asdict(progress), "dev": progress.dev.model_dump()}})

        card = train(rows, given.out, settings, show)
    except ValidationError as error:
        _say({"error": f"settings of the training: {first_problem(error)}"})
        return 1
    except ReelRouteError as error:
        _say({"error": str(error)})
        return 1
    _say({"card": card.model_dump(mode="json")})
    return 0


def read_rows(path: Path) -> list[LabelledRow]:
    """Rows from a file of labelled queries: JSON objects with `query` and the four weights.

    Raises:
        ReelRouteError: a line can't be read; the message names it.
    """
    rows = []
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            record = json.loads(line)
            weights = tuple(float(record[modality]) for modality in MODALITIES)
            rows.append(LabelledRow(str(record["query"]), weights))  # type: ignore[arg-type]
        except (ValueError, KeyError, TypeError) as error:
            raise ReelRouteError(
                f"{path}, line {number} is not a labelled query: {error!r}"
            ) from None
    return rows


def _say(record: dict[str, Any]) -> None:
    print(json.dumps(record), flush=True)


if __name__ == "__main__":
    sys.exit(main())
