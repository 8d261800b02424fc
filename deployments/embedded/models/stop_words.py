"""Words that say nothing about what a query asks for."""

from __future__ import annotations

from typing import Final

_TEXT: Final = """
a about all an and any are as at be but by can do does for from get had has have he her his how
i if in into is it its me more most my no not of off on or our out over she so some than that
the their them then there these they this those to under up was we were what when where which
while who why will with without you your query video clip
"""
STOP_WORDS: Final = frozenset(_TEXT.split())
