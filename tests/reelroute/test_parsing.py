"""Reading answers: strict and forgiving."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from reelroute import parsing
from reelroute.errors import AnswerError
from reelroute.parsing import ParsedAnswer, parse_forgiving, parse_strict
from reelroute.weights import MODALITIES, RoutingWeights, round_to_grid

settings.register_profile("steady", deadline=None, derandomize=True)
settings.load_profile("steady")

REASONING = 'Earnings are {spoken} of, "aloud", in [brackets], with a comma,}'
ANSWER = {
    "visual": 0.2,
    "audio": 0.1,
    "transcription": 0.6,
    "metadata": 0.1,
    "reasoning": REASONING,
}
BARE = json.dumps(ANSWER)
WEIGHTS = (0.2, 0.1, 0.6, 0.1)

texts = st.text(st.characters(codec="utf-8"), max_size=40)
four = st.lists(st.floats(0, 1, width=16), min_size=4, max_size=4).filter(any)


@st.composite
def answers(draw: st.DrawFn) -> dict[str, Any]:
    """An answer as a model should give it, on the grid or off it, its keys in any order."""
    numbers = draw(four)
    weights: dict[Any, Any] = draw(
        st.sampled_from(
            [round_to_grid(numbers), RoutingWeights.normalised(named(numbers)).as_dict()]
        )
    )
    record = weights | {"reasoning": draw(texts)}
    return {key: record[key] for key in draw(st.permutations(sorted(record)))}


def named(numbers: Any) -> dict[str, float]:
    return dict(zip(MODALITIES, numbers, strict=True))


def answer(**fields: Any) -> str:
    return json.dumps(ANSWER | fields)


def without(key: str) -> str:
    return json.dumps({name: value for name, value in ANSWER.items() if name != key})


def refusal(text: str) -> str:
    with pytest.raises(AnswerError) as error:
        parse_strict(text)
    return str(error.value)


@given(
    answers(),
    st.sampled_from([None, 0, 2]),
    st.booleans(),
    st.text(" \t\r\n", max_size=5),
)
def test_strict_reads_whatever_json_writes_and_forgiving_reads_the_same_without_repairs(
    record: dict[str, Any], indent: int | None, ascii_only: bool, around: str
) -> None:
    text = around + json.dumps(record, indent=indent, ensure_ascii=ascii_only) + around
    weights = parse_strict(text)
    assert weights.reasoning == record["reasoning"]
    for modality, weight in weights.as_dict().items():
        assert weight == pytest.approx(record[modality], abs=1e-9)
    assert parse_forgiving(text) == ParsedAnswer(weights, ())


@given(answers(), st.floats(-0.0099, 0.0099))
def test_strict_normalises_a_sum_within_a_hundredth_of_1(
    record: dict[str, Any], miss: float
) -> None:
    scaled = {m: record[m] * (1 + miss) for m in MODALITIES}
    if max(scaled.values()) <= 1:
        weights = parse_strict(json.dumps(record | scaled))
        assert math.isclose(math.fsum(weights.values()), 1, abs_tol=1e-9)
        assert weights.values() == pytest.approx([record[m] for m in MODALITIES], abs=1e-9)


@pytest.mark.parametrize(("visual", "accepted"), [(0.21, True), (0.19, True), (0.2101, False)])
def test_the_strict_limit_of_the_sum_is_a_hundredth(visual: float, accepted: bool) -> None:
    if accepted:
        assert parse_strict(answer(visual=visual)).visual == pytest.approx(visual, abs=0.01)
    else:
        assert "add up to 1.01, not to 1 within 0.01" in refusal(answer(visual=visual))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not bare JSON"),
        ("The query is mostly visual, I would say 0.8.", "not bare JSON"),
        (f"Here you are: {BARE}", "not bare JSON"),
        (f"{BARE}\nI hope that helps!", "not bare JSON"),
        (f"```json\n{BARE}\n```", "not bare JSON"),
        (BARE + BARE, "not bare JSON"),
        (BARE[: len(BARE) // 2], "not bare JSON"),
        (BARE[:-1], "not bare JSON"),
        (BARE.replace('"visual"', "'visual'"), "not bare JSON"),
        (BARE[:-1] + ",}", "not bare JSON"),
        (f"[{BARE}]", "a JSON list where an object is expected"),
        ("null", "a JSON NoneType where an object is expected"),
        ("0.5", "a JSON float where an object is expected"),
        ("{}", "no key 'audio'"),
        (without("metadata"), "no key 'metadata'"),
        (without("reasoning"), "no key 'reasoning'"),
        (answer(smell=0.0), "unexpected key 'smell'"),
        (answer(Visual=0.2), "unexpected key 'Visual'"),
        (answer(reasoning=None), "'reasoning' is not a text: None"),
        (answer(reasoning=["because"]), "'reasoning' is not a text"),
        (answer(reasoning="\ud83d"), "'reasoning' is not a text"),
        (answer(visual="0.2"), "'visual' is not a number: '0.2'"),
        (answer(visual=None), "'visual' is not a number: None"),
        (answer(visual=True), "'visual' is not a number: True"),
        (answer(visual=[0.2]), "'visual' is not a number"),
        (answer(visual=float("nan")), "NaN is not a JSON number"),
        (answer(visual=float("inf")), "Infinity is not a JSON number"),
        (answer(visual=float("-inf")), "-Infinity is not a JSON number"),
        (BARE.replace("0.2", "1e999"), "'visual' is inf, outside 0 to 1"),
        (BARE.replace("0.2", "9" * 5_000), "not readable as JSON"),
        (answer(visual=-0.1, transcription=0.9), "'visual' is -0.1, outside 0 to 1"),
        (answer(visual=1.2), "'visual' is 1.2, outside 0 to 1"),
        (answer(visual=20, audio=10, transcription=60, metadata=10), "outside 0 to 1"),
        (answer(transcription=0.3), "add up to 0.7, not to 1 within 0.01"),
        (answer(visual=0, audio=0, transcription=0, metadata=0), "add up to 0, not to 1"),
        (BARE[:-1] + ', "visual": 0.2}', "a key stands twice"),
        (" " * 5 + BARE + "x" * 20_000, "characters long, at most 20000 are read"),
    ],
)
def test_strict_refuses_anything_else_and_says_what_is_wrong(text: str, message: str) -> None:
    assert message in refusal(text)


REPAIRED: list[tuple[str, tuple[str, ...]]] = [
    (f"```json\n{BARE}\n```", ("code fence",)),
    (f"```\n{BARE}\n```\n", ("code fence",)),
    (f"```JSON {BARE}```", ("code fence",)),
    (f"Sure! Here it is:\n{BARE}", ("surrounding prose",)),
    (f"{BARE}\nLet me know {{if}} that helps.", ("surrounding prose",)),
    (f"An open {{ brace, then {BARE}", ("surrounding prose",)),
    (f"Sure!\n```json\n{BARE}\n```\nBye.", ("code fence", "surrounding prose")),
    (BARE[:-1] + ",}", ("trailing comma",)),
    (BARE[:-1] + " ,\n }", ("trailing comma",)),
    (answer(visual="0.2", audio=" .1 "), ("numbers as strings",)),
    (answer(visual="2e-1"), ("numbers as strings",)),
    (answer(confidence={"high": [1, 2]}), ("extra keys ignored",)),
    (without("reasoning"), ("reasoning missing",)),
    (answer(reasoning=None), ("reasoning missing",)),
    (answer(reasoning="\ud83d"), ("reasoning missing",)),
    (
        answer(visual=0.22, audio=0.11, transcription=0.66, metadata=0.11),
        ("sum normalised",),
    ),
    (
        "Here:\n```\n"
        '{"visual": "0.22", "audio": 0.11, "transcription": 0.66, "metadata": 0.11, "x": 1,}'
        "\n```",
        (
            "code fence",
            "surrounding prose",
            "trailing comma",
            "numbers as strings",
            "extra keys ignored",
            "reasoning missing",
            "sum normalised",
        ),
    ),
]


@pytest.mark.parametrize(("text", "repairs"), REPAIRED)
def test_forgiving_repairs_and_names_each_repair(text: str, repairs: tuple[str, ...]) -> None:
    assert refusal(text)
    parsed = parse_forgiving(text)
    assert parsed.repairs == repairs
    assert parsed.weights.values() == pytest.approx(WEIGHTS)
    assert parsed.weights.reasoning == ("" if "reasoning missing" in repairs else REASONING)


@pytest.mark.parametrize(
    ("visual", "accepted"), [(0.1, True), (0.3, True), (0.099, False), (0.301, False)]
)
def test_the_forgiving_limit_of_the_sum_is_a_tenth(visual: float, accepted: bool) -> None:
    if accepted:
        assert parse_forgiving(answer(visual=visual)).repairs == ("sum normalised",)
    else:
        with pytest.raises(AnswerError, match=r"add up to .* not to 1 within 0\.1"):
            parse_forgiving(answer(visual=visual))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not bare JSON"),
        ("Mostly visual.", "not bare JSON"),
        (BARE[: len(BARE) // 2], "not bare JSON"),
        (f"{BARE} or {BARE}", "2 JSON objects with weights"),
        (without("audio"), "no key 'audio'"),
        (answer(visual="a fifth"), "'visual' is not a number"),
        (answer(visual="-0.2"), "'visual' is not a number"),
        (answer(visual="1e999"), "'visual' is inf, outside 0 to 1"),
        (answer(visual=float("nan")), "NaN is not a JSON number"),
        (answer(visual=20, audio=10, transcription=60, metadata=10), "outside 0 to 1"),
        (answer(transcription=0.3), "add up to 0.7"),
        ("{" * 20 + BARE, "not bare JSON"),
    ],
)
def test_forgiving_does_not_guess(text: str, message: str) -> None:
    with pytest.raises(AnswerError, match=message):
        parse_forgiving(text)


def test_commas_and_braces_inside_the_reasoning_are_left_alone() -> None:
    text = answer(reasoning='",}", ,] {')[:-1] + ",}"
    assert parse_forgiving(text).weights.reasoning == '",}", ,] {'


def check_forgiving(text: str) -> None:
    """Nothing but an answer or an `AnswerError`; no repairs exactly where strict accepts."""
    try:
        strict = parse_strict(text)
    except AnswerError:
        strict = None
    try:
        parsed = parse_forgiving(text)
    except AnswerError:
        assert strict is None
        return
    assert math.isclose(math.fsum(parsed.weights.values()), 1, abs_tol=1e-9)
    assert (strict is not None) == (parsed.repairs == ())
    assert strict in (None, parsed.weights)
    parsed.weights.model_dump_json()


@settings(max_examples=500)
@given(st.text())
def test_forgiving_takes_any_text(text: str) -> None:
    check_forgiving(text)


@settings(max_examples=500)
@given(st.lists(st.sampled_from(["{", "}", '"', "\\", ",", ":", "0.5", '"visual"', "```", "\n"])))
def test_forgiving_takes_any_heap_of_json_tokens(tokens: list[str]) -> None:
    check_forgiving("".join(tokens))


PIECES = st.text('{}[]",:\\`\n 0123456789.eE+-NnIirtyfalsuv', max_size=4)


@settings(max_examples=1_000)
@given(answers(), st.data())
def test_forgiving_takes_any_mutation_of_an_answer(record: dict[str, Any], data: Any) -> None:
    text = json.dumps(record)
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(text)))
        end = data.draw(st.integers(start, min(len(text), start + 6)))
        text = text[:start] + data.draw(PIECES) + text[end:]
    check_forgiving(text)


@given(st.dictionaries(st.sampled_from([*MODALITIES, "reasoning", "x"]), st.from_type(object)))
@example({"visual": 10**400})
def test_forgiving_takes_any_values(record: dict[str, Any]) -> None:
    try:
        text = json.dumps(ANSWER | record)
    except (TypeError, ValueError, RecursionError):
        return
    check_forgiving(text)


ADVERSARIAL = {
    "braces that open": "{" * 20_000,
    "braces that open and close": "{" * 10_000 + "}" * 10_000,
    "objects without end": '{"a":' * 4_000,
    "many objects": "{}" * 10_000,
    "many objects with commas": "{,}" * 6_600,
    "brackets": "[" * 20_000,
    "quotes": '{"' * 10_000,
    "escaped quotes": '{"' + '\\"' * 9_990,
    "commas": "{" + "," * 19_990 + "}",
    "a comma before spaces": "{," + " " * 19_990 + "x}",
    "a fence before line ends": "```\n" + "\n" * 19_990 + "x",
    "a fence before spaces": "```\n" + " " * 19_990 + "x",
    "fences": "```\n" * 5_000,
    "digits": answer(visual="9" * 19_000),
    "digits and dots": answer(visual="1." * 9_000),
}


@pytest.mark.parametrize("text", ADVERSARIAL.values(), ids=ADVERSARIAL.keys())
def test_an_answer_made_to_be_slow_takes_bounded_work(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = {"scanned": 0, "loaded": 0}
    closing_brace, repair = parsing._closing_brace, parsing._repair

    def scan(whole: str, start: int) -> int | None:
        end = closing_brace(whole, start)
        work["scanned"] += (len(whole) if end is None else end + 1) - start
        return end

    def load(candidate: str) -> ParsedAnswer:
        work["loaded"] += len(candidate)
        return repair(candidate)

    monkeypatch.setattr(parsing, "_closing_brace", scan)
    monkeypatch.setattr(parsing, "_repair", load)
    with pytest.raises(AnswerError):
        parse_forgiving(text)
    assert work["loaded"] <= len(text)
    assert work["scanned"] <= (parsing.MAX_UNCLOSED_BRACES + 1) * len(text)


def test_the_fences_pattern_cannot_backtrack_over_lines() -> None:
    # `\s*` after a line end would try every blank line from every blank line.
    assert r"\n\s" not in parsing._FENCE.pattern


def test_an_answer_too_long_is_refused_unread() -> None:
    with pytest.raises(AnswerError, match="20001 characters long, at most 20000 are read"):
        parse_forgiving("x" * 20_001)
