"""The evaluation report as markdown: `report.md` in the run's folder and the UI's artifact."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from typing import Final

from tasks.reporting.content import Block, Cell, Figure, Table, report_content
from tasks.reporting.inputs import ReportInput
from tasks.reporting.text import inert

__all__ = ["evaluation_markdown", "inert"]

#: For texts of our own or of the configuration: explanations may be long.
_PROSE_LIMIT: Final = 2_000


def evaluation_markdown(report: ReportInput, charts: Mapping[str, bytes] | None) -> str:
    """The report as GitHub-flavoured markdown that needs no file beside it.

    Args:
        report: what to show; texts of queries, answers and models are made inert.
        charts: PNG by name of the chart (those of `content.FIGURES`); None leaves figures out.

    Raises:
        ValueError: a chart's name is not known.
    """
    content = report_content(report, dict(charts or {}))
    parts = [
        f"# {content.title}",
        "\n".join(f"- **{_prose(sentence)}**" for sentence in content.headline),
        " · ".join(f"{inert(name)}: {_strong(value)}" for name, value in content.facts),
    ]
    for section in content.sections:
        parts.append(f"## {section.title}")
        for block in section.blocks:
            parts.extend(_rendered(block))
    return "\n\n".join(parts) + "\n"


def _rendered(block: Block) -> Iterator[str]:
    if isinstance(block, str):
        yield _prose(block)
    elif isinstance(block, Figure):
        encoded = base64.b64encode(block.png).decode("ascii")
        yield f"![{_prose(block.caption)}](data:image/png;base64,{encoded})"
    else:
        yield _table(block)
        if block.caption:
            yield _prose(block.caption)


def _table(table: Table) -> str:
    rule = ("---:" if column in table.numeric else ":---" for column in range(len(table.header)))
    rows = (
        map(inert, table.header),
        rule,
        *(map(_cell, row) for row in table.rows),
    )
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _cell(cell: Cell) -> str:
    shown = _strong(cell.text) if cell.strong else inert(cell.text, cell.limit)
    return f"{_strong(cell.note)} · {shown}" if cell.note else shown


def _strong(words: str) -> str:
    stripped = inert(words.strip())
    return f"**{stripped}**" if stripped else ""


def _prose(sentence: str) -> str:
    return inert(sentence, _PROSE_LIMIT)
