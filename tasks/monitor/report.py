"""A window's report: markdown for the UI. What comes from logs is made inert."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from data_contracts.monitoring import Comparison, Reference, WindowRecord
from tasks.reporting.text import NOTHING, inert

_REFERENCES: Final[dict[Reference, str]] = {
    "training": "Beside the release's training set",
    "before": "Beside the window before",
}
_SHOWN_WORDS: Final = 20


def window_report(record: WindowRecord, uri: str) -> str:
    """The report of a window.

    Args:
        uri: the record's.
    """
    return "\n".join(_lines(record, uri))


def summary(record: WindowRecord) -> str:
    """The window in a sentence."""
    counted = record.aggregate
    drift = ", ".join(f"{one.name} {shown(one)}" for one in record.drifted)
    unread = f"; {len(counted.unreadable)} files can't be read" if counted.unreadable else ""
    return (
        f"{record.window}: {counted.lines.requests:,} requests, {counted.queries:,} queries, "
        f"{counted.lines.malformed:,} malformed lines{unread}; "
        + (f"drift in {drift}" if drift else "no drift")
        + f"; {record.sampled:,} queries sampled"
    )


def shown(comparison: Comparison) -> str:
    """A comparison's value beside its threshold."""
    if comparison.value is None:
        return f"too few ({min(comparison.queries):,})"
    if comparison.kind == "share":
        return f"{comparison.value:+.1%} (limit {comparison.threshold:+.1%})"
    return f"{comparison.value:.3f} (limit {comparison.threshold:.3f})"


def _lines(record: WindowRecord, uri: str) -> Iterator[str]:
    counted, lines = record.aggregate, record.aggregate.lines
    yield f"**{'Drift' if record.drifted else 'No drift'}** in the logs of {record.window}"
    yield ""
    yield (
        f"{lines.read:,} lines read = {lines.requests:,} requests of the window + "
        f"{lines.outside:,} of other times + {lines.other:,} of other kinds + "
        f"{lines.malformed:,} malformed; {counted.queries:,} queries answered, "
        f"{counted.texts:,} of them with their text. Release: {inert(record.release or 'none')}."
    )
    for name, reason in counted.unreadable.items():
        yield f"\n{inert(name, 100)} can't be read: {inert(reason, 200)}"
    for reference, heading in _REFERENCES.items():
        found = [one for one in record.comparisons if one.reference == reference]
        yield f"\n### {heading}\n"
        if not found:
            yield "There is none to compare with."
            continue
        yield "| | measure | value | queries | what moved most |"
        yield "|---|---|---|---|---|"
        for one in sorted(found, key=lambda one: not one.drifted):
            yield (
                f"| {'**drift**' if one.drifted else ''} | {one.measure} {one.kind} "
                f"| {shown(one) if one.value is not None else NOTHING + ' ' + shown(one)} "
                f"| {one.queries[0]:,} beside {one.queries[1]:,} | {inert(one.evidence, 100)} |"
            )
    if counted.new_words:
        words = list(counted.new_words.items())[:_SHOWN_WORDS]
        yield "\n### Words that the training set doesn't hold\n"
        yield ", ".join(f"{inert(word, 40)} ({count:,})" for word, count in words)
    yield ""
    if record.sample:
        refused = "".join(f"; refused as {inert(r)}: {n:,}" for r, n in record.refused.items())
        yield f"{record.sampled:,} queries sampled for the next run{refused}: `{record.sample}`"
    elif counted.queries:
        yield (
            "No queries sampled, no new words counted: the service logs no texts "
            "(`reelroute serve --log-queries` logs them)."
        )
    yield f"\nRecord: `{uri}`"
