"""Validate: no leak into training, every row somewhere, and errors that show what was seen."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_contracts.heldout import benchmark_queries, in_fresh_share, jaccard, normalise, words
from data_contracts.queries import LabelledQuery, UnlabelledQuery
from reelroute.errors import StageError
from reelroute.weights import RoutingWeights
from tasks.base import StageContext
from tasks.validate import (
    Split,
    channel_counts,
    check_records,
    check_set,
    read_prompts,
    read_rows,
    split_rows,
    store_dataset,
)
from tests.support import TEACHER, Place, corpus_rows, jsonl, read_jsonl, record

EVEN = RoutingWeights(visual=0.25, audio=0.25, transcription=0.25, metadata=0.25, reasoning="r")
VOCABULARY = ["red", "car", "dog", "barks", "loud", "at", "night", "news", "speaks", "goal"]

some_words = st.lists(st.sampled_from(VOCABULARY), min_size=1, max_size=6).map(" ".join)
held_out = st.sampled_from([row.query for row in benchmark_queries()[:40]])
near_held_out = st.builds(lambda query, word: f"{query} {word}", held_out, some_words)
queries = st.lists(
    st.one_of(some_words, held_out, near_held_out, held_out.map(str.upper)),
    max_size=40,
    unique=True,
)


def labelled(texts: Sequence[str]) -> list[LabelledQuery]:
    return [LabelledQuery.from_weights(text, EVEN, labelled_by=TEACHER) for text in texts]


def validating(place: Place, data: str | bytes, **overrides: Any) -> StageContext:
    """A validate stage that reads these labelled lines."""
    settings = place.settings(**overrides)
    run = place.run(settings=settings)
    text = data.decode() if isinstance(data, bytes) else data
    file = run.put_text("labelled/labelled.jsonl", text)
    label = record(run, "label", files={"labelled": file})
    return place.stage("validate", settings=settings, run=run, upstream={"label": label})


@settings(max_examples=60, deadline=None)
@given(texts=queries)
def test_no_training_row_equals_or_is_near_a_held_out_one_and_none_is_lost(
    texts: list[str],
) -> None:
    rows = labelled(texts)
    split = split_rows(rows)
    held = [row.query for row in (*benchmark_queries(), *split.fresh)]
    forms, sets = {normalise(text) for text in held}, [words(text) for text in held]
    for row in split.train:
        assert normalise(row.query) not in forms
        assert max(jaccard(words(row.query), other) for other in sets) < 0.6
    parts = [*split.train, *split.fresh]
    together = [row.query for row in parts] + [row.query for row in split.withheld]
    assert Counter(together) == Counter(texts)


@settings(max_examples=30, deadline=None)
@given(texts=queries)
def test_fresh_rows_are_picked_by_their_own_text_and_are_not_near_the_benchmark(
    texts: list[str],
) -> None:
    split = split_rows(labelled(texts))
    benchmark = [words(row.query) for row in benchmark_queries()]
    for row in split.fresh:
        assert in_fresh_share(row.query)
        assert max(jaccard(words(row.query), other) for other in benchmark) < 0.6
    assert not any(in_fresh_share(row.query) for row in split.train)


def test_a_benchmark_query_in_other_spelling_is_withheld_with_its_match() -> None:
    query = benchmark_queries()[0].query
    split = split_rows(labelled([f"  {query.upper()} !"]))
    assert (split.train, split.fresh) == ([], [])
    assert split.withheld[0].query == f"  {query.upper()} !"


def test_a_row_near_a_fresh_one_is_withheld_and_names_it() -> None:
    fresh = next(
        text
        for n in range(10_000)
        if in_fresh_share(text := f"brown otter number {n} swims past the wooden pier")
    )
    near = f"{fresh} slowly"
    split = split_rows(labelled([fresh, near, "quite another thing"]))
    assert [row.query for row in split.fresh] == [fresh]
    assert [(row.query, row.near) for row in split.withheld] == [(near, fresh)]
    assert [row.query for row in split.train] == ["quite another thing"]


def test_the_split_of_a_row_does_not_depend_on_the_others_order() -> None:
    rows = [*corpus_rows(300), *benchmark_queries()[:10]]
    forwards, backwards = split_rows(rows), split_rows(rows[::-1])
    for name in ("train", "fresh", "withheld"):
        one, other = getattr(forwards, name), getattr(backwards, name)
        assert {row.query for row in one} == {row.query for row in other}


@pytest.mark.usefixtures("prefect_server")
class TestTasks:
    def test_sound_rows_are_read_as_they_are(self, place: Place) -> None:
        rows = list(corpus_rows(5))
        assert check_records(validating(place, jsonl(rows))) == rows
        assert read_rows(jsonl(rows).encode()) == rows

    @pytest.mark.parametrize(
        ("broken", "said"),
        [
            ('{"id": "x"', "labelled.jsonl, line 3"),
            ('{"id": "0"}', "line 3: .*query: Field required"),
            (None, "line 3: .* add up to 0.9"),
        ],
    )
    def test_a_broken_row_is_named_by_its_line(
        self, broken: str | None, said: str, place: Place
    ) -> None:
        rows = [json.loads(line) for line in jsonl(corpus_rows(4)).splitlines()]
        if broken is None:
            rows[2] |= {"visual": 0.9, "audio": 0, "transcription": 0, "metadata": 0}
        lines = [json.dumps(row) for row in rows]
        if broken is not None:
            lines[2] = broken
        with pytest.raises(StageError, match=said) as error:
            check_records(validating(place, "\n".join(lines)))
        assert "Run the label stage again" in str(error.value)

    def test_a_labelled_file_that_was_changed_is_not_read(self, place: Place) -> None:
        stage = validating(place, jsonl(corpus_rows(4)))
        stage.storage.put(stage.run.key("labelled/labelled.jsonl"), b"{}\n")
        with pytest.raises(StageError, match="is not the file that its stage recorded"):
            check_records(stage)

    def test_a_set_that_fails_names_expectation_what_was_seen_and_a_sample(
        self, place: Place
    ) -> None:
        rows = list(corpus_rows(120))
        lazy = [row.model_copy(update={"reasoning": "because I say so today"}) for row in rows[:30]]
        stage = validating(place, "")
        with pytest.raises(StageError) as error:
            check_set(stage, [*lazy, *rows[30:]])
        said = str(error.value)
        assert "the labelled set fails" in said
        assert "because i say so today" in said.lower()
        assert "25" in said  # per cent of the rows
        assert "validation/result.json" in said
        assert stage.storage.get(stage.run.key("validation/result.json")) is not None
        assert stage.storage.get(stage.run.key("validation/docs/index.html")) is not None

    def test_a_set_out_of_balance_with_its_plan_fails(self, place: Place) -> None:
        rows = [row for row in corpus_rows(1500) if row.channel == "visual"][:120]
        with pytest.raises(StageError, match="visual"):
            check_set(validating(place, ""), rows)

    def test_with_queries_from_production_the_plans_balance_does_not_hold(
        self, place: Place
    ) -> None:
        rows = [row for row in corpus_rows(1500) if row.channel == "visual"][:120]
        rows[0] = rows[0].model_copy(update={"domain": "production", "difficulty": "unknown"})
        stage = validating(place, "", validate__reasoning_repeat_max=1)
        files = check_set(stage, rows)
        assert json.loads(stage.storage.read(files["report"]))["success"]

    def test_own_queries_are_not_held_to_the_plans_balance(self, place: Place) -> None:
        rows = [row for row in corpus_rows(1500) if row.channel == "visual"][:120]
        own = [
            row.model_copy(update={"difficulty": "unknown", "domain": "unknown"}) for row in rows
        ]
        stage = validating(place, "", validate__reasoning_repeat_max=1)
        files = check_set(stage, own)
        assert json.loads(stage.storage.read(files["report"]))["success"]

    def test_the_split_is_stored_with_what_was_withheld_and_why(self, place: Place) -> None:
        rows = [*corpus_rows(110), *benchmark_queries()[:2]]
        stage, split = validating(place, ""), split_rows(rows)
        files = store_dataset(stage, split)
        assert read_rows(stage.storage.read(files["train"])) == split.train
        assert read_rows(stage.storage.read(files["fresh"])) == split.fresh
        withheld = read_jsonl(stage.storage.read(files["withheld"]))
        assert [row["query"] for row in withheld] == [row.query for row in benchmark_queries()[:2]]

    @pytest.mark.parametrize("count", [0, 99, 15_001])
    def test_a_set_that_no_job_would_take_is_refused(self, count: int, place: Place) -> None:
        split = Split(train=[corpus_rows(1)[0]] * count)
        with pytest.raises(StageError, match=r"training rows; .* takes 100 to 15,000"):
            store_dataset(validating(place, ""), split)


def test_channels_are_counted() -> None:
    rows = corpus_rows(50)
    assert sum(channel_counts(rows).values()) == 50
    assert list(channel_counts(rows)) == sorted(channel_counts(rows))


@settings(max_examples=40, deadline=None)
@given(texts=queries, others=queries)
def test_no_prompt_equals_or_is_near_a_held_out_query_and_none_is_lost(
    texts: list[str], others: list[str]
) -> None:
    split = split_rows(labelled(texts), [UnlabelledQuery(query=text) for text in others])
    held = [*(row.query for row in benchmark_queries()), *(row.query for row in split.fresh)]
    for prompt in split.prompts:
        assert all(jaccard(words(prompt.query), words(query)) < 0.6 for query in held)
    withheld = Counter(row.query for row in split.withheld)
    withheld -= Counter(set(texts) - {row.query for row in (*split.train, *split.fresh)})
    assert Counter(others) == withheld + Counter(prompt.query for prompt in split.prompts)


def test_a_few_labels_and_many_prompts_make_a_set(place: Place) -> None:
    rows = list(corpus_rows(112))
    stage = validating(place, jsonl(rows[:12]))
    with pytest.raises(StageError, match="row count: expected 100 to"):
        check_set(stage, check_records(stage))
    prompts = "".join(
        UnlabelledQuery(query=row.query).model_dump_json() + "\n" for row in rows[12:]
    )
    file = stage.run.put_text("labelled/prompts.jsonl", prompts)
    label = stage.upstream["label"]
    label = label.model_copy(update={"files": {**label.files, "prompts": file}})
    stage = replace(stage, upstream={"label": label})
    found = check_records(stage)
    check_set(stage, found)
    split = split_rows(found, read_prompts(stage))
    files = store_dataset(stage, split)
    assert len(split.train) + len(split.prompts) == 112
    stored = read_jsonl(stage.storage.read(files["prompts"]))
    assert [row["query"] for row in stored] == [row.query for row in split.prompts]
