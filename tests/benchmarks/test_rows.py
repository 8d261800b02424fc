"""What the student's benchmark trains on and evaluates on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.rows import evaluation_rows, read_heldout, timed_queries, training_rows
from data_contracts.heldout import benchmark_queries, in_fresh_share, is_held_out, near_benchmark
from reelroute.errors import ReelRouteError
from reelroute.student.rows import LabelledRow

GOOD = {
    "query": "jazz at night",
    "visual": 0.1,
    "audio": 0.6,
    "transcription": 0.1,
    "metadata": 0.2,
}


def written(folder: Path, *lines: str) -> Path:
    file = folder / "heldout.jsonl"
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


def test_a_heldout_file_is_read_and_its_other_keys_ignored(tmp_path: Path) -> None:
    file = written(tmp_path, json.dumps(GOOD | {"author": "B"}), "", json.dumps(GOOD))
    assert read_heldout(file) == [LabelledRow("jazz at night", (0.1, 0.6, 0.1, 0.2))] * 2


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "line 2 is not JSON"),
        ("[]", "line 2 is not a JSON object"),
        (json.dumps({**GOOD, "query": "  "}), "line 2 is not a labelled query: query"),
        (json.dumps({**GOOD, "audio": "much"}), "line 2 is not a labelled query: audio"),
        (json.dumps({**GOOD, "audio": True}), "line 2 is not a labelled query: audio"),
        (json.dumps({**GOOD, "audio": float("nan")}), "line 2 is not a labelled query: audio"),
        (json.dumps({**GOOD, "audio": 0.7}), "line 2: the four weights add up to 1.1, not to 1"),
        ('{"query": "no weights"}', "line 2 is not a labelled query: visual"),
    ],
)
def test_a_line_that_is_no_labelled_query_is_named(tmp_path: Path, line: str, said: str) -> None:
    with pytest.raises(ReelRouteError) as caught:
        read_heldout(written(tmp_path, json.dumps(GOOD), line))
    assert said in str(caught.value)


def test_a_file_without_queries_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ReelRouteError, match="holds no labelled query"):
        read_heldout(written(tmp_path, ""))


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ReelRouteError, match="can't be read: No such file"):
        read_heldout(tmp_path / "none.jsonl")


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "heldout.jsonl"
    file.write_bytes(b"\xff\xfe{}")
    with pytest.raises(ReelRouteError, match="not UTF-8"):
        read_heldout(file)


def test_the_committed_benchmark_is_evaluated_by_default() -> None:
    assert [row.query for row in evaluation_rows(None)] == [b.query for b in benchmark_queries()]


def test_nothing_that_is_held_out_or_near_it_is_trained_on() -> None:
    training = training_rows(evaluation_rows(None))
    assert len(training.rows) > 8_000
    assert training.near_evaluation == 0
    for row in training.rows:
        assert not is_held_out(row.query)
        assert not in_fresh_share(row.query)
        assert near_benchmark(row.query) is None


def test_rows_near_a_users_own_queries_are_left_out_and_counted() -> None:
    everything = training_rows([])
    evaluated = [everything.rows[0], LabelledRow(f"{everything.rows[1].query}!", GOLD)]
    training = training_rows(evaluated)
    assert training.near_evaluation >= 2
    assert len(training.rows) + training.near_evaluation == len(everything.rows)
    assert not {row.query for row in everything.rows[:2]} & {row.query for row in training.rows}


GOLD = (0.25, 0.25, 0.25, 0.25)


def test_a_smaller_training_set_is_part_of_the_larger() -> None:
    small, large = (set(training_rows([], size).rows) for size in (100, 200))
    assert len(small) == 100
    assert small < large


def test_timed_queries_have_about_ten_words_and_are_the_same_every_time() -> None:
    queries: list[Any] = timed_queries(1_000)
    assert len(set(queries)) == 1_000
    assert {len(query.split()) for query in queries} == {9, 10, 11}
    assert queries == timed_queries(1_000)
