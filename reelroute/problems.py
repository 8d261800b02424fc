"""Pydantic's findings as sentences."""

from __future__ import annotations

from pydantic import ValidationError


def problems(error: ValidationError) -> list[str]:
    """Each finding as `path: what is wrong (got value)`, without pydantic's links and types."""
    lines = []
    for finding in error.errors(include_url=False):
        path = ".".join(str(part) for part in finding["loc"])
        message = finding["msg"].removeprefix("Value error, ")
        shown = repr(finding["input"])
        got = "" if isinstance(finding["input"], dict | list) else f" (got {shown[:80]})"
        lines.append(f"{path}: {message}{got}" if path else message)
    return lines


def first_problem(error: ValidationError) -> str:
    """The first finding, with the number of the others."""
    lines = problems(error)
    return lines[0] if len(lines) == 1 else f"{lines[0]} (and {len(lines) - 1} more)"
