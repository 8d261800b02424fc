"""The Bedrock conversation record."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_contracts.conversation import SCHEMA_VERSION, ConversationRecord, parse_line
from reelroute.errors import ContractError

texts = st.text(st.characters(codec="utf-8"), min_size=1, max_size=60)


def example() -> dict[str, Any]:
    return {
        "schemaVersion": SCHEMA_VERSION,
        "system": [{"text": "You route."}],
        "messages": [
            {"role": "user", "content": [{"text": "dog barking loudly"}]},
            {"role": "assistant", "content": [{"text": '{"audio": 0.6}'}]},
        ],
    }


def refusal(record: Any) -> str:
    with pytest.raises(ContractError) as error:
        parse_line(json.dumps(record))
    return str(error.value)


def assert_is_the_services_schema(record: Any) -> None:
    """The service's schema, written out a second time by hand."""

    def blocks(content: Any) -> None:
        assert isinstance(content, list)
        assert len(content) == 1
        assert content[0].keys() == {"text"}
        assert isinstance(content[0]["text"], str)
        assert content[0]["text"]

    assert {"schemaVersion", "messages"} <= record.keys() <= {"schemaVersion", "messages", "system"}
    assert record["schemaVersion"] == "bedrock-conversation-2024"
    if "system" in record:
        blocks(record["system"])
    assert [turn["role"] for turn in record["messages"]] in (["user"], ["user", "assistant"])
    for turn in record["messages"]:
        assert turn.keys() == {"role", "content"}
        blocks(turn["content"])


@given(texts, texts, st.none() | texts)
def test_a_record_from_texts_has_the_services_schema_on_one_line(
    system: str, user: str, assistant: str | None
) -> None:
    record = ConversationRecord.of(system, user, assistant)
    line = record.to_line()
    assert "\n" not in line
    assert "\r" not in line
    assert_is_the_services_schema(json.loads(line))
    assert parse_line(line) == record
    assert (record.user_text, record.assistant_text) == (user, assistant)


junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)
block = st.fixed_dictionaries({"text": st.text(max_size=5) | junk}, optional={"image": junk})
content = st.lists(block, max_size=2) | junk
turn = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "system"]), "content": content},
    optional={"name": junk},
)
nearly_records = st.fixed_dictionaries(
    {
        "schemaVersion": st.just(SCHEMA_VERSION) | junk,
        "messages": st.lists(turn, max_size=3) | junk,
    },
    optional={"system": content, "id": junk},
)


@given(nearly_records)
def test_whatever_is_accepted_has_exactly_the_services_schema(record: Any) -> None:
    try:
        accepted = parse_line(json.dumps(record))
    except ContractError:
        return
    assert_is_the_services_schema(record)
    assert json.loads(accepted.to_line()) == record


@given(st.text())
def test_a_line_of_anything_is_a_record_or_refused_as_a_contract_error(line: str) -> None:
    with pytest.raises(ContractError):
        parse_line(line)


@pytest.mark.parametrize("depth", [1_000, 200_000])
def test_a_line_nested_without_end_is_refused(depth: int) -> None:
    with pytest.raises(ContractError):
        parse_line("[" * depth)


@pytest.mark.parametrize(
    "place",
    [
        lambda record: record,
        lambda record: record["system"][0],
        lambda record: record["messages"][0],
        lambda record: record["messages"][1],
        lambda record: record["messages"][0]["content"][0],
        lambda record: record["messages"][1]["content"][0],
    ],
    ids=["record", "system block", "user turn", "assistant turn", "user block", "assistant block"],
)
def test_a_further_key_is_refused_at_every_level(place: Callable[[Any], Any]) -> None:
    record = example()
    place(record)["extra"] = 1
    assert "extra" in refusal(record)


@pytest.mark.parametrize("key", ["schemaVersion", "messages"])
def test_a_missing_key_is_named(key: str) -> None:
    record = example()
    del record[key]
    assert refusal(record).startswith(f"{key}: ")


def test_the_system_text_may_be_left_out() -> None:
    record = example()
    del record["system"]
    assert json.loads(parse_line(json.dumps(record)).to_line()) == record


def test_null_for_system_is_refused() -> None:
    assert refusal(example() | {"system": None}) == "system is null: leave the key out instead"


@pytest.mark.parametrize("blocks", [[], [{"text": "a"}, {"text": "b"}]])
def test_a_system_of_no_or_two_blocks_is_refused(blocks: list[dict[str, str]]) -> None:
    assert refusal(example() | {"system": blocks}).startswith(f"system holds {len(blocks)} blocks")


def test_two_blocks_in_a_turn_are_refused() -> None:
    record = example()
    record["messages"][0]["content"] *= 2
    assert refusal(record).startswith("the user turn holds 2 blocks")


@pytest.mark.parametrize(
    "order", [[], [1], [1, 0], [0, 0], [0, 1, 0], [0, 1, 0, 1]], ids=lambda order: str(order)
)
def test_turns_other_than_a_user_and_an_assistant_turn_are_refused(order: list[int]) -> None:
    record = example()
    turns = [copy.deepcopy(record["messages"][position]) for position in order]
    assert refusal(record | {"messages": turns}).startswith("messages hold the turns")


@pytest.mark.parametrize(
    "fields",
    [
        {"schemaVersion": "bedrock-conversation-2023"},
        {"schemaVersion": 2024},
        {"system": "You route."},
        {"system": [{"text": ""}]},
        {"messages": {"role": "user"}},
    ],
)
def test_a_value_of_another_kind_is_refused(fields: dict[str, Any]) -> None:
    assert refusal(example() | fields).startswith(next(iter(fields)))


@pytest.mark.parametrize("record", [[], "text", 1, None])
def test_json_other_than_an_object_is_refused(record: Any) -> None:
    assert "where an object is expected" in refusal(record)
