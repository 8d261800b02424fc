"""The suite for a labelled set as a whole."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from data_contracts.queries import LabelledQuery, query_id
from data_contracts.suite import ExpectationOutcome, SuiteLimits, SuiteResult
from reelroute.errors import ContractError

Rows = list[LabelledQuery]
Validate = Callable[..., SuiteResult]
Change = Callable[..., LabelledQuery]

LIMITS = SuiteLimits(60, 400, 3, 80, balance_tolerance=0.05, reasoning_repeat_max=0.01)


def shares(values: list[str]) -> dict[str, float]:
    return {value: count / len(values) for value, count in Counter(values).items()}


def outcome(result: SuiteResult, expectation: str) -> ExpectationOutcome:
    return next(o for o in result.outcomes if o.expectation == expectation)


def failed(result: SuiteResult) -> list[str]:
    return [o.expectation for o in result.outcomes if not o.success]


def test_a_real_labelled_set_fulfils_every_expectation(rows: Rows, validate: Validate) -> None:
    result = validate(
        rows,
        expected_channels=shares([row.channel for row in rows]),
        expected_difficulties=shares([row.difficulty for row in rows]),
    )
    assert result.success
    assert failed(result) == []
    assert [o.expectation for o in result.outcomes] == [
        "row count",
        "unique ids",
        "unique queries",
        "unique queries after normalisation",
        "visual weight in range",
        "audio weight in range",
        "transcription weight in range",
        "metadata weight in range",
        "weights add up to 1",
        "weights are numbers",
        "query length in words",
        "query length in characters",
        "reasoning length in words",
        "reasoning is not boilerplate",
        "reasonings differ",
        "known difficulty",
        "well-formed domain",
        "share of channel visual",
        "share of channel audio",
        "share of channel transcription",
        "share of channel metadata",
        "share of channel mixed",
        "share of difficulty easy",
        "share of difficulty medium",
        "share of difficulty hard",
        "share of difficulty edge",
        "share of difficulty unknown",
    ]
    assert all(o.samples == () and o.failed_rows == 0 for o in result.outcomes)


BROKEN_ROWS: list[tuple[dict[str, Any], str, str, str]] = [
    ({"visual": 1.7, "audio": -0.7}, "visual weight in range", "0 to 1", "1.7"),
    ({"visual": 1.7, "audio": -0.7}, "audio weight in range", "0 to 1", "-0.7"),
    ({"transcription": 1.25}, "transcription weight in range", "0 to 1", "1.25"),
    ({"metadata": -0.5}, "metadata weight in range", "0 to 1", "-0.5"),
    ({"visual": 0.3, "audio": 0.3}, "weights add up to 1", "1 within 1e-06", ""),
    ({"visual": float("nan")}, "weights are numbers", "four numbers in each row", "nan"),
    ({"query": "word " * 61}, "query length in words", "1 to 60", "61"),
    ({"query": "   "}, "query length in words", "1 to 60", "0"),
    ({"query": "x" * 401}, "query length in characters", "1 to 400", "401"),
    ({"reasoning": ""}, "reasoning length in words", "3 to 80", "0"),
    ({"reasoning": "word " * 81}, "reasoning length in words", "3 to 80", "81"),
    ({"difficulty": "easier"}, "known difficulty", "easy, medium, hard, edge", "'easier'"),
    ({"domain": "News Desk"}, "well-formed domain", "lower-case words", "'News Desk'"),
    ({"domain": "news\n"}, "well-formed domain", "lower-case words", "'news'"),
]


@pytest.mark.parametrize(("fields", "name", "expected", "value"), BROKEN_ROWS)
def test_a_broken_row_is_named_with_the_expectation_and_its_value(
    fields: dict[str, Any],
    name: str,
    expected: str,
    value: str,
    rows: Rows,
    change: Change,
    validate: Validate,
) -> None:
    rows[7] = change(rows[7], **fields)
    result = validate(rows)
    found = outcome(result, name)
    assert not result.success
    assert not found.success
    assert found.failed_rows == 1
    assert found.observed == "1 of 300 rows break it"
    assert expected in found.expected
    assert len(found.samples) == 1
    assert found.samples[0].startswith(f"{rows[7].id} ")
    assert found.samples[0].endswith(value)
    assert found.sentence() == (
        f"{name}: expected {found.expected}, found {found.observed}; "
        f"for example {found.samples[0]}."
    )


def test_weights_may_miss_1_by_rounding_alone(
    rows: Rows, change: Change, validate: Validate
) -> None:
    weights = {"audio": 0.25, "transcription": 0.25, "metadata": 0.25}
    rows[0] = change(rows[0], visual=0.25 + 0.9e-6, **weights)
    assert outcome(validate(rows), "weights add up to 1").success
    rows[0] = change(rows[0], visual=0.25 + 1.1e-6, **weights)
    assert outcome(validate(rows), "weights add up to 1").samples[0].endswith("1.000001")


@pytest.mark.parametrize(
    ("low", "high", "success"), [(300, 300, True), (301, 400, False), (1, 299, False)]
)
def test_the_row_count_must_lie_within_the_limits(
    low: int, high: int, success: bool, rows: Rows, validate: Validate
) -> None:
    found = outcome(
        validate(rows, limits=replace(LIMITS, min_rows=low, max_rows=high)), "row count"
    )
    assert found.success is success
    assert found.sentence() == f"row count: expected {low} to {high}, found 300."


def test_a_row_that_stands_twice_breaks_all_three_kinds_of_uniqueness(
    rows: Rows, validate: Validate
) -> None:
    result = validate([*rows, rows[5]])
    names = ["unique ids", "unique queries", "unique queries after normalisation"]
    assert failed(result) == names
    for name in names:
        found = outcome(result, name)
        assert found.failed_rows == 2
        assert len(found.samples) == 2
        assert all(rows[5].id in sample for sample in found.samples)


def test_two_spellings_of_a_query_are_unique_only_as_they_are_written(
    rows: Rows, change: Change, validate: Validate
) -> None:
    spelt = f"  {rows[5].query.upper()}!"
    result = validate([*rows, change(rows[5], query=spelt, id=query_id(spelt))])
    assert "unique queries" not in failed(result)
    assert outcome(result, "unique queries after normalisation").failed_rows == 2


def test_a_sentence_that_many_rows_share_is_boilerplate_and_is_quoted(
    rows: Rows, change: Change, validate: Validate
) -> None:
    for position in range(4):
        own = rows[position].reasoning
        rows[position] = change(rows[position], reasoning=f"The query IS visual.  {own}")
    found = outcome(validate(rows), "reasoning is not boilerplate")
    assert found.failed_rows == 4
    assert found.expected == "no sentence in more than 0.01 of the rows"
    assert found.samples[0].endswith("'the query is visual' in 0.01333 of the rows")


def test_a_sentence_within_the_allowed_share_is_no_boilerplate(
    rows: Rows, change: Change, validate: Validate
) -> None:
    for position in range(3):
        rows[position] = change(rows[position], reasoning="The query is visual.")
    assert outcome(validate(rows), "reasoning is not boilerplate").success


def test_a_sentence_of_one_row_is_no_repetition_however_few_the_rows(
    rows: Rows, validate: Validate
) -> None:
    assert validate(rows[:10], limits=replace(LIMITS, min_rows=10)).success


def test_a_sentence_twice_in_one_reasoning_counts_once(
    rows: Rows, change: Change, validate: Validate
) -> None:
    rows[0] = change(rows[0], reasoning="It is heard, not seen. It is heard, not seen.")
    assert outcome(validate(rows), "reasoning is not boilerplate").success


def test_a_few_reasonings_over_and_over_are_too_few(
    rows: Rows, change: Change, validate: Validate
) -> None:
    rows = [change(row, reasoning=f"Template {i % 100} it is") for i, row in enumerate(rows)]
    result = validate(rows, limits=replace(LIMITS, reasoning_repeat_max=0.5))
    assert failed(result) == ["reasonings differ"]
    found = outcome(result, "reasonings differ")
    assert found.observed == "0.3333"
    assert found.expected == "at least 0.5 of the reasonings distinct"
    assert found.samples[0] == f"{rows[0].id} {rows[0].query!r}: 'template 0 it is'"


def test_a_channel_too_far_from_its_share_fails_with_rows_of_that_channel(
    rows: Rows, validate: Validate
) -> None:
    expected = shares([row.channel for row in rows])
    expected["visual"] -= 0.06
    expected["audio"] += 0.05
    result = validate(rows, expected_channels=expected)
    assert failed(result) == ["share of channel visual"]
    found = outcome(result, "share of channel visual")
    assert found.expected == "0.2067 within 0.05"
    assert found.observed == "0.2667"
    leaders = [row for row in rows if row.channel == "visual"]
    assert len(found.samples) == 5
    assert [sample.split()[0] for sample in found.samples] == [row.id for row in leaders[:5]]


def test_a_difficulty_too_far_from_its_share_fails(rows: Rows, validate: Validate) -> None:
    result = validate(rows, expected_difficulties={"easy": 0.3433, "medium": 0.6567})
    assert failed(result) == [
        "share of difficulty medium",
        "share of difficulty hard",
        "share of difficulty edge",
    ]
    assert outcome(result, "share of difficulty hard").expected == "0 within 0.05"


def test_without_expected_shares_the_balance_is_not_checked(rows: Rows, validate: Validate) -> None:
    names = [o.expectation for o in validate(rows).outcomes]
    assert not [name for name in names if name.startswith("share of")]


@pytest.mark.parametrize(
    ("argument", "message"),
    [("expected_channels", "channel 'vision'"), ("expected_difficulties", "difficulty 'vision'")],
)
def test_a_share_of_something_unknown_is_refused(
    argument: str, message: str, rows: Rows, validate: Validate
) -> None:
    with pytest.raises(ContractError, match=message):
        validate(rows, **{argument: {"vision": 1.0}})


def test_an_empty_set_fails_without_an_error_of_its_own(validate: Validate) -> None:
    result = validate([], expected_channels={"visual": 1.0})
    assert "row count" in failed(result)
    assert outcome(result, "share of channel visual").observed == "nothing to measure"


def test_at_most_five_rows_are_named_and_all_are_counted(
    rows: Rows, change: Change, validate: Validate
) -> None:
    found = outcome(validate([change(r, domain="?") for r in rows]), "well-formed domain")
    assert found.failed_rows == 300
    assert len(found.samples) == 5


def test_samples_are_short_single_lines_without_control_characters(
    rows: Rows, change: Change, validate: Validate
) -> None:
    rows[0] = change(rows[0], query="\x1b[31mred\nalert\u202e " + "x" * 100, domain="?")
    found = outcome(validate(rows), "well-formed domain")
    assert found.samples[0].isprintable()
    assert len(found.samples[0]) < 100
    assert "x…" in found.samples[0]


def test_equal_rows_give_an_equal_result_of_plain_json(
    rows: Rows, change: Change, validate: Validate
) -> None:
    rows[3] = change(rows[3], query="Tom & Jerry's <b>", domain="?")
    first, second = validate(rows), validate(rows)
    assert first == second
    assert json.loads(json.dumps(first.raw)) == second.raw
    assert "Tom & Jerry's <b>" in json.dumps(first.raw)


MARKUP = "<script>alert(1)</script><img src=x onerror=alert(2)></pre> $column ${id} {{ 7 * 7 }}"


def test_data_docs_lead_from_the_index_to_a_page_with_the_result(
    rows: Rows, validate: Validate, tmp_path: Path
) -> None:
    docs = tmp_path / "not" / "there yet"
    validate(rows, docs_dir=docs)
    index = (docs / "index.html").read_text(encoding="utf-8")
    link = index.partition('href="')[2].partition('"')[0]
    page = (docs / link).read_text(encoding="utf-8")
    assert "weights add up to 1: 1 within 1e-06" in page
    assert {path.suffix for path in docs.rglob("*") if path.is_file()} == {".html"}


def test_a_second_build_into_the_same_folder_leads_to_its_own_result(
    rows: Rows, validate: Validate, tmp_path: Path
) -> None:
    links = set()
    for count in (300, 299):
        validate(rows[:count], docs_dir=tmp_path)
        index = (tmp_path / "index.html").read_text(encoding="utf-8")
        link = index.partition('href="')[2].partition('"')[0]
        links.add(link)
        assert f">{count}<" in "".join((tmp_path / link).read_text(encoding="utf-8").split())
    assert len(links) == 2


def test_data_docs_show_a_query_s_markup_as_text(
    rows: Rows, change: Change, validate: Validate, tmp_path: Path
) -> None:
    fields = {"query": MARKUP, "difficulty": MARKUP, "domain": MARKUP, "reasoning": MARKUP}
    rows[0] = change(rows[0], **fields)
    rows[1] = change(rows[1], **fields)
    result = validate(rows, docs_dir=tmp_path)
    assert "unique queries" in failed(result)
    pages = [page.read_text(encoding="utf-8") for page in tmp_path.rglob("*.html")]
    assert any("&lt;script&gt;alert(1)" in page for page in pages)
    for page in pages:
        assert "<script>alert(1)" not in page
        assert "<img src=x" not in page


def test_data_docs_may_load_and_run_nothing(rows: Rows, validate: Validate, tmp_path: Path) -> None:
    validate(rows, docs_dir=tmp_path)
    pages = {page.name: page.read_text(encoding="utf-8") for page in tmp_path.rglob("*.html")}
    assert pages.keys() == {"index.html", "labelled-set.html", "labelled-rows.html"}
    assert "//" not in pages.pop("index.html")
    for page in pages.values():
        before_any_reference = page.partition("http:")[0].partition("https:")[0]
        assert "default-src 'none'; style-src 'unsafe-inline'" in before_any_reference


def test_the_suite_opens_no_connection_and_leaves_no_file_behind(
    rows: Rows, validate: Validate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, temporary, docs = tmp_path / "here", tmp_path / "temporary", tmp_path / "docs"
    here.mkdir()
    temporary.mkdir()

    def refuse(*arguments: object) -> None:
        raise AssertionError(f"a connection was opened: {arguments}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    monkeypatch.chdir(here)
    assert validate(rows, docs_dir=docs).success
    assert list(here.iterdir()) == []
    assert list(temporary.iterdir()) == []


def test_the_suite_prints_nothing(
    rows: Rows, change: Change, validate: Validate, capfd: pytest.CaptureFixture[str]
) -> None:
    rows[0] = change(rows[0], domain="?")
    validate(rows)
    assert capfd.readouterr() == ("", "")


def test_importing_the_suite_loads_neither_great_expectations_nor_pandas() -> None:
    program = (
        "import sys, data_contracts.suite; "
        "print(sorted({'great_expectations', 'pandas', 'numpy'} & sys.modules.keys()))"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
