from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import settings

from data_contracts.heldout import benchmark_queries
from data_contracts.queries import LabelledQuery
from data_contracts.suite import SuiteLimits, SuiteResult, validate_dataset

settings.register_profile("steady", deadline=None, derandomize=True)
settings.load_profile("steady")

LIMITS = SuiteLimits(
    query_words_max=60,
    query_characters_max=400,
    reasoning_words_min=3,
    reasoning_words_max=80,
    balance_tolerance=0.05,
    reasoning_repeat_max=0.01,
)


@pytest.fixture
def rows() -> list[LabelledQuery]:
    """300 real rows that fulfil every expectation."""
    return list(benchmark_queries())


@pytest.fixture
def change() -> Callable[..., LabelledQuery]:
    """A row with other values, unchecked: what a contract's own check would refuse."""

    def changed(row: LabelledQuery, **fields: Any) -> LabelledQuery:
        return LabelledQuery.model_construct(**(row.model_dump() | fields))

    return changed


@pytest.fixture(scope="session")
def validate() -> Callable[..., SuiteResult]:
    """`validate_dataset` with Great Expectations imported, and defaults for what a test skips."""
    import great_expectations  # noqa: F401

    def validated(rows: list[LabelledQuery], **arguments: Any) -> SuiteResult:
        arguments.setdefault("limits", LIMITS)
        arguments.setdefault("expected_channels", None)
        arguments.setdefault("expected_difficulties", None)
        return validate_dataset(rows, arguments.pop("limits"), **arguments)

    return validated
