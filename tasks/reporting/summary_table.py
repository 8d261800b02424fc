"""The results as a plain-text table for the console."""

from __future__ import annotations

from typing import Final

from data_contracts.evaluation import CandidateScores, EvaluationSummary
from tasks.reporting import text

#: No line is longer.
WIDTH: Final = 100
_GAP: Final = "  "
_HEADER: Final = (
    "candidate",
    "rubric [95%]",
    "judge",
    "mae",
    "dominant",
    "valid",
    "mean ms",
    "p99 ms",
    "$/1k",
)


def console_table(summary: EvaluationSummary) -> str:
    """The benchmark's results, a line a candidate, at most `WIDTH` columns wide.

    `$/1k` is the cost of 1,000 routed queries; `~` marks simulated dollars.
    """
    if not summary.benchmark:
        return "No candidate was evaluated."
    rows = [_HEADER, *(_row(candidate) for candidate in summary.benchmark)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADER))]
    widths[0] = min(widths[0], WIDTH - sum(widths[1:]) - len(_GAP) * (len(widths) - 1))
    lines = [_line(row, widths) for row in rows]
    lines.insert(1, _GAP.join("-" * width for width in widths))
    notes = [f"{summary.benchmark[0].queries:,} held-out queries (benchmark)"]
    if any(candidate.simulated_cost for candidate in summary.benchmark):
        notes.append("~ simulated")
    return "\n".join([*lines, "; ".join(notes)])


def _row(candidate: CandidateScores) -> tuple[str, ...]:
    return (
        candidate.name,
        f"{text.score(candidate.rubric)} {text.interval(candidate.rubric_interval)}",
        text.score(candidate.judge),
        text.error(candidate.mae),
        text.percent(candidate.dominant_match),
        text.percent(candidate.valid_rate),
        text.milliseconds(candidate.latency_ms.mean),
        text.milliseconds(candidate.latency_ms.p99),
        ("~" if candidate.simulated_cost else "") + text.usd(candidate.cost_per_1k_usd),
    )


def _line(row: tuple[str, ...], widths: list[int]) -> str:
    name, *numbers = row
    first = name if len(name) <= widths[0] else name[: widths[0] - 1] + "…"
    cells = (number.rjust(width) for number, width in zip(numbers, widths[1:], strict=True))
    return _GAP.join((first.ljust(widths[0]), *cells))
