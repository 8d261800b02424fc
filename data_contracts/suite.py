"""What a labelled set must fulfil as a whole: a Great Expectations suite over its rows.

The record contract (`LabelledQuery`) holds for each row alone; this suite holds what only the
set can break (uniqueness, balance, boilerplate) and the ranges of every row once more, so that
one report shows them all. Great Expectations takes seconds to import and is loaded inside
`validate_dataset` alone.
"""

from __future__ import annotations

import html
import re
import shutil
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, get_args

from data_contracts.heldout import normalise
from data_contracts.queries import (
    DIFFICULTIES,
    LEADING_CHANNELS,
    Domain,
    LabelledQuery,
    leading_channel,
)
from reelroute.errors import ContractError
from reelroute.weights import MODALITIES, SUM_TOLERANCE, RoutingWeights

SUITE_NAME: Final = "labelled-set"
#: How many rows a failed expectation names.
MAX_SAMPLES: Final = 5
#: At least this share of the reasonings must differ: a teacher that reasons writes its own each
#: time, one that fills in a few templates does not.
MIN_DISTINCT_REASONING: Final = 0.5

#: The record contract's pattern, ended so that Python's `$` doesn't let a line end through.
_DOMAIN_PATTERN: Final = str(get_args(Domain)[1].pattern).removesuffix("$") + r"\Z"
_SENTENCE_END: Final = re.compile(r"(?<=[.!?])\s+")
_SHOWN_CHARACTERS: Final = 60


@dataclass(frozen=True)
class SuiteLimits:
    """The limits that a profile sets.

    Attributes:
        query_words_max, query_characters_max: the longest query.
        reasoning_words_min, reasoning_words_max: length of a reasoning.
        balance_tolerance: how far the share of a channel or difficulty may be from the expected
            share, absolute (0.05: 0.20 to 0.30 where 0.25 is expected).
        reasoning_repeat_max: the largest share of the rows that may contain the same sentence.
        min_rows, max_rows: size of the set; by default Bedrock's limits.
    """

    query_words_max: int
    query_characters_max: int
    reasoning_words_min: int
    reasoning_words_max: int
    balance_tolerance: float
    reasoning_repeat_max: float
    min_rows: int = 100
    max_rows: int = 15_000


@dataclass(frozen=True)
class ExpectationOutcome:
    """What one expectation found.

    The texts may hold parts of queries, on one line and without control characters; they are
    not escaped for HTML or Markdown.

    Attributes:
        expectation: what is expected, in words.
        column: the column that it reads.
        expected: the limit.
        observed: what the set holds.
        failed_rows: rows that break it; 0 where only the set as a whole can.
        samples: rows that show why it failed: id, query (shortened) and value.
    """

    expectation: str
    column: str
    success: bool
    expected: str
    observed: str
    failed_rows: int
    samples: tuple[str, ...]

    def sentence(self) -> str:
        """The outcome as a sentence."""
        found = f"{self.expectation}: expected {self.expected}, found {self.observed}"
        examples = f"; for example {'; '.join(self.samples)}" if self.samples else ""
        return f"{found}{examples}."


@dataclass(frozen=True)
class SuiteResult:
    """What the suite found, with Great Expectations' own JSON result as `raw`."""

    success: bool
    outcomes: tuple[ExpectationOutcome, ...]
    raw: dict[str, Any]


@dataclass(frozen=True)
class _Check:
    """One expectation: its texts, and Great Expectations' type and arguments.

    Attributes:
        shown: a row's value as samples show it, by the row's position.
        examples: positions of the rows that samples name, for an expectation about the set.
    """

    name: str
    column: str
    expected: str
    type: str
    arguments: Mapping[str, Any]
    shown: Callable[[int], str] | None = None
    examples: Sequence[int] = ()


def validate_dataset(
    rows: Sequence[LabelledQuery],
    limits: SuiteLimits,
    *,
    expected_channels: Mapping[str, float] | None,
    expected_difficulties: Mapping[str, float] | None,
    docs_dir: Path | None = None,
) -> SuiteResult:
    """Check a labelled set as a whole.

    Args:
        rows: the labelled queries.
        limits: the profile's limits.
        expected_channels: share of the rows that each leading channel is expected to have; a
            channel that is not named is expected to have none. None skips the balance.
        expected_difficulties: the same for difficulties.
        docs_dir: the folder into which Great Expectations' Data Docs are built, or None. Its
            `index.html` leads to the result; the pages load nothing from the network.

    Returns:
        One outcome for each expectation, in a fixed order.

    Raises:
        ContractError: an expected share is of an unknown channel or difficulty.
    """
    columns = _columns(rows)
    checks = [
        _Check(
            "row count",
            "(rows)",
            f"{limits.min_rows} to {limits.max_rows}",
            "ExpectTableRowCountToBeBetween",
            {"min_value": limits.min_rows, "max_value": limits.max_rows},
        ),
        *_uniqueness_checks(),
        *_weight_checks(),
        *_length_checks(limits),
        *_reasoning_checks(columns, limits),
        *_vocabulary_checks(),
        *_balance_checks("channel", columns, LEADING_CHANNELS, expected_channels, limits),
        *_balance_checks("difficulty", columns, DIFFICULTIES, expected_difficulties, limits),
    ]
    raw = _run(columns, checks, docs_dir)
    results = {result["expectation_config"]["meta"]["check"]: result for result in raw["results"]}
    outcomes = tuple(_outcome(check, results[check.name], rows, columns) for check in checks)
    return SuiteResult(bool(raw["success"]), outcomes, raw)


def _columns(rows: Sequence[LabelledQuery]) -> dict[str, list[Any]]:
    """The rows by column, with the columns derived from them."""
    sentences = [_sentences(row.reasoning) for row in rows]
    columns: dict[str, list[Any]] = {
        "row": list(range(len(rows))),
        "id": [row.id for row in rows],
        "query": [row.query for row in rows],
        "query_normalised": [normalise(row.query) for row in rows],
        "query_characters": [len(row.query) for row in rows],
        "query_words": [len(row.query.split()) for row in rows],
        **{modality: [getattr(row, modality) for row in rows] for modality in MODALITIES},
        "weights_sum": [sum(getattr(row, m) for m in MODALITIES) for row in rows],
        "reasoning_normalised": [" ".join(row_sentences) for row_sentences in sentences],
        "reasoning_words": [len(row.reasoning.split()) for row in rows],
        "difficulty": [row.difficulty for row in rows],
        "domain": [row.domain for row in rows],
    }
    repeats = _repeats(sentences)
    columns["reasoning_repeat_share"] = [share for share, _ in repeats]
    columns["reasoning_repeated"] = [sentence for _, sentence in repeats]
    leaders = [_leader(row) for row in rows]
    for channel in LEADING_CHANNELS:
        columns[f"channel_{channel}"] = [int(leader == channel) for leader in leaders]
    for difficulty in DIFFICULTIES:
        columns[f"difficulty_{difficulty}"] = [int(row.difficulty == difficulty) for row in rows]
    return columns


def _leader(row: LabelledQuery) -> str:
    # Not `row.channel`: the suite must be able to report rows that break the record contract.
    numbers = {modality: getattr(row, modality) for modality in MODALITIES}
    return leading_channel(RoutingWeights.model_construct(**numbers))


def _sentences(reasoning: str) -> list[str]:
    """The sentences of a reasoning in their normal form."""
    return [normalise(part) for part in _SENTENCE_END.split(reasoning)]


def _repeats(by_row: Sequence[Sequence[str]]) -> list[tuple[float, str]]:
    """For each row's sentences the largest share of rows that contain one, and that one.

    A sentence of one row alone is no repetition, however few the rows.
    """
    counts = Counter(sentence for sentences in by_row for sentence in set(sentences) if sentence)
    repeats = []
    for sentences in by_row:
        sentence = max(sentences, key=lambda s: (counts[s], s))
        count = counts[sentence]
        repeats.append((count / len(by_row), sentence) if count > 1 else (0.0, ""))
    return repeats


def _uniqueness_checks() -> Iterator[_Check]:
    for name, column in (
        ("unique ids", "id"),
        ("unique queries", "query"),
        ("unique queries after normalisation", "query_normalised"),
    ):
        yield _Check(
            name,
            column,
            "each value once",
            "ExpectColumnValuesToBeUnique",
            {"column": column},
        )


def _weight_checks() -> Iterator[_Check]:
    for modality in MODALITIES:
        yield _between(f"{modality} weight in range", modality, 0, 1)
    yield _between(
        "weights add up to 1",
        "weights_sum",
        1 - SUM_TOLERANCE,
        1 + SUM_TOLERANCE,
        expected=f"1 within {SUM_TOLERANCE:g}",
    )
    # The ranges pass over missing values; a weight that is not a number shows in the sum.
    yield _Check(
        "weights are numbers",
        "weights_sum",
        "four numbers in each row",
        "ExpectColumnValuesToNotBeNull",
        {"column": "weights_sum"},
    )


def _length_checks(limits: SuiteLimits) -> Iterator[_Check]:
    yield _between("query length in words", "query_words", 1, limits.query_words_max)
    yield _between("query length in characters", "query_characters", 1, limits.query_characters_max)
    yield _between(
        "reasoning length in words",
        "reasoning_words",
        max(1, limits.reasoning_words_min),  # never empty, whatever the profile says
        limits.reasoning_words_max,
    )


def _reasoning_checks(columns: Mapping[str, list[Any]], limits: SuiteLimits) -> Iterator[_Check]:
    shares, sentences = columns["reasoning_repeat_share"], columns["reasoning_repeated"]
    yield _between(
        "reasoning is not boilerplate",
        "reasoning_repeat_share",
        0,
        limits.reasoning_repeat_max,
        expected=f"no sentence in more than {limits.reasoning_repeat_max:.4g} of the rows",
        shown=lambda row: f"{_one_line(sentences[row])!r} in {shares[row]:.4g} of the rows",
    )
    reasonings = columns["reasoning_normalised"]
    counts = Counter(reasonings)
    yield _Check(
        "reasonings differ",
        "reasoning_normalised",
        f"at least {MIN_DISTINCT_REASONING:g} of the reasonings distinct",
        "ExpectColumnProportionOfUniqueValuesToBeBetween",
        {"column": "reasoning_normalised", "min_value": MIN_DISTINCT_REASONING},
        shown=lambda row: repr(_one_line(reasonings[row])),
        examples=[row for row, reasoning in enumerate(reasonings) if counts[reasoning] > 1],
    )


def _vocabulary_checks() -> Iterator[_Check]:
    yield _Check(
        "known difficulty",
        "difficulty",
        f"one of {', '.join(DIFFICULTIES)}",
        "ExpectColumnValuesToBeInSet",
        {"column": "difficulty", "value_set": list(DIFFICULTIES)},
    )
    yield _Check(
        "well-formed domain",
        "domain",
        "lower-case words joined by dashes",
        "ExpectColumnValuesToMatchRegex",
        {"column": "domain", "regex": _DOMAIN_PATTERN},
    )


def _balance_checks(
    by: str,
    columns: Mapping[str, list[Any]],
    names: Iterable[str],
    expected: Mapping[str, float] | None,
    limits: SuiteLimits,
) -> Iterator[_Check]:
    if expected is None:
        return
    if unknown := sorted(expected.keys() - set(names)):
        raise ContractError(
            f"a share is expected of {by} {unknown[0]!r}: there are {', '.join(names)}"
        )
    for name in names:
        column, share = f"{by}_{name}", expected.get(name, 0.0)
        yield _Check(
            f"share of {by} {name}",
            column,
            f"{share:.4g} within {limits.balance_tolerance:g}",
            "ExpectColumnMeanToBeBetween",
            {
                "column": column,
                # 1e-9: a share exactly at the tolerance passes, whatever the rounding.
                "min_value": share - limits.balance_tolerance - 1e-9,
                "max_value": share + limits.balance_tolerance + 1e-9,
            },
            examples=[row for row, is_one in enumerate(columns[column]) if is_one],
        )


def _between(
    name: str,
    column: str,
    low: float,
    high: float,
    *,
    expected: str = "",
    shown: Callable[[int], str] | None = None,
) -> _Check:
    return _Check(
        name,
        column,
        expected or f"{low:g} to {high:g}",
        "ExpectColumnValuesToBeBetween",
        {"column": column, "min_value": low, "max_value": high},
        shown=shown,
    )


def _run(
    columns: Mapping[str, list[Any]], checks: Sequence[_Check], docs_dir: Path | None
) -> dict[str, Any]:
    """Great Expectations' JSON result for the checks, and its Data Docs where asked for.

    Data Docs write the values of failed rows into their pages as they are, markup and all, so
    that Great Expectations gets every text escaped. No check's verdict changes by that: lengths
    have columns of their own, and different texts stay different.
    """
    escaped = {name: [_escaped(value) for value in values] for name, values in columns.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # Here and not above: the import takes seconds (see the module's docstring).
        import great_expectations as gx
        import pandas as pd
        from great_expectations.core.run_identifier import RunIdentifier
        from great_expectations.data_context.types.base import (
            DataContextConfig,
            InMemoryStoreBackendDefaults,
            ProgressBarsConfig,
        )

        config = DataContextConfig(
            store_backend_defaults=InMemoryStoreBackendDefaults(),
            analytics_enabled=False,
            progress_bars=ProgressBarsConfig(globally=False),
            data_docs_sites={} if docs_dir is None else {"data-docs": _site(docs_dir)},
        )
        context = gx.get_context(mode="ephemeral", project_config=config)
        suite = gx.ExpectationSuite(
            name=SUITE_NAME,
            expectations=[
                getattr(gx.expectations, check.type)(
                    **check.arguments,
                    meta={"check": check.name},
                    description=f"{check.name}: {check.expected}",
                )
                for check in checks
            ],
        )
        batch = (
            context.data_sources.add_pandas("labelled")
            .add_dataframe_asset("rows")
            .add_batch_definition_whole_dataframe("all")
        )
        definition = context.validation_definitions.add(
            gx.ValidationDefinition(name=SUITE_NAME, data=batch, suite=context.suites.add(suite))
        )
        run = RunIdentifier(run_name=SUITE_NAME, run_time=datetime.now(UTC))
        result = definition.run(
            batch_parameters={"dataframe": pd.DataFrame(escaped)},
            result_format={
                "result_format": "SUMMARY",
                "partial_unexpected_count": MAX_SAMPLES,
                "unexpected_index_column_names": ["row", "id", "query"],
            },
            run_id=run,
        )
        if docs_dir is not None:
            context.build_data_docs()
    if docs_dir is not None:
        _close_pages(docs_dir, f"{run.run_time:%Y%m%dT%H%M%S.%fZ}")
    return _deterministic(_unescaped(result.to_json_dict()))


def _escaped(value: Any) -> Any:
    return html.escape(value) if isinstance(value, str) else value


def _unescaped(value: Any) -> Any:
    """A JSON value with the texts as they were before `_escaped`."""
    if isinstance(value, dict):
        return {key: _unescaped(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_unescaped(item) for item in value]
    return html.unescape(value) if isinstance(value, str) else value


def _deterministic(raw: dict[str, Any]) -> dict[str, Any]:
    """The JSON result without its random ids and times: equal rows give an equal result."""
    for result in raw["results"]:
        del result["expectation_config"]["id"]
    version = raw["meta"]["great_expectations_version"]
    return {**raw, "meta": {"great_expectations_version": version}}


def _outcome(
    check: _Check,
    result: Mapping[str, Any],
    rows: Sequence[LabelledQuery],
    columns: Mapping[str, list[Any]],
) -> ExpectationOutcome:
    found: Mapping[str, Any] = result["result"]
    success = bool(result["success"])
    failed_rows = int(found.get("unexpected_count", 0))
    if "element_count" in found:
        observed = f"{failed_rows} of {found['element_count']} rows break it"
        positions = [place["row"] for place in found.get("partial_unexpected_index_list") or ()]
    else:
        value = found.get("observed_value")
        observed = "nothing to measure" if value is None else f"{value:.4g}"
        positions = list(check.examples[:MAX_SAMPLES])
    samples = [_sample(check, position, rows, columns) for position in positions]
    return ExpectationOutcome(
        expectation=check.name,
        column=check.column,
        success=success,
        expected=check.expected,
        observed=observed,
        failed_rows=failed_rows,
        samples=() if success else tuple(samples),
    )


def _sample(
    check: _Check,
    position: int,
    rows: Sequence[LabelledQuery],
    columns: Mapping[str, list[Any]],
) -> str:
    row = rows[position]
    named = f"{_one_line(row.id)} {_one_line(row.query)!r}"
    if check.shown is not None:
        return f"{named}: {check.shown(position)}"
    if check.examples or check.column in ("id", "query"):  # the value says no more
        return named
    value = columns[check.column][position]
    shown = f"{value:.7g}" if isinstance(value, int | float) else repr(_one_line(str(value)))
    return f"{named}: {shown}"


def _one_line(text: str) -> str:
    """A text as messages show it: one line, printable, at most 60 characters."""
    spaced = " ".join(text.split())
    line = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in spaced)
    return line if len(line) <= _SHOWN_CHARACTERS else f"{line[: _SHOWN_CHARACTERS - 1]}…"


def _site(docs_dir: Path) -> dict[str, Any]:
    """Great Expectations' configuration of a site of static pages in a folder."""
    return {
        "class_name": "SiteBuilder",
        "show_how_to_buttons": False,
        "store_backend": {
            "class_name": "TupleFilesystemStoreBackend",
            "base_directory": str(docs_dir.resolve()),
        },
        "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
    }


#: Great Expectations' pages take styles and scripts from public CDNs, and its index is empty
#: without them. Labelled queries are nobody else's business: the policy lets a page load and
#: run nothing, and the style makes up for what is missing.
_PAGE_HEAD: Final = """<head>
<meta charset="UTF-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<style>
  body { font: 15px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 1rem auto; }
  .navbar-brand, .card, footer { display: none; }
  table { border-collapse: collapse; width: 100%; }
  td, th { border: 1px solid #ccc; padding: .3rem .6rem; text-align: left; vertical-align: top; }
  i.fa-check-circle::before { content: "✔"; color: #28a745; }
  i.fa-times::before { content: "✖"; color: #dc3545; }
  .text-danger { color: #dc3545; }
</style>"""

_INDEX: Final = """<!DOCTYPE html>
<html><head><meta charset="UTF-8"><title>Validation of the labelled set</title>
<meta http-equiv="refresh" content="0; url={page}"></head>
<body><a href="{page}">Validation of the labelled set</a></body></html>
"""


def _close_pages(docs_dir: Path, run_time: str) -> None:
    """Make the built pages work offline, with an index that leads to the run's result."""
    result = next(docs_dir.glob(f"validations/*/*/{run_time}/*.html"))
    for page in (result, *docs_dir.glob("expectations/*.html")):
        text = page.read_text(encoding="utf-8")
        page.write_text(text.replace("<head>", _PAGE_HEAD, 1), encoding="utf-8")
    link = result.relative_to(docs_dir).as_posix()
    (docs_dir / "index.html").write_text(_INDEX.format(page=link), encoding="utf-8")
    # Fonts and pictures that only the closed parts of the pages ask for.
    shutil.rmtree(docs_dir / "static")
