"""Labelled queries: ids, consistency, leading channels."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from data_contracts.queries import (
    MAX_QUERY_CHARACTERS,
    LabelledQuery,
    QuarantinedQuery,
    leading_channel,
    query_id,
)
from reelroute.weights import MODALITIES, RoutingWeights, round_to_grid

QUERY = "CEO discussing quarterly earnings"


def labelled(query: str = QUERY, **fields: object) -> LabelledQuery:
    values = {
        "id": query_id(query),
        "query": query,
        "visual": 0.2,
        "audio": 0.1,
        "transcription": 0.6,
        "metadata": 0.1,
        "reasoning": "Earnings are talked about.",
        "labelled_by": "somebody",
    }
    return LabelledQuery.model_validate(values | fields)


def weights(*numbers: float) -> RoutingWeights:
    return RoutingWeights.normalised(dict(zip(MODALITIES, numbers, strict=True)))


def test_an_id_is_the_first_12_digits_of_the_querys_hash() -> None:
    assert query_id(QUERY) == hashlib.sha256(QUERY.encode()).hexdigest()[:12]


@given(st.text(st.characters(codec="utf-8"), min_size=1, max_size=MAX_QUERY_CHARACTERS))
def test_a_query_survives_its_file_unchanged(query: str) -> None:
    row = LabelledQuery.from_weights(query, weights(1, 2, 3, 4), labelled_by="somebody")
    assert LabelledQuery.model_validate_json(row.model_dump_json()) == row


def test_an_id_of_another_query_is_refused() -> None:
    with pytest.raises(ValidationError, match="is not the hash of query"):
        labelled(id=query_id("another"))


def test_weights_that_do_not_add_up_are_refused_with_the_id_and_the_sum() -> None:
    with pytest.raises(ValidationError, match=rf"{query_id(QUERY)} add up to 0\.9, not to 1"):
        labelled(visual=0.1)


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan"), float("inf")])
def test_a_weight_outside_0_to_1_is_refused(value: float) -> None:
    with pytest.raises(ValidationError, match="visual"):
        labelled(visual=value)


@pytest.mark.parametrize(
    "fields",
    [
        {"colour": "red"},
        {"difficulty": "trivial"},
        {"domain": "News"},
        {"domain": "news-"},
        {"domain": "news\n"},
        {"domain": "n" * 61},
        {"labelled_by": ""},
    ],
)
def test_a_field_that_breaks_the_contract_is_refused(fields: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        labelled(**fields)


@pytest.mark.parametrize("query", ["", "x" * (MAX_QUERY_CHARACTERS + 1)])
def test_an_empty_or_an_endless_query_is_refused(query: str) -> None:
    with pytest.raises(ValidationError, match="query"):
        labelled(query)


def test_a_row_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        labelled().visual = 1.0


def test_difficulty_and_domain_of_an_own_query_are_unknown() -> None:
    assert (labelled().difficulty, labelled().domain) == ("unknown", "unknown")


def test_a_row_gives_back_its_weights_with_their_reasoning() -> None:
    row = labelled()
    assert row.weights.as_dict() == {
        "visual": 0.2,
        "audio": 0.1,
        "transcription": 0.6,
        "metadata": 0.1,
    }
    assert row.weights.reasoning == "Earnings are talked about."
    assert row.channel == "transcription"


@pytest.mark.parametrize(
    ("numbers", "channel"),
    [
        ((4, 3, 2, 1), "visual"),
        ((1, 4, 2, 3), "audio"),
        ((1, 2, 4, 3), "transcription"),
        ((1, 2, 3, 4), "metadata"),
        ((4, 4, 1, 1), "mixed"),
        ((1, 1, 1, 1), "mixed"),
        ((0.1 + 0.2, 0.3, 0.2, 0.2), "mixed"),
    ],
)
def test_the_leading_channel_is_mixed_where_several_share_the_largest_weight(
    numbers: tuple[float, ...], channel: str
) -> None:
    assert leading_channel(weights(*numbers)) == channel


@given(st.lists(st.floats(0, 1), min_size=4, max_size=4).filter(any))
def test_a_leading_channel_other_than_mixed_is_the_dominant_modality(numbers: list[float]) -> None:
    on_grid = RoutingWeights.normalised(round_to_grid(numbers))
    assert leading_channel(on_grid) in (on_grid.dominant, "mixed")


def test_a_quarantined_query_keeps_its_reason_and_the_raw_answers() -> None:
    record = QuarantinedQuery(query="", reason="no key 'audio'", raw=("{", "{}"))
    assert QuarantinedQuery.model_validate_json(record.model_dump_json()) == record
