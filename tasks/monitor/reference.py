"""What a window is compared with: the current release's training set, and the window before."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from data_contracts.monitoring import PRODUCTION_DOMAIN, Aggregate, LineCounts, Window
from data_contracts.queries import LabelledQuery
from reelroute.service.logs import QueryLog, RouteLine
from tasks.monitor.aggregate import Reading, Vocabulary, aggregate_file, vocabulary_of
from tasks.releases import current_pointer, load_release
from tasks.runs import Run
from tasks.stable import read_mark
from tasks.storage import Storage
from tasks.validate import read_prompt_rows, read_rows

#: What a training set says of queries; the rest of what logs hold is the service's own.
_KNOWN: Final = ("channel", "visual", "audio", "transcription", "metadata", "words", "script")


@dataclass(frozen=True, slots=True)
class TrainingSet:
    """The current release's training set.

    Attributes:
        release: the release's version.
        models: deployments that answered for this release or the one before it.
        aggregate: of the queries that came from production, where there are enough of them; of
            all otherwise.
        vocabulary: of all its queries.
    """

    release: str
    models: frozenset[str]
    aggregate: Aggregate
    vocabulary: Vocabulary


def training_set(storage: Storage, min_queries: int) -> TrainingSet | None:
    """The current release's training set, or None before the first release.

    Raises:
        ReleaseError, StageError: release or training set are gone or other than recorded.
        AwsError: the bucket can't be reached.
    """
    current = current_pointer(storage)
    if current is None:
        return None
    refs = (current.pointer, *current.pointer.history[:1])
    releases = [load_release(storage, ref) for ref in refs]
    record = Run(storage, releases[0].run_id).completed("validate")
    rows = read_rows(storage.read(record.files["train"]))
    prompts = (
        read_prompt_rows(storage.read(record.files["prompts"])) if "prompts" in record.files else []
    )
    production = [row for row in rows if row.domain == PRODUCTION_DOMAIN]
    return TrainingSet(
        release=releases[0].version,
        models=frozenset(r.bedrock.deployment_arn for r in releases if r.bedrock)
        | ({stable.deployment_arn} if (stable := read_mark(storage)) else set()),
        aggregate=aggregate_rows(production if len(production) >= min_queries else rows),
        vocabulary=vocabulary_of([*(row.query for row in rows), *(row.query for row in prompts)]),
    )


def aggregate_rows(rows: Sequence[LabelledQuery]) -> Aggregate:
    """Labelled rows as if they had been asked and answered with their labels."""
    moment = datetime(2000, 1, 1, tzinfo=UTC)
    window = Window(start=moment, end=moment + timedelta(minutes=1))
    vocabulary = vocabulary_of([row.query for row in rows])
    with tempfile.TemporaryDirectory(prefix="reelroute-training-") as folder:
        path = Path(folder) / "rows.jsonl"
        with path.open("w", encoding="ascii") as lines:
            for row in rows:
                query = QueryLog.of(row.query, row.weights, fallback=False, with_text=False)
                line = RouteLine(
                    ts=moment,
                    request_id=row.id,
                    status=200,
                    latency_ms=0,
                    query_count=1,
                    queries=(query,),
                )
                lines.write(line.to_line())
        found = aggregate_file(path, Reading(window)).aggregate
    histograms = {name: found.histogram(name) for name in _KNOWN}
    histograms["vocabulary"] = {
        "known": vocabulary.queries - vocabulary.rare,
        "new": vocabulary.rare,
    }
    return found.model_copy(update={"histograms": histograms, "lines": LineCounts()})
