"""The report's charts as PNG bytes.

Drawn with matplotlib's Agg backend on figures of their own (no pyplot, no global state), so
that they may be drawn in any thread. A figure is 9 inches wide and its smallest text 9 points,
legible in a pane of 900 pixels. Colours are colour-blind safe (Okabe and Ito's for the
modalities, Paul Tol's muted set for the candidates) and never the only way to tell two things
apart.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle, product
from typing import Final, Literal

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter
from matplotlib.transforms import Bbox

from data_contracts.evaluation import (
    BASE_STUDENT,
    CURRENT_RELEASE,
    DISTILLED_STUDENT,
    LARGE_BASELINE,
    CandidateScores,
    EvaluationSummary,
)
from data_contracts.queries import LabelledQuery
from reelroute.weights import MODALITIES, Modality
from tasks.reporting import selection, text
from tasks.reporting.inputs import ReportInput

#: A markdown artifact carries its charts as data URIs; larger ones make the UI slow.
MAX_BYTES: Final = 300_000

_WIDTH: Final = 9.0
_DOTS_PER_INCH: Final = 150
_INK: Final = "#1b2430"
_SOFT: Final = "#5a6675"
_LINE: Final = "#dde3ea"
_SMALL, _MEDIUM, _LARGE = 9.0, 10.0, 13.0

_MODALITY_COLOURS: Final[dict[Modality, str]] = {
    "visual": "#0072B2",
    "audio": "#E69F00",
    "transcription": "#009E73",
    "metadata": "#CC79A7",
}
#: Candidates that most runs have keep their colour whoever else is there. (None is grey: that
#: is for what is not a candidate.)
_ROLE_COLOURS: Final = {
    BASE_STUDENT: "#DDCC77",
    DISTILLED_STUDENT: "#332288",
    LARGE_BASELINE: "#CC6677",
    CURRENT_RELEASE: "#88CCEE",
    "local-student": "#117733",
    "cascade": "#44AA99",
}
_OTHER_COLOURS: Final = ("#AA4499", "#882255", "#999933")
_STEP_COLOURS: Final = ("#C9D1DA", "#AEB8C4", "#DCE2E9", "#939FAD")
_MARKERS: Final = "oDs^vPX*<>"
_THOUSANDS: Final = FuncFormatter(lambda value, _: f"{value:,g}")


def report_charts(
    report: ReportInput, labelled: Iterable[LabelledQuery] | None = None
) -> dict[str, bytes]:
    """Every chart that there is data for, by name.

    Args:
        report: the evaluation.
        labelled: the training examples; None leaves their distribution out.
    """
    summary, charts = report.summary, dict[str, bytes]()
    if summary.benchmark:
        charts["comparison"] = comparison(summary)
        charts["quality_against_latency"] = quality_against_latency(summary)
        if report.latency_steps:
            charts["latency_by_step"] = latency_by_step(report.latency_steps, summary.benchmark)
    if any(candidate.slices for candidate in summary.benchmark):
        charts["slices"] = slices(summary)
    if summary.cascade:
        charts["cascade"] = cascade(summary)
    examples = list(labelled or ())
    if examples:
        charts["weight_distribution"] = weight_distribution(examples)
    return charts


def weight_distribution(labelled: Iterable[LabelledQuery]) -> bytes:
    """The distribution of each channel's weight over the training examples, four panels.

    Raises:
        ValueError: there are no examples.
    """
    examples = list(labelled)
    if not examples:
        raise ValueError("no labelled queries: the distribution of their weights can't be drawn")
    figure = _figure(
        5.2,
        "Weights of the training examples",
        f"Share of {len(examples):,} labelled queries at each weight, by channel",
    )
    panels = figure.subplots(2, 2, sharex=True, sharey=True)
    edges = [(2 * step - 1) / 40 for step in range(22)]  # bins of 0.05, centred on the grid
    for axes, modality in zip(panels.flat, MODALITIES, strict=True):
        weights = [example.weights.as_dict()[modality] for example in examples]
        mean = sum(weights) / len(weights)
        shares = [100 / len(weights)] * len(weights)
        colour = _MODALITY_COLOURS[modality]
        axes.hist(weights, bins=edges, weights=shares, color=colour, rwidth=0.86, zorder=2)
        axes.axvline(mean, color=_INK, linewidth=1.2, linestyle=(0, (4, 3)), zorder=3)
        _plain(axes, grid="y")
        axes.set_title(
            f"{modality}   mean {mean:.2f}, not searched (under 0.05) in "
            f"{text.percent(sum(w < 0.05 - 1e-9 for w in weights) / len(weights))}",
            loc="left",
            fontsize=_SMALL,
            color=_INK,
        )
        axes.tick_params(axis="y", length=0)
        axes.set_xlim(-0.035, 1.035)
        axes.set_xticks([0, 0.2, 0.4, 0.6, 0.8, 1])
        axes.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{share:.0f}%"))
    for axes in panels[1]:
        axes.set_xlabel("weight", fontsize=_SMALL, color=_SOFT)
    return _png(figure)


def comparison(summary: EvaluationSummary) -> bytes:
    """The candidates side by side on rubric, judge (where one ran) and mean latency.

    Raises:
        ValueError: there are no candidates.
    """
    candidates = _candidates(summary)
    judged = any(candidate.judge is not None for candidate in candidates)
    figure = _figure(
        1.55 + 0.5 * len(candidates),
        "Quality and latency of each candidate",
        f"{candidates[0].queries:,} held-out queries; the whiskers are the rubric's 95% interval"
        + ("" if judged else "; no judge ran"),
    )
    panels = figure.subplots(1, 3 if judged else 2, sharey=True)
    rubric, *middle, latency = panels
    colours = _colours(candidates)
    rows = range(len(candidates))

    for row, candidate in enumerate(candidates):
        low, high = candidate.rubric_interval
        colour = colours[candidate.name]
        rubric.barh(row, candidate.rubric - 1, left=1, height=0.6, color=colour, zorder=2)
        for ink, width in (("white", 4.0), (_INK, 1.4)):  # edged in white to show on any bar
            rubric.plot([low, high], [row, row], color=ink, linewidth=width, zorder=3)
            rubric.plot(
                [low, high],
                [row, row],
                "|",
                color=ink,
                markersize=6 + width,
                markeredgewidth=width,
                zorder=3,
            )
        _beside(rubric, max(high, candidate.rubric), row, text.score(candidate.rubric))
        for axes in middle:
            if candidate.judge is None:
                _beside(axes, 1, row, "not judged", colour=_SOFT)
            else:
                axes.barh(row, candidate.judge - 1, left=1, height=0.6, color=colour, zorder=2)
                _beside(axes, candidate.judge, row, text.score(candidate.judge))
        mean = candidate.latency_ms.mean
        latency.barh(row, mean, height=0.6, color=colour, zorder=2)
        _beside(latency, mean, row, text.milliseconds(mean))

    titles = ("Rubric, computed (1–5)", *("Judge (1–5)" for _ in middle), "Mean latency (ms)")
    for axes, title in zip(panels, titles, strict=True):
        _plain(axes, grid="x")
        axes.set_title(title, loc="left", fontsize=_MEDIUM, color=_INK)
        axes.tick_params(axis="y", length=0)
    for axes in (rubric, *middle):
        axes.set_xlim(1, 5.75)  # room for the number beside a full bar
        axes.set_xticks(range(1, 6))
        axes.spines["bottom"].set_bounds(1, 5)
    latency.set_xlim(0, 1.28 * max(candidate.latency_ms.mean for candidate in candidates) or 1)
    latency.xaxis.set_major_locator(MaxNLocator(4))
    latency.xaxis.set_major_formatter(_THOUSANDS)
    rubric.set_yticks(rows, [_name(candidate) for candidate in candidates])
    rubric.set_ylim(len(candidates) - 0.5, -0.5)
    return _png(figure)


def latency_by_step(steps: Mapping[str, float], candidates: Sequence[CandidateScores]) -> bytes:
    """One search's latency by step, a stacked bar for each candidate as its router.

    Args:
        steps: step to configured milliseconds, in the order of the search.
        candidates: the router's part is the mean latency that was measured for each.

    Raises:
        ValueError: there are no candidates.
    """
    if not candidates:
        raise ValueError("no candidates: the latency of a search can't be drawn")
    figure = _figure(
        1.75 + 0.52 * len(candidates),
        "Latency of one search by step",
        "In colour the router's mean latency, measured in this run; in grey the other steps, "
        "configured example times",
    )
    axes = figure.subplots()
    colours = _colours(candidates)
    others = sum(steps.values())
    widest = others + max(candidate.latency_ms.mean for candidate in candidates)
    for row, candidate in enumerate(candidates):
        router = candidate.latency_ms.mean
        axes.barh(row, router, height=0.6, color=colours[candidate.name], zorder=2)
        end = router
        for (step, duration), colour in zip(steps.items(), cycle(_STEP_COLOURS), strict=False):
            axes.barh(
                row,
                duration,
                left=end,
                height=0.6,
                color=colour,
                edgecolor="white",
                linewidth=0.8,
                label=f"{step} ({duration:,g} ms)" if row == 0 else None,
                zorder=2,
            )
            end += duration
        total = f"{text.milliseconds(end)} ms"
        share = f"router {text.milliseconds(router)} ms, {text.percent(router / end)}"
        _beside(axes, end, row, f"{total}\n{share}", size=_SMALL)
    _plain(axes, grid="x")
    axes.set_xlim(0, 1.32 * widest)
    axes.xaxis.set_major_formatter(_THOUSANDS)
    axes.set_xlabel("milliseconds from query to results", fontsize=_SMALL, color=_SOFT)
    axes.tick_params(axis="y", length=0)
    axes.set_yticks(range(len(candidates)), [f"{_name(c)}" for c in candidates])
    axes.set_ylim(len(candidates) - 0.5, -0.5)
    _legend(figure, axes)
    return _png(figure)


def slices(summary: EvaluationSummary) -> bytes:
    """Each candidate's rubric by leading channel and by difficulty.

    Raises:
        ValueError: no candidate has slices by channel or difficulty.
    """
    kinds: tuple[tuple[selection.SliceBy, str], ...] = (
        ("channel", "By leading channel of the reference"),
        ("difficulty", "By difficulty"),
    )
    shown = [
        (by, title, sizes) for by, title in kinds if (sizes := selection.slice_sizes(summary, by))
    ]
    if not shown:
        raise ValueError("no slices by channel or difficulty: they can't be drawn")
    candidates = summary.benchmark
    colours, markers = _colours(candidates), _markers(candidates)
    lanes = 0.13 * len(candidates) + 0.22  # inches for each slice
    figure = _figure(
        1.6 + max(len(sizes) for *_, sizes in shown) * max(lanes, 0.45),
        "Rubric by slice",
        "Mean computed rubric (1–5) over the queries of each slice",
    )
    for axes, (by, title, sizes) in zip(
        figure.subplots(1, len(shown), squeeze=False)[0], shown, strict=True
    ):
        for place, candidate in enumerate(candidates):
            found = selection.slices(candidate, by)
            offset = (place - (len(candidates) - 1) / 2) * 0.74 / max(len(candidates), 2)
            points = [
                (found[value].rubric, row + offset)
                for row, value in enumerate(sizes)
                if value in found
            ]
            axes.plot(
                [x for x, _ in points],
                [y for _, y in points],
                markers[candidate.name],
                color=colours[candidate.name],
                markeredgecolor="white",
                markeredgewidth=0.5,
                markersize=8,
                label=candidate.name,
                zorder=3,
            )
        for row in range(1, len(sizes)):
            axes.axhline(row - 0.5, color=_LINE, linewidth=0.8, zorder=1)
        _plain(axes, grid="x")
        axes.set_title(title, loc="left", fontsize=_MEDIUM, color=_INK)
        axes.set_xlim(0.9, 5.1)
        axes.set_xticks(range(1, 6))
        axes.tick_params(axis="y", length=0)
        axes.set_yticks(range(len(sizes)), [f"{value}\nn = {n:,}" for value, n in sizes.items()])
        axes.set_ylim(len(sizes) - 0.5, -0.5)
    _legend(figure, figure.axes[0])
    return _png(figure)


def cascade(summary: EvaluationSummary) -> bytes:
    """The cascade's rubric, mean latency and cost over the share of queries passed on.

    Raises:
        ValueError: the summary has no cascade.
    """
    points = summary.cascade
    if not points:
        raise ValueError("the summary has no cascade to draw")
    figure = _figure(
        3.6, "The cascade", "Over the share of queries that the local student passes on"
    )
    shares = [100 * point.share for point in points]
    panels = (
        ("Rubric, computed (1–5)", [point.rubric for point in points]),
        ("Mean latency (ms)", [point.mean_latency_ms for point in points]),
        ("Cost of 1,000 queries ($)", [point.cost_per_1k_usd for point in points]),
    )
    for axes, (title, values) in zip(figure.subplots(1, 3), panels, strict=True):
        axes.plot(shares, values, color=_ROLE_COLOURS["cascade"], linewidth=2.0)
        _plain(axes, grid="both")
        axes.set_title(title, loc="left", fontsize=_MEDIUM, color=_INK)
        axes.set_xlabel("passed on, %")
    return _png(figure)


def quality_against_latency(summary: EvaluationSummary) -> bytes:
    """Rubric against mean latency on a logarithmic axis, a labelled point a candidate.

    Raises:
        ValueError: there are no candidates.
    """
    candidates = _candidates(summary)
    figure = _figure(
        4.6,
        "Quality against latency",
        "Up and to the left is better; the whiskers are the rubric's 95% interval",
    )
    axes = figure.subplots()
    colours, markers = _colours(candidates), _markers(candidates)
    points = {c.name: (max(c.latency_ms.mean, 0.01), c.rubric) for c in candidates}
    for candidate in candidates:
        x, y = points[candidate.name]
        low, high = candidate.rubric_interval
        colour = colours[candidate.name]
        axes.plot([x, x], [low, high], color=colour, linewidth=1.6, zorder=2)
        axes.plot([x, x], [low, high], "_", color=colour, markersize=11, markeredgewidth=1.6)
        axes.plot(
            x, y, markers[candidate.name], color=colour, markersize=8, markeredgecolor="white"
        )
    _plain(axes, grid="both")
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(_THOUSANDS)
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlim(min(x for x, _ in points.values()) / 4, max(x for x, _ in points.values()) * 4)
    axes.set_ylim(0.9, 5.1)
    axes.set_yticks(range(1, 6))
    axes.set_xlabel("mean latency of a query, ms (logarithmic)", fontsize=_SMALL, color=_SOFT)
    axes.set_ylabel("rubric, computed (1–5)", fontsize=_SMALL, color=_SOFT)
    _label_points(figure, axes, candidates, points)
    return _png(figure)


def by_run(
    title: str, subtitle: str, unit: str, runs: Sequence[str], series: Mapping[str, Sequence[float]]
) -> bytes:
    """A measure over the runs, oldest first, a line for each of several names.

    Args:
        unit: what the vertical axis measures.
        runs: the runs' labels.
        series: name to a value for each run; NaN where the run has none.

    Raises:
        ValueError: there are no runs.
    """
    if not runs:
        raise ValueError("no runs: their trend can't be drawn")
    figure = _figure(3.6, title, subtitle)
    axes = figure.subplots()
    others = sorted(series.keys() - _ROLE_COLOURS.keys())
    colours = {**_ROLE_COLOURS, **dict(zip(others, cycle(_OTHER_COLOURS), strict=False))}
    for (name, values), marker in zip(series.items(), cycle(_MARKERS), strict=False):
        axes.plot(
            range(len(runs)),
            values,
            label=name,
            color=colours[name],
            marker=marker,
            markersize=5,
            linewidth=1.6,
            clip_on=False,
        )
    axes.set_ylabel(unit, fontsize=_SMALL, color=_SOFT)
    # As many labels as there is room for.
    every = -(-len(runs) // 12)
    axes.set_xticks(range(0, len(runs), every), runs[::every])
    axes.yaxis.set_major_formatter(_THOUSANDS)
    _plain(axes, "y")
    _legend(figure, axes)
    return _png(figure)


def _label_points(
    figure: Figure,
    axes: Axes,
    candidates: Sequence[CandidateScores],
    points: Mapping[str, tuple[float, float]],
) -> None:
    """Write each candidate's name at the nearest place to its point that is still free."""
    figure.draw_without_rendering()
    renderer = FigureCanvasAgg(figure).get_renderer()
    frame = axes.get_window_extent(renderer)
    centres = [axes.transData.transform(point) for point in points.values()]
    taken = [Bbox.from_extents(x - 12, y - 16, x + 12, y + 16) for x, y in centres]
    for candidate in candidates:
        x, y = points[candidate.name]
        label = axes.annotate(
            f"{_name(candidate)}\n{text.score(y)} at {text.milliseconds(x)} ms",
            (x, y),
            xytext=(0, 0),
            textcoords="offset points",
            va="center",
            fontsize=_SMALL,
            color=_INK,
            arrowprops={"arrowstyle": "-", "color": _SOFT, "linewidth": 0.7, "shrinkB": 5},
            zorder=4,
        )
        label.set_in_layout(False)
        places = []
        for distance, (up, right) in enumerate(product((0, 28, -28, 56, -56, 84, -84), (13, -13))):
            label.set_position((right, up))
            label.set_horizontalalignment("left" if right > 0 else "right")
            label.update_positions(renderer)
            box = Text.get_window_extent(label, renderer)  # without the line to the point
            covered = sum(_shared_area(box, other) for other in taken)
            covered += box.width * box.height - _shared_area(box, frame)
            places.append((covered, distance, right, up, box))
        _, _, right, up, box = min(places, key=lambda place: place[:2])
        label.set_position((right, up))
        label.set_horizontalalignment("left" if right > 0 else "right")
        if up == 0 and label.arrow_patch is not None:
            label.arrow_patch.set_visible(False)
        taken.append(box)


def _shared_area(one: Bbox, other: Bbox) -> float:
    both = Bbox.intersection(one, other)
    return both.width * both.height if both is not None else 0.0


# --- what all charts share ---------------------------------------------------------------------


def _candidates(summary: EvaluationSummary) -> Sequence[CandidateScores]:
    if not summary.benchmark:
        raise ValueError("no candidates in the summary: they can't be drawn")
    return summary.benchmark


def _colours(candidates: Sequence[CandidateScores]) -> dict[str, str]:
    """A colour a candidate, the same in every chart: by its role, else by its name's order."""
    others = sorted({candidate.name for candidate in candidates} - _ROLE_COLOURS.keys())
    return {**_ROLE_COLOURS, **dict(zip(others, cycle(_OTHER_COLOURS), strict=False))}


def _markers(candidates: Sequence[CandidateScores]) -> dict[str, str]:
    names = [*_ROLE_COLOURS, *sorted({c.name for c in candidates} - _ROLE_COLOURS.keys())]
    return dict(zip(names, cycle(_MARKERS), strict=False))


def _name(candidate: CandidateScores) -> str:
    return "\n".join(textwrap.wrap(candidate.name, 20))


def _figure(height: float, title: str, subtitle: str) -> Figure:
    """An empty figure with its title above the room for the axes."""
    figure = Figure(figsize=(_WIDTH, height), facecolor="white")
    FigureCanvasAgg(figure)
    heading = 0.72 / height
    margin = 0.12 / height
    figure.set_layout_engine(
        ConstrainedLayoutEngine(
            rect=(0.012, margin, 0.976, 1 - heading - margin), w_pad=0.06, h_pad=0.05, wspace=0.03
        )
    )
    figure.text(
        0.018,
        1 - 0.14 / height,
        title,
        fontsize=_LARGE,
        fontweight="bold",
        color=_INK,
        va="top",
    )
    figure.text(0.018, 1 - 0.42 / height, subtitle, fontsize=_SMALL, color=_SOFT, va="top")
    return figure


def _plain(axes: Axes, grid: Literal["x", "y", "both"]) -> None:
    """No frame but the axis that the values stand on, light grid lines behind the data."""
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(_SOFT)
    axes.tick_params(labelsize=_SMALL, colors=_SOFT, labelcolor=_INK)
    axes.grid(visible=True, axis=grid, color=_LINE, linewidth=0.8, zorder=0)
    axes.set_axisbelow(True)


def _beside(
    axes: Axes, x: float, y: float, words: str, *, colour: str = _INK, size: float = _MEDIUM
) -> None:
    """Words just to the right of a bar's end."""
    axes.annotate(
        words,
        (x, y),
        xytext=(6, 0),
        textcoords="offset points",
        va="center",
        fontsize=size,
        color=colour,
        linespacing=1.25,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.0},
        zorder=2,
    )


def _legend(figure: Figure, axes: Axes) -> None:
    """A legend under the axes, in one line where its about 112 characters suffice."""
    handles, labels = axes.get_legend_handles_labels()
    lengths = [len(label) + 4 for label in labels]
    columns = len(labels) if sum(lengths) <= 112 else max(1, 112 // max(lengths))
    figure.legend(
        handles,
        labels,
        loc="outside lower left",
        ncols=columns,
        frameon=False,
        fontsize=_SMALL,
        labelcolor=_INK,
        handlelength=1.3,
        columnspacing=1.6,
    )


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DOTS_PER_INCH, pil_kwargs={"optimize": True})
    return buffer.getvalue()
