"""Holds requests and responses against a service's own API model, as the service does.

The walk covers what botocore's shapes say: required members, lengths, patterns, enums, list
sizes, numeric ranges and unions. Botocore itself checks few of these on the client's side, and
none in what it receives.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from botocore.model import OperationModel, Shape

#: Values that the service takes although its API model lacks them: (operation, member's path
#: without positions) to values. Judge jobs take the task type "General", and show it.
UNLISTED_ENUM_VALUES: Final = {
    (operation, path): frozenset({"General"})
    for operation, path in (
        ("CreateEvaluationJob", "evaluationConfig.automated.datasetMetricConfigs.taskType"),
        ("GetEvaluationJob", "evaluationConfig.automated.datasetMetricConfigs.taskType"),
        ("ListEvaluationJobs", "jobSummaries.evaluationTaskTypes"),
    )
}

_PYTHON_TYPES: Final[dict[str, tuple[type, ...]]] = {
    "string": (str,),
    "structure": (dict,),
    "map": (dict,),
    "list": (list, tuple),
    "boolean": (bool,),
    "integer": (int,),
    "long": (int,),
    "float": (int, float),
    "double": (int, float),
    "timestamp": (datetime,),
}
_LONGEST_SHOWN: Final = 200


def request_violations(
    operation: OperationModel, params: dict[str, Any], unchecked: frozenset[str] = frozenset()
) -> list[str]:
    """What in a request breaks the operation's input shape: path, value and constraint each.

    Args:
        operation: the operation's model.
        params: the parameters as the client gave them.
        unchecked: top-level members that are left out.
    """
    if operation.input_shape is None:
        return []
    found = _structure(operation.name, operation.input_shape, params, "", "")
    return [violation for name, violation in found if name not in unchecked]


def response_violations(operation: OperationModel, answer: dict[str, Any]) -> list[str]:
    """What in a response, as boto3 gives it, breaks the operation's output shape."""
    shape = operation.output_shape
    if shape is None or operation.has_event_stream_output:
        return []
    return [violation for _, violation in _structure(operation.name, shape, answer, "", "")]


def unknown_members(operation: OperationModel, body: Any) -> list[str]:
    """The members of a response's JSON that the operation's output shape doesn't have."""
    return list(_unknown(operation.output_shape, body, "")) if operation.output_shape else []


def _unknown(shape: Any, value: Any, path: str) -> Iterator[str]:
    kind = shape.type_name
    if getattr(shape, "is_document_type", False):
        return
    if kind == "structure" and isinstance(value, dict):
        known = {m.serialization.get("name", name): m for name, m in shape.members.items()}
        for name, item in value.items():
            if name in known:
                yield from _unknown(known[name], item, _join(path, name))
            else:
                yield f"The API model has no member at '{_join(path, name)}'"
    elif kind == "list" and isinstance(value, list):
        for position, item in enumerate(value, start=1):
            yield from _unknown(shape.member, item, f"{path}.{position}.member")
    elif kind == "map" and isinstance(value, dict):
        for key, item in value.items():
            yield from _unknown(shape.value, item, f"{path}.{key}.value")


def _structure(
    operation: str, shape: Any, value: dict[str, Any], path: str, plain: str
) -> Iterator[tuple[str, str]]:
    """Violations in a structure, each with the name of the member that it lies in."""
    for name in shape.required_members:
        if value.get(name) is None:
            yield (
                name,
                f"Value at {_join(path, name)!r} failed to satisfy constraint: "
                "Member must not be null",
            )
    if shape.is_tagged_union and sum(v is not None for v in value.values()) != 1:
        yield "", _violated(value, path, f"Exactly one of {list(shape.members)} must be set")
    for name, member in shape.members.items():
        given = value.get(name)
        if given is not None:
            inner = _value(operation, member, given, _join(path, name), _join(plain, name))
            for violation in inner:
                yield name, violation


def _value(operation: str, shape: Any, value: Any, path: str, plain: str) -> Iterator[str]:
    kind = shape.type_name
    if getattr(shape, "is_document_type", False) or kind == "blob":
        return
    wrong_type = not isinstance(value, _PYTHON_TYPES[kind])
    if wrong_type or (isinstance(value, bool) and kind != "boolean"):
        yield _violated(value, path, f"Member must be of type {kind}")
    elif kind == "structure":
        for _, violation in _structure(operation, shape, value, path, plain):
            yield violation
    elif kind == "list":
        yield from _size(shape, value, path, len(value))
        for position, item in enumerate(value, start=1):
            yield from _value(operation, shape.member, item, f"{path}.{position}.member", plain)
    elif kind == "map":
        yield from _size(shape, value, path, len(value))
        for key, item in value.items():
            yield from _value(operation, shape.key, key, f"{path}.key", plain)
            yield from _value(operation, shape.value, item, f"{path}.{key}.value", plain)
    elif kind == "string":
        yield from _size(shape, value, path, len(value))
        yield from _text(operation, shape, value, path, plain)
    elif kind not in ("boolean", "timestamp"):
        yield from _range(shape, value, path)


def _size(shape: Shape, value: Any, path: str, size: int) -> Iterator[str]:
    low, high = shape.metadata.get("min"), shape.metadata.get("max")
    if low is not None and size < low:
        yield _violated(value, path, f"Member must have length greater than or equal to {low}")
    if high is not None and size > high:
        yield _violated(value, path, f"Member must have length less than or equal to {high}")


def _text(operation: str, shape: Any, value: str, path: str, plain: str) -> Iterator[str]:
    if not _is_unicode(value):
        yield f"Value at '{path}' failed to satisfy constraint: Member must be valid Unicode"
        return
    if value in UNLISTED_ENUM_VALUES.get((operation, plain), ()):
        return
    pattern = shape.metadata.get("pattern")
    if pattern and not _matches(pattern, value):
        yield _violated(value, path, f"Member must satisfy regular expression pattern: {pattern}")
    if shape.enum and value not in shape.enum:
        yield _violated(value, path, f"Member must satisfy enum value set: {sorted(shape.enum)}")


def _is_unicode(value: str) -> bool:
    """Whether the text has no half of a surrogate pair, which JSON's escapes can smuggle in."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


@lru_cache(maxsize=4096)
def _matches(pattern: str, value: str) -> bool:
    return re.fullmatch(pattern, value) is not None


def _range(shape: Shape, value: float, path: str) -> Iterator[str]:
    low, high = shape.metadata.get("min"), shape.metadata.get("max")
    if low is not None and value < low:
        yield _violated(value, path, f"Member must have value greater than or equal to {low}")
    if high is not None and value > high:
        yield _violated(value, path, f"Member must have value less than or equal to {high}")


def _violated(value: Any, path: str, constraint: str) -> str:
    shown = str(value)
    if len(shown) > _LONGEST_SHOWN:
        shown = f"{shown[:_LONGEST_SHOWN]}..."
    return f"Value '{shown}' at '{path}' failed to satisfy constraint: {constraint}"


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
