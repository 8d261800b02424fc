"""Log files to aggregates: every line is counted once, and only sound ones as requests."""

from __future__ import annotations

import json
from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_contracts.monitoring import Aggregate, LineCounts
from reelroute.service.logs import RouteLine
from tasks.monitor.aggregate import (
    Reading,
    Sampled,
    aggregate_file,
    distinct,
    vocabulary_of,
)
from tests.support import corpus_rows
from tests.tasks.monitor.factory import END, WINDOW, line, traffic, write

ROWS = corpus_rows(40)
SOUND = line(ROWS[:1])


def aggregated(path: Path, **how: Any) -> Aggregate:
    return aggregate_file(path, Reading(WINDOW, **how)).aggregate


def counted(folder: Path, *lines: str) -> LineCounts:
    return aggregated(write(folder / "log.jsonl", lines)).lines


def changed(**fields: Any) -> str:
    return json.dumps({**json.loads(SOUND.to_line()), **fields}) + "\n"


def changed_query(**fields: Any) -> str:
    record = json.loads(SOUND.to_line())
    record["queries"][0].update(fields)
    return json.dumps(record) + "\n"


def test_histograms_are_what_the_lines_say(tmp_path: Path) -> None:
    lines = list(traffic(ROWS, 300))
    read = [RouteLine.model_validate_json(text) for text in lines]
    found = aggregated(write(tmp_path / "log.jsonl", lines))
    queries = [query for request in read for query in request.queries]
    assert found.lines == LineCounts(read=300, requests=300)
    assert found.queries == found.texts == 300
    assert found.histogram("channel") == Counter(query.dominant for query in queries)
    assert found.histogram("script") == Counter(query.script or "none" for query in queries)
    assert found.histogram("fallback") == {"own": 300}
    assert found.histogram("status") == {"200": 300}
    inactive = sum(query.weights["audio"] < 0.05 for query in queries)
    assert found.histogram("audio").get("under 0.05", 0) == inactive
    for name in ("channel", "visual", "audio", "transcription", "metadata", "words", "script"):
        assert sum(found.histogram(name).values()) == 300, name


def test_a_request_of_many_queries_counts_each(tmp_path: Path) -> None:
    found = aggregated(write(tmp_path / "log.jsonl", [line(ROWS).to_line()]))
    assert found.lines.requests == 1
    assert found.queries == len(ROWS)


def test_gzipped_and_plain_are_the_same(tmp_path: Path) -> None:
    lines = list(traffic(ROWS, 50))
    plain = aggregated(write(tmp_path / "a.jsonl", lines))
    assert aggregated(write(tmp_path / "a.jsonl.gz", lines)) == plain


def test_a_file_cut_in_two_adds_up_to_the_whole(tmp_path: Path) -> None:
    lines = [*traffic(ROWS, 60), "{\n", changed(event="other")]
    vocabulary = vocabulary_of([row.query for row in ROWS[:10]]).words
    whole, *parts = (
        aggregated(write(tmp_path / f"{name}.jsonl", some), vocabulary=vocabulary)
        for name, some in (("whole", lines), ("a", lines[:23]), ("b", lines[23:]))
    )
    assert parts[0] + parts[1] == whole


def test_the_windows_start_belongs_to_it_and_its_end_to_the_next(tmp_path: Path) -> None:
    moment = timedelta(milliseconds=1)
    times = (WINDOW.start - moment, WINDOW.start, END - moment, END)
    lines = [line(ROWS[:1], at).to_line() for at in times]
    assert counted(tmp_path, *lines) == LineCounts(read=4, outside=2, requests=2)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("{\n", "malformed"),
        ("[1, 2]\n", "malformed"),
        ("null\n", "malformed"),
        (SOUND.to_line().strip() + "junk\n", "malformed"),
        (SOUND.to_line()[:-30] + "\n", "malformed"),
        (changed(ts="yesterday"), "malformed"),
        (changed(latency_ms=-1), "malformed"),
        (changed(latency_ms=None), "malformed"),
        (changed(status="good"), "malformed"),
        (changed(queries="none"), "malformed"),
        (changed_query(dominant="smell"), "malformed"),
        (changed_query(weights={"visual": 1}), "malformed"),
        (changed_query(words=0), "malformed"),
        (changed_query(confidence=2), "malformed"),
        (changed_query(fallback=None), "malformed"),
        (changed(event="startup"), "other"),
        (changed(ts="2001-01-01T00:00:00.000Z"), "outside"),
        (changed(status=503, error="overloaded", queries=[]), "requests"),
        (changed(later_key={"a": 1}), "requests"),
        (SOUND.to_line().replace("\n", "\r\n"), "requests"),
    ],
)
def test_each_line_is_of_one_kind(text: str, kind: str, tmp_path: Path) -> None:
    found = counted(tmp_path, SOUND.to_line(), text, SOUND.to_line())
    assert found == LineCounts(read=3, requests=2) + LineCounts(**{kind: 1})


def test_bytes_that_are_no_text_are_a_malformed_line(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_bytes(SOUND.to_line().encode() + b'\xff\xfe\n{"ts": "\xff"}\n\n')
    assert aggregated(path).lines == LineCounts(read=3, malformed=2, requests=1)


_anything = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
_query_keys = st.sampled_from(["words", "dominant", "weights", "fallback", "script", "text"])
_keys = st.sampled_from(["ts", "status", "latency_ms", "queries", "event", "release"])


@settings(max_examples=8, deadline=None)
@given(
    st.lists(st.dictionaries(_keys, _anything, max_size=2).map(lambda f: changed(**f))),
    st.lists(st.dictionaries(_query_keys, _anything, max_size=2).map(lambda f: changed_query(**f))),
)
def test_counts_add_up_whatever_the_lines_hold(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str], more: list[str]
) -> None:
    path = write(tmp_path_factory.mktemp("any") / "log.jsonl", [*lines, *more])
    found = aggregated(path)
    kinds = dict(found.lines)
    assert kinds.pop("read") == len(lines) + len(more) == sum(kinds.values())
    assert sum(found.histogram("status").values()) == found.lines.requests
    assert sum(found.histogram("channel").values()) == found.queries


def test_a_file_that_is_cut_off_can_not_be_read(tmp_path: Path) -> None:
    path = write(tmp_path / "log.jsonl.gz", traffic(ROWS, 500))
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ValueError, match="GZIP"):
        aggregated(path)


def test_an_empty_file_comes_to_nothing(tmp_path: Path) -> None:
    assert aggregated(write(tmp_path / "log.jsonl", [])) == Aggregate()


def test_new_words_are_those_that_the_training_set_does_not_hold(tmp_path: Path) -> None:
    known, new = ROWS[0], ROWS[1]
    vocabulary = vocabulary_of([known.query.upper()]).words
    lines = [line([known]).to_line()] * 3 + [line([new]).to_line()] * 2
    found = aggregated(write(tmp_path / "log.jsonl", lines), vocabulary=vocabulary)
    assert found.histogram("vocabulary") == {"known": 3, "new": 2}
    assert set(found.new_words.values()) == {2}
    assert not vocabulary & set(found.new_words)


def test_without_texts_there_are_no_words_and_no_sample(tmp_path: Path) -> None:
    path = write(tmp_path / "log.jsonl", traffic(ROWS, 20, with_text=False))
    found = aggregate_file(path, Reading(WINDOW, frozenset({"a"}), sample_size=5))
    assert {sampled.text for sampled in found.sample} == {None}
    assert len(found.sample) == 5
    assert found.aggregate.texts == 0
    assert found.aggregate.histogram("vocabulary") == {}
    assert sum(found.aggregate.histogram("channel").values()) == 20


def test_rare_words_say_how_many_queries_bring_one_of_their_own() -> None:
    found = vocabulary_of(["a dog barks", "a dog sleeps", "a dog"])
    assert found.words == {"a", "dog", "barks", "sleeps"}
    assert (found.queries, found.rare) == (3, 2)


def test_the_sample_is_of_distinct_queries_and_depends_on_the_seed_alone(tmp_path: Path) -> None:
    lines = list(traffic(ROWS, 400))
    path = write(tmp_path / "log.jsonl", lines)
    back = write(tmp_path / "back.jsonl", reversed(lines))

    def sample(path: Path, seed: int) -> tuple[Sampled, ...]:
        return aggregate_file(path, Reading(WINDOW, sample_size=10, seed=seed)).sample

    one = sample(path, 1)
    assert len({sampled.text for sampled in one}) == 10
    assert all(sampled.seen > 1 for sampled in one)
    assert one == sample(back, 1)
    assert one != sample(path, 2)


def test_distinct_queries_count_once_however_often_they_are_asked(tmp_path: Path) -> None:
    lines = [line(ROWS[:1]).to_line()] * 50 + [line([row]).to_line() for row in ROWS[1:10]]
    path = write(tmp_path / "log.jsonl", lines)
    vocabulary = vocabulary_of([ROWS[0].query]).words
    found = distinct(aggregate_file(path, Reading(WINDOW, vocabulary, sample_size=100)).sample)
    assert found.queries == 10
    assert found.histogram("channel") == Counter(row.weights.dominant for row in ROWS[:10])
    assert found.histogram("vocabulary") == {"known": 1, "new": 9}
    assert sum(found.histogram("words").values()) == 10


def test_a_small_memory_is_enough_for_a_file_that_is_larger(tmp_path: Path) -> None:
    lines = list(traffic(ROWS, 2000))
    path = write(tmp_path / "log.jsonl", lines * 10)
    found = aggregated(path, memory_mb=100)
    assert found.queries == 20_000
