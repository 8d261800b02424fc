"""Keyword rules: what is left when no model gives a usable answer."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reelroute.routers import MAX_QUERY_CHARACTERS, QueryError, RulesRouter, check_query
from reelroute.rubric import percents

queries = st.text(min_size=1, max_size=200).filter(lambda text: bool(text.split()))
cue_words = st.lists(
    st.sampled_from(
        ["red", "sunset", "music", "barking", "said", "interview", "season", "episode 7", "2024"]
    ),
    max_size=12,
).map(lambda found: "thing " + " ".join(found))


@given(query=st.one_of(queries, cue_words))
def test_rules_always_give_weights_on_the_grid_that_add_up_to_one(query: str) -> None:
    weights = RulesRouter().route(query)
    assert sum(percents(weights)) == 100
    assert all(percent % 5 == 0 for percent in percents(weights))
    assert weights.router == "rules"
    assert weights.reasoning
    assert RulesRouter().route(query) == weights


@pytest.mark.parametrize(
    ("query", "channel"),
    [
        ("aerial shot of a red car driving", "visual"),
        ("loud barking and thunder noise", "audio"),
        ("CEO discussing and explaining the debate", "transcription"),
        ("season 3 episode 7 of the documentary", "metadata"),
    ],
)
def test_cue_words_move_their_channel_and_are_named(query: str, channel: str) -> None:
    weights = RulesRouter().route(query)
    assert weights.dominant == channel
    assert f"for {channel}" in weights.reasoning


@given(query=st.sampled_from(["", " ", "\n\t", "\u3000", "x" * (MAX_QUERY_CHARACTERS + 1)]))
def test_what_is_no_query_is_refused(query: str) -> None:
    with pytest.raises(QueryError):
        RulesRouter().route(query)


@pytest.mark.parametrize(
    ("given_", "asked"),
    [
        ("  dog \n barking\t", "dog barking"),
        ("cut \ud83d", "cut \ufffd"),
        ("\ude00 cut", "\ufffd cut"),
        ("whole \ud83d\ude00", "whole \U0001f600"),
        ("ネコ", "ネコ"),
    ],
)
def test_a_query_is_asked_with_single_spaces_and_whole_characters(given_: str, asked: str) -> None:
    assert check_query(given_) == asked
