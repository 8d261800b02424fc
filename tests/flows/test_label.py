"""The label stage through batch inference, at full size and killed for real."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from typing import Any

import pytest

from configs.settings import ROOT
from data_contracts.runs import StageRecord
from deployments.embedded.models.corpus import recorded_answers
from flows.label import label
from tests.stack import until
from tests.support import CallsSince, Place, corpus_rows, fault, hits_of, read_jsonl

pytestmark = pytest.mark.usefixtures("prefect_server")

CREATE = "CreateModelInvocationJob"
#: Words that make another query of one, far enough from it to be none of its duplicates.
ENDINGS = ("", " again at dusk in winter", " beside the old river mill")
BATCH: dict[str, Any] = {
    "label__batch_from": 1000,
    "label__batch_file_records": 10_000,
    "label__batch_role_arn": "arn:aws:iam::123456789012:role/reelroute-bedrock",
    "label__batch_poll_seconds": 0.2,
    "budget__usd_per_run": 1000,
}


def started(place: Place, queries: list[str], **settings: Any) -> str:
    """A run with queries of its own; the path of its profile."""
    overrides = {**BATCH, **settings}
    place.run("run-1", place.settings(**overrides), "\n".join(queries).encode())
    return place.profile(**overrides)


def record_of(place: Place) -> StageRecord:
    record = place.run().latest("label")
    assert record is not None
    return record


def lines(place: Place, ending: str) -> list[dict[str, Any]]:
    """All lines of the bucket's files whose keys end so."""
    storage = place.storage()
    stored = [storage.get(key) for key in storage.keys("runs/") if key.endswith(ending)]
    return [line for one in stored if one for line in read_jsonl(one.data)]


@pytest.mark.parametrize(
    ("many", "a_file", "threshold"),
    [(600, 300, 100), pytest.param(20_000, 10_000, 1000, marks=pytest.mark.slow)],
)
def test_all_queries_of_two_jobs_are_accounted_for_though_records_err_and_one_job_times_out(
    many: int, a_file: int, threshold: int, place: Place, calls: CallsSince
) -> None:
    short = [a.query for a in recorded_answers() if len(a.query.split()) <= 25]
    each = -(-many // len(ENDINGS))
    queries = [f"{query}{ending}" for ending in ENDINGS for query in short[:each]][:many]
    config = started(place, queries, label__batch_from=threshold, label__batch_file_records=a_file)
    seed = next(s for s in range(99) if hits_of("unfinished-jobs", s, calls=4) == [0, 1, 0, 0])
    with (
        fault(place.aws, "unfinished-jobs", rate=0.5, seed=seed),
        fault(place.aws, "record-errors", rate=0.01, seed=3),
    ):
        assert label("run-1", config=config, return_state=True).is_completed()

    record = record_of(place)
    counts, files = record.metrics, record.files
    assert counts["asked"] == many
    assert many == counts["accepted"] + counts["duplicates"] + counts["quarantined"]
    labelled, lost, twins = (
        [row["query"] for row in read_jsonl(place.storage().read(files[name]))]
        for name in ("labelled", "quarantine", "duplicates")
    )
    assert sorted([*labelled, *lost, *twins]) == sorted(queries)

    # Each query that is labelled was answered once, by a job or on demand; the others never.
    output = lines(place, ".jsonl.out")
    answered = Counter(line["recordId"] for line in output if "modelOutput" in line)
    failed = [line["recordId"] for line in output if "error" in line]
    on_demand = calls.asked()
    assert set(answered.values()) == {1}
    assert len(answered) + on_demand == len(labelled)
    assert len(failed) == len(set(failed)) == len(lost)
    assert 0 < len(lost) < 0.02 * many
    # Two jobs, and a third with what the second has left.
    sent = Counter(line["recordId"] for line in lines(place, ".jsonl") if "recordId" in line)
    assert calls.count(CREATE) == 3
    assert sum(sent.values()) == len(sent) + sum(n == 2 for n in sent.values())
    assert sum(n == 2 for n in sent.values()) == a_file // 2 - (counts["duplicates"] + 1) // 2
    assert record.cost.calls == len(labelled)


@pytest.mark.slow
def test_a_stage_that_is_killed_between_submitting_and_collecting_asks_nothing_twice(
    place: Place, calls: CallsSince
) -> None:
    queries = [row.query for row in corpus_rows(400)]
    config = started(place, queries, label__batch_from=100, label__batch_file_records=200)
    code = f"from flows.label import label; label('run-1', config={config!r})"
    with fault(place.aws, "slow", operations=["GetModelInvocationJob"], seconds=60):
        process = subprocess.Popen(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            until("both jobs are made", lambda: calls.count(CREATE) == 2)
        finally:
            process.kill()
            process.wait()
    assert place.run().latest("label") is None
    assert label("run-1", config=config, return_state=True).is_completed()
    record = record_of(place)
    assert (record.attempt, record.metrics["starts"]) == (1, 2)
    assert (record.metrics["accepted"], record.metrics["from_batches"]) == (400, 400)
    assert (calls.count(CREATE), calls.asked()) == (2, 0)
    answered = Counter(line["recordId"] for line in lines(place, ".jsonl.out"))
    assert (len(answered), set(answered.values())) == (400, {1})
    assert record.cost.calls == 400
