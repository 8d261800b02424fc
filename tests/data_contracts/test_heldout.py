"""Held-out queries: the benchmark, the fresh share, and nearness."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_contracts.heldout import (
    FRESH_SHARE,
    NEAR_HELD_OUT,
    NearIndex,
    benchmark_queries,
    in_benchmark,
    in_fresh_share,
    is_held_out,
    jaccard,
    near_benchmark,
    normalise,
    words,
)
from data_contracts.queries import LEADING_CHANNELS

few_words = st.lists(st.sampled_from("abcdef"), max_size=7).map(" ".join)


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("  Dog   BARKING,\tloudly! ", "dog barking loudly"),
        ("ﬁlm №5", "film no5"),
        ("Straße", "strasse"),
        ("cafe\u0301", "café"),
        ("  ?! ", "?!"),
        ("", ""),
    ],
)
def test_spellings_that_count_as_equal_have_one_form(text: str, form: str) -> None:
    assert normalise(text) == form


@settings(max_examples=500)
@given(st.text())
def test_a_normal_form_is_its_own_normal_form(text: str) -> None:
    assert normalise(normalise(text)) == normalise(text)


@given(st.text())
def test_upper_case_and_space_around_change_nothing(text: str) -> None:
    if text.isascii():
        assert normalise(f" {text.upper()}\n") == normalise(text)


@given(st.frozensets(st.integers(0, 9)), st.frozensets(st.integers(0, 9)))
def test_the_jaccard_index_is_symmetric_and_1_for_equal_sets_alone(
    a: frozenset[str], b: frozenset[str]
) -> None:
    assert jaccard(a, b) == jaccard(b, a)
    assert 0 <= jaccard(a, b) <= 1
    assert (jaccard(a, b) == 1) == (a == b and bool(a))


@settings(max_examples=500)
@given(st.lists(few_words, max_size=12), few_words, st.sampled_from([0.01, 0.25, 0.5, 0.6, 1.0]))
def test_the_index_finds_what_comparing_with_every_query_finds(
    held: list[str], asked: str, threshold: float
) -> None:
    best = max(held, key=lambda query: jaccard(words(query), words(asked)), default="")
    is_near = jaccard(words(best), words(asked)) >= threshold
    assert NearIndex(held).near(asked, threshold) == (best if is_near else None)


def test_of_equally_near_queries_the_first_is_found() -> None:
    assert NearIndex(["b a", "a b"]).near("A, b", 0.6) == "b a"


def test_an_index_of_nothing_and_an_empty_query_find_nothing() -> None:
    assert NearIndex().near("dog", 0.6) is None
    assert NearIndex(["dog", "?"]).near("", 0.6) is None


def test_a_query_without_words_is_near_an_equal_one_alone() -> None:
    assert NearIndex(["dog ?", "?!"]).near(" ?! ", 0.6) == "?!"
    assert NearIndex(["dog ?", "?!"]).near("?", 0.6) is None


def test_the_benchmark_holds_300_valid_queries_once_each() -> None:
    queries = benchmark_queries()  # each is checked against the record contract
    assert len(queries) == 300
    assert len({normalise(row.query) for row in queries}) == 300
    assert len({row.id for row in queries}) == 300


def test_the_benchmark_is_stratified_over_channel_difficulty_and_domain() -> None:
    queries = benchmark_queries()
    channels = Counter(row.channel for row in queries)
    assert channels.keys() == set(LEADING_CHANNELS)
    assert all(channels[channel] >= 60 for channel in LEADING_CHANNELS if channel != "mixed")
    difficulties = Counter(row.difficulty for row in queries)
    assert difficulties.keys() == {"easy", "medium", "hard", "edge"}
    assert min(difficulties.values()) >= 45
    assert set(Counter(row.domain for row in queries).values()) == {15}
    cells = Counter((row.channel, row.difficulty) for row in queries)
    assert all(
        cells[channel, difficulty] >= 5
        for channel in LEADING_CHANNELS
        if channel != "mixed"
        for difficulty in difficulties
    )


def test_the_benchmarks_labels_lie_on_the_grid_and_are_reasoned() -> None:
    for row in benchmark_queries():
        for weight in row.weights.values():
            assert weight == round(weight * 20) / 20
        assert len(row.reasoning.split()) >= 3


def test_no_benchmark_query_is_near_another() -> None:
    queries = [row.query for row in benchmark_queries()]
    for position, query in enumerate(queries):
        others = NearIndex([*queries[:position], *queries[position + 1 :]])
        assert others.near(query, NEAR_HELD_OUT) is None


def test_each_benchmark_query_is_found_in_other_spellings_and_word_orders() -> None:
    for row in benchmark_queries():
        spelt = f" {row.query.upper()}!!"
        assert in_benchmark(row.query)
        assert is_held_out(row.query)
        assert near_benchmark(row.query) == row.query
        if normalise(spelt) == normalise(row.query):
            assert in_benchmark(spelt)
            assert near_benchmark(" ".join(reversed(spelt.split()))) == row.query


def test_a_query_of_other_words_is_neither_in_the_benchmark_nor_near_it() -> None:
    assert not in_benchmark("zebra crossing quietly")
    assert near_benchmark("xylophone zeppelin") is None


def test_the_fresh_share_is_about_right() -> None:
    queries = [f"{row.query} {take}" for row in benchmark_queries() for take in range(40)]
    share = sum(map(in_fresh_share, queries)) / len(queries)
    assert abs(share - FRESH_SHARE) < 0.006  # four standard errors of 12,000 draws


def test_all_spellings_of_a_query_are_on_the_same_side_of_the_fresh_share() -> None:
    for take in range(300):
        assert in_fresh_share(f"take {take}") == in_fresh_share(f"  TAKE, {take}!")


def test_queries_of_different_emoji_are_different() -> None:
    assert normalise("🚗💨🌧️") != normalise("🌫️🚦")
    assert NearIndex(["🚗💨🌧️"]).near("🌫️🚦", 0.9) is None
    assert words("हिन्दी गाना") == {"हिन्दी", "गाना"}
