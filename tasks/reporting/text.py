"""Untrusted text made visible and inert, and numbers in the form that all reports share."""

from __future__ import annotations

import math
import re
import unicodedata
from typing import Final

#: Longer texts are cut; a router's answer is a few hundred characters.
DEFAULT_LIMIT: Final = 600
#: What a report shows where there is no value.
NOTHING: Final = "–"

_LINE_BREAK: Final = re.compile("\r\n|[\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029]")
#: Format characters that words and emoji of living scripts need.
_JOINERS: Final = frozenset("\u200c\u200d")
_HIDDEN: Final = frozenset({"Cc", "Cf", "Cs"})
_ACTIVE: Final = frozenset("&<>|`*_[]\\~$")
#: What at the start of a line makes a list, a heading, a rule or a code block.
_BLOCK_START: Final = re.compile(r"([ #+=-]|[0-9]{1,9}[.)](?=\s|\Z))")
#: Where GitHub's markdown makes a link out of bare text, even where entities spell it.
_LINK: Final = re.compile(
    r"(?i)(?<=https:)(?=//)|(?<=http:)(?=//)|(?<=ftp:)(?=//)|(?<=www)(?=\.)|(?=@)"
)
_WORD_JOINER: Final = "\u2060"


def visible(text: str, limit: int = DEFAULT_LIMIT) -> str:
    r"""The text on one line, with nothing in it that hides or moves what is read.

    Line breaks become `↵`; control, bidirectional and other invisible characters become
    escapes such as `\x1b`; what is longer than `limit` characters ends in `…`.
    """
    shown = "".join(_escaped(character) for character in _LINE_BREAK.sub("↵", text[: limit + 1]))
    if len(text) > limit or len(shown) > limit:
        return shown[: max(limit - 1, 0)] + "…"
    return shown


def inert(text: str, limit: int = DEFAULT_LIMIT) -> str:
    """The text as markdown or as the text of an HTML element, without any effect of its own.

    It reads the same when rendered, but can't end a table's cell, start a tag, an emphasis, a
    list or a heading, nor become a link. (Not for an HTML attribute: quotes stay as they are.)

    Args:
        text: any text, of any origin.
        limit: the longest result, in characters as shown.
    """
    shown = visible(text, limit)
    start = _BLOCK_START.match(shown)
    marker = start.end(1) - 1 if start else -1
    parts = [
        "\u00a0"
        if place == marker and character == " "
        else f"\\{character}"
        if place == marker or character in _ACTIVE
        else character
        for place, character in enumerate(shown)
    ]
    return _LINK.sub(_WORD_JOINER, "".join(parts))


def _escaped(character: str) -> str:
    if unicodedata.category(character) not in _HIDDEN or character in _JOINERS:
        return character
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")


def score(value: float | None) -> str:
    """A rubric or judge score with two decimals."""
    return NOTHING if value is None else f"{value:.2f}"


def interval(bounds: tuple[float, float]) -> str:
    """An interval of scores, such as `[3.38, 3.58]`."""
    return f"[{bounds[0]:.2f}, {bounds[1]:.2f}]"


def signed(value: float) -> str:
    """A difference of scores with its sign, a true minus sign included."""
    shown = f"{value:+.2f}".replace("-", "−")
    return "0.00" if shown[1:] == "0.00" else shown


def error(value: float | None) -> str:
    """A mean error of weights (0 to 1) with three decimals."""
    return NOTHING if value is None else f"{value:.3f}"


def percent(share: float) -> str:
    """A share in percent; only the whole is `100%`, and only nothing is `0%`."""
    if share in (0, 1):
        return f"{share:.0%}"
    return f"{min(max(100 * share, 0.1), 99.9):.1f}%"


def milliseconds(value: float) -> str:
    """Milliseconds with three digits that count, without the unit: `0.84`, `5.3`, `1,741`."""
    if value < 9.995:
        return f"{value:.2f}"
    return f"{value:.1f}" if value < 99.95 else f"{value:,.0f}"


def usd(value: float) -> str:
    """Dollars with three digits that count and never fewer than two decimals, or `$0`."""
    if value == 0:
        return "$0"
    decimals = max(2, 2 - math.floor(math.log10(value)))
    whole, _, fraction = f"{value:,.{decimals}f}".partition(".")
    return f"${whole}.{fraction.rstrip('0').ljust(2, '0')}"
