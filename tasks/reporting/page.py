"""The evaluation report as one HTML page that needs nothing beside it."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from tasks.reporting.content import Block, Cell, Content, Figure, Table, report_content
from tasks.reporting.inputs import ReportInput
from tasks.reporting.text import visible


def evaluation_page(report: ReportInput, charts: Mapping[str, bytes] | None) -> str:
    """The report as HTML: no script, no request to anywhere, charts inside.

    Args:
        report: what to show; every text is escaped, invisible characters are made visible.
        charts: PNG by name of the chart (those of `content.FIGURES`); None leaves figures out.

    Raises:
        ValueError: a chart's name is not known.
    """
    return content_page(report_content(report, dict(charts or {})), f"run {report.run_id}")


def content_page(content: Content, about: str) -> str:
    """Any content as HTML in the same manner; `about` says what it is of."""
    return _template().render(content=content, about=about)


@cache
def _template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(visible=visible, shown=_shown, data_uri=_data_uri, kind=_kind)
    return environment.get_template("page.html.j2")


def _shown(cell: Cell) -> str:
    """The cell's text; a model's own line breaks break the line here too."""
    text = visible(cell.text, cell.limit)
    return text.replace("↵", "↵\n") if cell.verbatim else text


def _data_uri(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"


def _kind(block: Block) -> str:
    if isinstance(block, Table):
        return "table"
    return "figure" if isinstance(block, Figure) else "text"
