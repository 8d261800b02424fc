"""Reading a model's answer: strict where it labels or judges, forgiving where it serves."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeGuard

from reelroute.errors import AnswerError
from reelroute.weights import MODALITIES, RoutingWeights

Repair = Literal[
    "code fence",
    "surrounding prose",
    "trailing comma",
    "numbers as strings",
    "sum normalised",
    "extra keys ignored",
    "reasoning missing",
]

#: How far the sum of the weights may miss 1.
STRICT_SUM_TOLERANCE: Final = 0.01
#: What floating-point addition of four decimal numbers may miss 1 by.
ROUNDING: Final = 1e-12
FORGIVING_SUM_TOLERANCE: Final = 0.1
#: Longer answers are refused unread: a router's answer is a few hundred characters.
MAX_ANSWER_CHARACTERS: Final = 20_000
#: Each open brace without its closing one costs a pass over the answer.
MAX_UNCLOSED_BRACES: Final = 16

_KEYS: Final = frozenset({*MODALITIES, "reasoning"})
_FENCE: Final = re.compile(r"\A\s*```[A-Za-z0-9_-]*[ \t]*\n(?P<body>.*)\n[ \t]*```\Z", re.DOTALL)
_HALF_CHARACTER: Final = re.compile("[\ud800-\udfff]")
_NUMBER: Final = re.compile(r"\A\s*[+]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?\s*\Z")


@dataclass(frozen=True, slots=True)
class ParsedAnswer:
    """Weights read from an answer and the repairs that this took, in the order made.

    No repairs means that the strict parser accepts the answer as it stands.
    """

    weights: RoutingWeights
    repairs: tuple[Repair, ...] = ()


def parse_strict(text: str) -> RoutingWeights:
    """Read an answer that must be exactly as the prompt asks.

    Bare JSON with the four modalities and `reasoning` and no other key; each weight a number
    in [0, 1]; the sum within 0.01 of 1 (then normalised).

    Raises:
        AnswerError: saying what is wrong with which part.
    """
    record = _load(text.strip())
    missing = sorted(_KEYS - record.keys())
    if missing:
        raise AnswerError(f"no key {missing[0]!r}")
    extra = sorted(record.keys() - _KEYS)
    if extra:
        raise AnswerError(f"unexpected key {_shown(extra[0])}")
    if not _is_text(record["reasoning"]):
        raise AnswerError(f"'reasoning' is not a text: {_shown(record['reasoning'])}")
    numbers: dict[str, float] = {m: _number(m, record[m]) for m in MODALITIES}
    return _weights(numbers, record["reasoning"], STRICT_SUM_TOLERANCE)


def parse_forgiving(text: str) -> ParsedAnswer:
    """Read an answer that serves a query, repairing what can be repaired without guessing.

    Beyond the strict form it takes a code fence, prose around one JSON object, trailing
    commas, numbers as strings, further keys, no reasoning, and a sum of 0.9 to 1.1.

    Raises:
        AnswerError: no JSON object with four readable weights, or more than one.
    """
    try:
        return ParsedAnswer(parse_strict(text))
    except AnswerError as error:
        strict_error = error
    if len(text) > MAX_ANSWER_CHARACTERS:
        raise strict_error
    repairs: list[Repair] = []
    body = text.strip()
    if fence := _FENCE.match(body):
        repairs.append("code fence")
        body = fence["body"].strip()
    found: list[tuple[str, ParsedAnswer]] = []
    problem: AnswerError = strict_error
    for candidate in _json_objects(body):
        try:
            found.append((candidate, _repair(candidate)))
        except AnswerError as error:
            problem = error
    if not found:
        raise problem
    if len(found) > 1:
        raise AnswerError(f"{len(found)} JSON objects with weights where one is expected")
    candidate, answer = found[0]
    around = body.replace(candidate, "", 1)
    if "```" in around and "code fence" not in repairs:
        repairs.append("code fence")
    if re.sub(r"```[A-Za-z0-9_-]*", "", around).strip():
        repairs.append("surrounding prose")
    return ParsedAnswer(answer.weights, (*repairs, *answer.repairs))


def _repair(text: str) -> ParsedAnswer:
    repairs: list[Repair] = []
    try:
        record = _load(text)
    except AnswerError:
        without_commas = _outside_strings(text, lambda part: re.sub(r",(\s*[}\]])", r"\1", part))
        if without_commas == text:
            raise
        record = _load(without_commas)
        repairs.append("trailing comma")
    numbers: dict[str, float] = {}
    for modality in MODALITIES:
        if modality not in record:
            raise AnswerError(f"no key {modality!r}")
        value = record[modality]
        if isinstance(value, str) and _NUMBER.match(value):
            value = float(value)
            if "numbers as strings" not in repairs:
                repairs.append("numbers as strings")
        numbers[modality] = _number(modality, value)
    if record.keys() - _KEYS:
        repairs.append("extra keys ignored")
    reasoning = record.get("reasoning")
    if not _is_text(reasoning):
        reasoning = ""
        repairs.append("reasoning missing")
    if abs(math.fsum(numbers.values()) - 1) > STRICT_SUM_TOLERANCE + 1e-9:
        repairs.append("sum normalised")
    return ParsedAnswer(_weights(numbers, reasoning, FORGIVING_SUM_TOLERANCE), tuple(repairs))


def _load(text: str) -> dict[str, Any]:
    if len(text) > MAX_ANSWER_CHARACTERS:
        raise AnswerError(f"{len(text)} characters long, at most {MAX_ANSWER_CHARACTERS} are read")
    try:
        record = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
    except (json.JSONDecodeError, RecursionError) as error:
        raise AnswerError(f"not bare JSON: {error}") from error
    except ValueError as error:  # an integer with too many digits to convert
        raise AnswerError(f"not readable as JSON: {error}") from error
    if not isinstance(record, dict):
        raise AnswerError(f"a JSON {type(record).__name__} where an object is expected")
    return record


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) != len(pairs):
        raise AnswerError("a key stands twice in one JSON object")
    return record


def _no_constant(name: str) -> float:
    raise AnswerError(f"{name} is not a JSON number")


def _number(modality: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise AnswerError(f"{modality!r} is not a number: {_shown(value)}")
    if not 0 <= value <= 1:  # also refuses NaN
        raise AnswerError(f"{modality!r} is {_shown(value)}, outside 0 to 1")
    return float(value)


def _is_text(value: object) -> TypeGuard[str]:
    r"""Whether a JSON value is a text that UTF-8 can hold: "\ud83d" is half a character."""
    return isinstance(value, str) and not _HALF_CHARACTER.search(value)


def _weights(numbers: Mapping[str, float], reasoning: str, tolerance: float) -> RoutingWeights:
    total = math.fsum(numbers.values())
    if abs(total - 1) > tolerance + 1e-9:
        raise AnswerError(f"the weights add up to {total:.4g}, not to 1 within {tolerance}")
    if abs(total - 1) <= ROUNDING:  # as they stand: 0.65 stays 0.65
        return RoutingWeights(**numbers, reasoning=reasoning)  # type: ignore[arg-type]
    return RoutingWeights.normalised(numbers, reasoning=reasoning)


def _json_objects(text: str) -> Iterator[str]:
    """The outermost `{...}` spans of a text, found with JSON's own rules for strings.

    A brace that prose left open is skipped; what follows it is still searched.
    """
    start, unclosed = text.find("{"), 0
    while start != -1 and unclosed < MAX_UNCLOSED_BRACES:
        end = _closing_brace(text, start)
        if end is None:
            unclosed += 1
            start = text.find("{", start + 1)
            continue
        yield text[start : end + 1]
        start = text.find("{", end + 1)


def _closing_brace(text: str, start: int) -> int | None:
    depth, in_string, escaped = 0, False, False
    for position in range(start, len(text)):
        character = text[position]
        if in_string:
            if escaped:
                escaped = False
            elif character == "\\":
                escaped = True
            elif character == '"':
                in_string = False
        elif character == '"':
            in_string = True
        elif character == "{":
            depth += 1
        elif character == "}":
            depth -= 1
            if depth == 0:
                return position
    return None


_STRING: Final = re.compile(r'("(?:[^"\\]|\\.)*")', re.DOTALL)


def _outside_strings(text: str, change: Callable[[str], str]) -> str:
    """Apply a change to the parts of a JSON text that are not inside its strings."""
    parts = _STRING.split(text)
    return "".join(part if index % 2 else change(part) for index, part in enumerate(parts))


def _shown(value: object) -> str:
    """A value as an error shows it: quoted, one line, at most 40 characters."""
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
