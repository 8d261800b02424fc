from html import unescape

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from tasks.reporting import text
from tasks.reporting.text import inert, visible

#: Characters that mean something to markdown, HTML or a terminal come up often.
HOSTILE = st.text(
    st.one_of(
        st.sampled_from("|`*_[]<>&\\~$#+-=!(){}:;@./\"'1. \t\n\r\x1b\x00\u202e\u2028\ud800↵"),
        st.characters(),
    ),
    max_size=60,
)
ATTACKS = (
    "<script>alert(1)</script>",
    "![x](javascript:alert(1))",
    "a | b\n|---|---|",
    "`code` **bold** _em_ ~~gone~~ $x^2$",
    "# heading",
    "1. item",
    "- item",
    "    code",
    "===",
    "&lt;b&gt; &#42;",
    "see https://example.com, www.example.com or a@example.com",
)


def rendered(markdown: str) -> str:
    return str(MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(markdown))


@given(HOSTILE)
@example("\\")
@example("|")
@example("1.")
def test_inert_text_is_a_plain_paragraph_that_reads_as_the_visible_text(words: str) -> None:
    shown = visible(words)
    html = rendered(inert(words))
    if not shown.strip():
        return
    assert html.startswith("<p>")
    assert html.endswith("</p>\n")
    body = html.removeprefix("<p>").removesuffix("</p>\n")
    assert "<" not in body
    assert ">" not in body
    assert unescape(body).replace("\u2060", "").strip() == shown.replace("\u2060", "").strip()


@given(HOSTILE, HOSTILE)
def test_inert_texts_stay_in_their_cells(one: str, other: str) -> None:
    html = rendered(f"| a | b |\n| :-- | --: |\n| {inert(one)} | {inert(other)} |")
    assert html.count("<table>") == 1
    assert html.count("<tr>") == 2
    assert html.count("<td") == 2
    assert html.count("<") == 2 * html.count("</")


@pytest.mark.parametrize("attack", ATTACKS)
def test_inert_text_starts_nothing(attack: str) -> None:
    html = rendered(inert(attack))
    assert (
        unescape(html.removeprefix("<p>").removesuffix("</p>\n")).replace("\u2060", "").strip()
        == visible(attack).strip()
    )


@pytest.mark.parametrize("link", ["http://a.b", "HTTPS://a.b", "ftp://a.b", "www.a.b", "a@b.cd"])
def test_bare_links_are_broken_by_an_invisible_character(link: str) -> None:
    assert "\u2060" in inert(f"see {link}")


@given(HOSTILE)
def test_visible_text_is_one_line_without_hidden_characters(words: str) -> None:
    shown = visible(words)
    assert len(shown.splitlines()) <= 1
    assert shown.encode("utf-8").decode("utf-8") == shown
    assert not set(shown) & set("\x1b\x00\t\u202e\u2028")
    assert visible(shown) == shown


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("a\nb", "a↵b"),
        ("a\r\nb", "a↵b"),
        ("\x1b[31mred", "\\x1b[31mred"),
        ("a\tb", "a\\tb"),
        ("abc\u202ecba", "abc\\u202ecba"),
        ("lone \ud800", "lone \\ud800"),
        ("नेटवर्क\u200d", "नेटवर्क\u200d"),
    ],
)
def test_what_is_hidden_becomes_visible(raw: str, shown: str) -> None:
    assert visible(raw) == shown


@given(HOSTILE, st.integers(1, 20))
def test_long_text_is_cut_and_says_so(words: str, limit: int) -> None:
    shown = visible(words, limit)
    assert len(shown) <= limit
    assert len(words) <= limit or shown.endswith("…")


@pytest.mark.parametrize(
    ("share", "shown"),
    [(1, "100%"), (0, "0%"), (0.99996, "99.9%"), (0.0001, "0.1%"), (0.5, "50.0%")],
)
def test_only_the_whole_is_a_hundred_percent(share: float, shown: str) -> None:
    assert text.percent(share) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0, "$0"),
        (0.000035, "$0.000035"),
        (0.00014, "$0.00014"),
        (0.5, "$0.50"),
        (1234.5, "$1,234.50"),
    ],
)
def test_dollars_keep_the_digits_that_count(value: float, shown: str) -> None:
    assert text.usd(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"), [(0.844, "0.84"), (5.71, "5.71"), (41.63, "41.6"), (1741.2, "1,741")]
)
def test_milliseconds_keep_three_digits(value: float, shown: str) -> None:
    assert text.milliseconds(value) == shown


def test_a_difference_shows_its_sign_and_no_negative_zero() -> None:
    assert [text.signed(v) for v in (0.126, -0.3, -0.001, 0.0)] == [
        "+0.13",
        "−0.30",
        "0.00",
        "0.00",
    ]
