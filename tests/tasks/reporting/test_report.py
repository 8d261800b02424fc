"""The markdown and the page: both must say the same."""

import re
from collections.abc import Callable, Mapping
from html import unescape
from html.parser import HTMLParser

import pytest
from markdown_it import MarkdownIt

from data_contracts.evaluation import (
    BASE_STUDENT,
    CURRENT_RELEASE,
    DISTILLED_STUDENT,
    EvaluationSummary,
    PairedDifference,
)
from tasks.reporting.content import headline
from tasks.reporting.inputs import DemoAnswer, ReportInput
from tasks.reporting.markdown import evaluation_markdown
from tasks.reporting.page import evaluation_page
from tests.tasks.reporting import factory

Render = Callable[[ReportInput, Mapping[str, bytes] | None], str]
PNG = b"\x89PNG\r\n\x1a\n"
HOSTILE = '</td><script>alert(1)</script> | **x** `y` [z](javascript:1)\n\x1b[31m "quoted"'


class Reader(HTMLParser):
    """Collects the tags, and the words between them outside `style`."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self._styling = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._styling = tag == "style"

    def handle_endtag(self, tag: str) -> None:
        self._styling = False

    def handle_data(self, data: str) -> None:
        if not self._styling:
            self.words.append(data)


def read_markdown(report: ReportInput, charts: Mapping[str, bytes] | None = None) -> Reader:
    source = evaluation_markdown(report, charts)
    return Reader(MarkdownIt("commonmark").enable("table").render(source))


def read_page(report: ReportInput, charts: Mapping[str, bytes] | None = None) -> Reader:
    return Reader(evaluation_page(report, charts))


def said(reader: Reader) -> str:
    return re.sub(r"\s+", " ", "".join(reader.words).replace("\u2060", ""))


both = pytest.mark.parametrize("read", [read_markdown, read_page], ids=["markdown", "page"])
Read = Callable[..., Reader]


def sections(markdown: str) -> list[str]:
    return re.findall(r"^## (.+)$", markdown, re.MULTILINE)


def row(markdown: str, title: str) -> list[str]:
    """The cells of the first table row that starts with `title`, as a reader sees them."""
    line = next(line for line in markdown.splitlines() if line.startswith(f"| {title} |"))
    plain = re.sub(r"\\([^\w\s|])", r"\1", line.strip("|"))
    return [unescape(cell).strip().strip("*") for cell in plain.split("|")[1:]]


# --- what it says ------------------------------------------------------------------------------


def test_the_headline_names_the_best_and_compares_each_student_with_the_base() -> None:
    best, distilled, local = headline(factory.summary())
    assert best.startswith("local-student is best: rubric 4.75 of 5 [4.64, 4.86] over 120")
    assert distilled.startswith("distilled-student is above base-student on the rubric: +1.82")
    assert local.startswith("local-student is above base-student")


def test_the_headline_does_not_claim_a_lead_that_the_data_do_not_show() -> None:
    summary = factory.summary((BASE_STUDENT, DISTILLED_STUDENT))
    student = summary.benchmark[1]
    twin = student.model_copy(update={"name": CURRENT_RELEASE, "rubric": student.rubric - 0.02})
    close = summary.model_copy(update={"benchmark": (*summary.benchmark, twin)})
    assert headline(close)[0].endswith("not clearly ahead of current-release.")


def test_the_paired_difference_decides_over_overlapping_intervals() -> None:
    summary = factory.summary((BASE_STUDENT, DISTILLED_STUDENT))
    student = summary.benchmark[1]
    twin = student.model_copy(update={"name": CURRENT_RELEASE, "rubric": student.rubric - 0.05})
    paired = PairedDifference(
        candidate=DISTILLED_STUDENT, against=CURRENT_RELEASE, mean=0.05, interval=(0.01, 0.09)
    )
    close = summary.model_copy(update={"benchmark": (student, twin), "differences": (paired,)})
    assert "not clearly" not in headline(close)[0]


@pytest.mark.parametrize(
    ("mean", "interval", "verdict"),
    [
        (0.05, (-0.1, 0.2), "is not clearly different from base-student"),
        (-0.4, (-0.6, -0.2), "is below base-student"),
        (0.4, (0.2, 0.6), "is above base-student"),
    ],
)
def test_the_headline_says_what_the_interval_allows(
    mean: float, interval: tuple[float, float], verdict: str
) -> None:
    paired = PairedDifference(
        candidate=DISTILLED_STUDENT, against=BASE_STUDENT, mean=mean, interval=interval
    )
    summary = factory.summary((BASE_STUDENT, DISTILLED_STUDENT)).model_copy(
        update={"differences": (paired,)}
    )
    assert verdict in headline(summary)[1]


def test_without_paired_differences_the_headline_says_so() -> None:
    summary = factory.summary((BASE_STUDENT, DISTILLED_STUDENT), differences=False)
    assert "no paired difference was computed" in headline(summary)[1]


def test_the_metric_table_has_a_column_a_candidate_and_marks_simulated_dollars() -> None:
    markdown = evaluation_markdown(factory.report(), None)
    assert row(markdown, "Rubric (computed), 95% interval")[1:3] == [
        "4.03 [3.92, 4.14]",
        "4.75 [4.64, 4.86]",
    ]
    assert row(markdown, "Price of 1,000 input tokens")[:3] == [
        "$0.000035 (simulated)",
        "$0.000035 (simulated)",
        "$0",
    ]
    assert row(markdown, "Cost of 1,000 queries")[0] == "$0.0224 (simulated)"
    assert row(markdown, "Tokens a query, in / out")[0] == "420 / 55 (simulated)"
    assert row(markdown, "Output format")[:2] == ["inconsistent", "consistent JSON"]


def test_the_cost_of_routing_is_beside_the_saving_against_the_large_baseline() -> None:
    markdown = evaluation_markdown(factory.report(), None).partition("## Cost of routing")[2]
    assert row(markdown, "distilled-student") == [
        "$0.0224 (simulated)",
        "$22.40 (simulated)",
        "96.0%",
    ]
    assert row(markdown, "local-student") == ["$0", "$0", "100%"]
    assert row(markdown, "large-baseline")[2] == "–"


def test_without_a_large_baseline_no_saving_is_claimed() -> None:
    markdown = evaluation_markdown(factory.report((BASE_STUDENT, DISTILLED_STUDENT)), None)
    assert "Cost of routing" not in markdown


def test_rubric_and_judge_are_rows_of_their_own() -> None:
    markdown = evaluation_markdown(factory.report(), None)
    assert row(markdown, "Judge") != row(markdown, "Rubric (computed), 95% interval")


def test_the_best_value_of_a_row_stands_out_among_several_candidates_only() -> None:
    several = evaluation_markdown(factory.report(), None)
    line = next(part for part in several.splitlines() if part.startswith("| Mean error |"))
    assert line.count("**") == 2
    alone = evaluation_markdown(factory.report((BASE_STUDENT,)), None)
    line = next(part for part in alone.splitlines() if part.startswith("| Mean error |"))
    assert "**" not in line
    assert "stands out" not in alone


def test_a_judge_that_failed_on_some_answers_is_shown_with_its_count() -> None:
    report = factory.report((BASE_STUDENT,))
    scores = report.summary.benchmark[0].model_copy(update={"judge": 2.5, "judged": 118})
    partial = factory.report(summary=report.summary.model_copy(update={"benchmark": (scores,)}))
    assert row(evaluation_markdown(partial, None), "Judge") == ["2.50 (118 of 120 judged)"]


@both
def test_demo_answers_are_shown_raw_with_what_the_parser_makes_of_them(read: Read) -> None:
    words = said(read(factory.report()))
    assert "CEO discussing quarterly earnings" in words
    assert "Bare JSON" in words
    assert "Needs repair: code fence, surrounding prose" in words
    assert '{"visual": 0.1, "audio": 0.05, "transcription": 0.7' in words
    assert "**Note:** visual may also matter." in words


@both
def test_the_ten_worst_answers_are_those_of_the_distilled_student(read: Read) -> None:
    assert "The 10 worst answers of distilled-student" in said(read(factory.report()))


@both
def test_published_figures_are_marked_as_not_comparable(read: Read) -> None:
    words = said(read(factory.report()))
    assert "Not comparable one to one with this run" in words
    assert "Published, not measured here" in words
    assert "$0.0008–$0.001" in words


@both
def test_the_configured_steps_of_a_search_are_called_configured(read: Read) -> None:
    words = said(read(factory.report()))
    assert "configured example times" in words
    assert "query embedding 140 ms" in words


@both
def test_the_reference_names_who_labelled_it(read: Read) -> None:
    words = said(read(factory.report()))
    assert "embedded.teacher-v1" in words
    assert "Recorded answers of a large language model, not of people." in words


# --- what is missing ---------------------------------------------------------------------------


@both
def test_without_a_judge_a_dash_stands_for_its_score(read: Read) -> None:
    report = factory.report(judged=False)
    assert set(row(evaluation_markdown(report, None), "Judge")) == {"–"}
    assert "No judge ran." in said(read(report))


def test_sections_without_data_are_left_out_of_both() -> None:
    report = factory.report(
        (BASE_STUDENT,),
        fresh=False,
        differences=False,
        demo_answers=(),
        predictions={},
        latency_steps={},
        reference_note="",
    )
    expected = [
        "Results",
        "Where they do well and badly",
        "Published figures",
        "How to read this",
    ]
    assert sections(evaluation_markdown(report, None)) == expected
    assert re.findall(r"<h2>(.*?)</h2>", evaluation_page(report, None)) == expected


def test_without_a_current_release_there_is_no_column_for_it() -> None:
    report = factory.report((BASE_STUDENT, DISTILLED_STUDENT))
    assert "current-release" not in evaluation_markdown(report, None)
    assert "current-release" not in evaluation_page(report, None)


@both
def test_an_evaluation_without_candidates_says_so(read: Read) -> None:
    empty = EvaluationSummary(run_id="run-1", benchmark=())
    report = factory.report(summary=empty, predictions={}, demo_answers=())
    assert "No candidate was evaluated." in said(read(report))


def test_a_candidate_without_an_answer_to_a_demo_query_gets_a_dash() -> None:
    demo = DemoAnswer("sunset", {DISTILLED_STUDENT: "{}"})
    other = DemoAnswer("rain", {BASE_STUDENT: "no"})
    markdown = evaluation_markdown(factory.report(demo_answers=[demo, other]), None)
    assert row(markdown, "sunset") == ["Not readable** · {}", "–"]


def test_both_have_the_same_sections_in_the_same_order() -> None:
    report, charts = factory.report(), {"weight_distribution": PNG}
    page = evaluation_page(report, charts)
    titles = sections(evaluation_markdown(report, charts))
    assert len(titles) == 12
    assert re.findall(r"<h2>(.*?)</h2>", page) == titles
    assert re.findall(r'<li><a href="#[a-z-]+">(.*?)</a>', page) == titles


# --- that it is safe and whole -----------------------------------------------------------------


def hostile_report() -> ReportInput:
    names = (BASE_STUDENT, DISTILLED_STUDENT)
    report = factory.report(names)
    worst = factory.prediction(
        query=HOSTILE, answer=HOSTILE, problem=HOSTILE, weights=None, score=1, mean_error=50.0
    )
    scores = [
        candidate.model_copy(update={"label": HOSTILE, "model": HOSTILE})
        for candidate in report.summary.benchmark
    ]
    return factory.report(
        names,
        run_id=HOSTILE,
        environment=HOSTILE,
        labelled_by=HOSTILE,
        reference_note=HOSTILE,
        latency_steps={HOSTILE: 10.0},
        summary=report.summary.model_copy(update={"benchmark": tuple(scores)}),
        predictions={DISTILLED_STUDENT: [worst]},
        demo_answers=[DemoAnswer(HOSTILE, dict.fromkeys(names, HOSTILE))],
    )


@both
def test_texts_of_others_change_nothing_but_the_words(read: Read) -> None:
    harmless, hostile = read(factory.report()), read(hostile_report())
    assert {tag for tag, _ in hostile.tags} <= {tag for tag, _ in harmless.tags} | {"strong"}
    words = said(hostile)
    assert "</td><script>alert(1)</script> | **x** `y` [z](javascript:1)↵" in words
    assert "\\x1b[31m" in words
    assert "\x1b" not in words


def test_a_hostile_text_leaves_every_row_with_as_many_cells_as_its_header() -> None:
    html = (
        MarkdownIt("commonmark").enable("table").render(evaluation_markdown(hostile_report(), None))
    )
    for table in re.findall(r"<table>.*?</table>", html, re.DOTALL):
        header, *rows = re.findall(r"<tr>.*?</tr>", table, re.DOTALL)
        assert {found.count("<td") for found in rows} == {header.count("<th")}


def test_the_page_asks_nothing_of_the_network_and_runs_nothing() -> None:
    reader = read_page(hostile_report(), {"comparison": PNG})
    tags = {tag for tag, _ in reader.tags}
    assert not tags & {"script", "link", "iframe", "object", "form"}
    for _, attributes in reader.tags:
        assert not [name for name in attributes if name.startswith("on")]
        assert (attributes.get("src") or "data:").startswith("data:image/png;base64,") or (
            "src" not in attributes
        )
        assert (attributes.get("href") or "#").startswith("#")


@both
def test_charts_are_carried_inside_and_have_a_caption(read: Read) -> None:
    images = [
        attributes
        for tag, attributes in read(factory.report(), {"comparison": PNG}).tags
        if tag == "img"
    ]
    assert images == [
        {
            "src": "data:image/png;base64,iVBORw0KGgo=",
            "alt": "The candidates side by side on the computed rubric, the judge and latency",
        }
    ]


@pytest.mark.parametrize("render", [evaluation_markdown, evaluation_page])
def test_an_unknown_chart_is_refused_by_name(render: Render) -> None:
    with pytest.raises(ValueError, match="unknown chart 'piechart': expected comparison"):
        render(factory.report(), {"piechart": PNG})


def test_the_page_carries_the_runs_id_in_title_and_foot() -> None:
    page = evaluation_page(factory.report(), None)
    assert "run run-7f3a9c21</title>" in page
    assert "ReelRoute, run run-7f3a9c21</footer>" in page
