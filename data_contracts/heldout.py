"""Held-out queries: what is never trained on, and how leaks into the training rows are found.

Two readings are held out. The *benchmark*, 300 committed queries stratified over channel,
difficulty and domain, is the same for every run, so that gate and trend compare like with
like. The *fresh share* of new queries is picked by the hash of the query's own text.
"""

from __future__ import annotations

import hashlib
import math
import re
import unicodedata
from array import array
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Final

from data_contracts.queries import LabelledQuery

BENCHMARK_PATH: Final = Path(__file__).parent / "heldout_benchmark.jsonl"
#: The share of new queries that is held out for a second, fresher reading.
FRESH_SHARE: Final = 0.03
#: A training row whose word set is this near (Jaccard) to a held-out query is withheld.
NEAR_HELD_OUT: Final = 0.6

_WORD: Final = re.compile(r"\w+")
_EMOJI_VARIATION: Final = ("\ufe00", "\ufe0f")


def normalise(text: str) -> str:
    """A query in the form in which two spellings count as equal.

    Unicode NFKC, case folded, words only, single spaces; a text without words is kept as it
    is, stripped.
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    if folded.isascii():
        found = _WORD.findall(folded)
    else:  # combining marks are parts of words too, as in Devanagari
        words_and_marks = "".join(c if _in_word(c) else " " for c in folded).split()
        found = [word for word in words_and_marks if _WORD.search(word)]
    return " ".join(found) or folded.strip()


def _in_word(character: str) -> bool:
    if _EMOJI_VARIATION[0] <= character <= _EMOJI_VARIATION[1]:
        return False  # a mark that follows emoji, no part of a word
    return character.isalnum() or character == "_" or unicodedata.category(character)[0] == "M"


def words(text: str) -> frozenset[str]:
    """The set of words of the normalised query."""
    return frozenset(normalise(text).split())


def jaccard(a: frozenset[str], b: frozenset[str]) -> float:
    """Shared words over all words, 0 to 1; two empty sets have nothing in common."""
    union = len(a | b)
    return len(a & b) / union if union else 0.0


class NearIndex:
    """Finds whether a query is near one that it holds, by an inverted index over words.

    Texts lie one after the other, words are numbered and held in arrays: about 100 bytes a query
    besides its text.
    """

    def __init__(self, queries: Iterable[str] = ()) -> None:
        self._texts = bytearray()  # the queries, in UTF-8
        self._text_ends = array("Q", [0])  # where in it each query ends
        self._numbers: dict[str, int] = {}  # of the words
        self._words = array("I")  # the queries' words, one query after the other
        self._ends = array("Q", [0])  # where in them each query's words end
        self._with_word: list[array[int]] = []  # by a word's number: positions of queries
        for query in queries:
            self.add(query)

    def add(self, query: str) -> None:
        """Hold one more query."""
        position = len(self._text_ends) - 1
        self._texts += query.encode("utf-8", "surrogatepass")
        self._text_ends.append(len(self._texts))
        for word in words(query):
            number = self._numbers.setdefault(word, len(self._numbers))
            if number == len(self._with_word):
                self._with_word.append(array("I"))
            self._with_word[number].append(position)
            self._words.append(number)
        self._ends.append(len(self._words))

    def near(self, query: str, threshold: float) -> str | None:
        """The nearest held query whose word sets' Jaccard index reaches `threshold`, if any.

        A set at that index shares at least `ceil(threshold * n)` of the asked query's n words,
        so of any `n - ceil(threshold * n) + 1` of them it has one: only the rarest are looked up.

        Args:
            query: the query asked about.
            threshold: above 0, at most 1.
        """
        asked = words(query)
        must_share = math.ceil(threshold * len(asked) - 1e-9)
        known = {self._numbers[word] for word in asked if word in self._numbers}
        # Words that no query has are the rarest.
        probes = max(len(known) - must_share + 1, 0)
        by_rarity = sorted(known, key=lambda number: (len(self._with_word[number]), number))
        candidates = {at for number in by_rarity[:probes] for at in self._with_word[number]}
        best: tuple[float, int] | None = None
        for position in candidates:
            its = self._words[self._ends[position] : self._ends[position + 1]]
            shared = len(known.intersection(its))
            index = shared / (len(asked) + len(its) - shared)
            if index >= threshold and (best is None or (index, -position) > (best[0], -best[1])):
                best = (index, position)
        return self._text(best[1]) if best else None

    def _text(self, position: int) -> str:
        begin, end = self._text_ends[position : position + 2]
        return self._texts[begin:end].decode("utf-8", "surrogatepass")


@cache
def benchmark_queries() -> tuple[LabelledQuery, ...]:
    """The committed benchmark, in the file's order."""
    lines = BENCHMARK_PATH.read_text(encoding="utf-8").splitlines()
    return tuple(LabelledQuery.model_validate_json(line) for line in lines)


@cache
def _benchmark_forms() -> frozenset[str]:
    return frozenset(normalise(labelled.query) for labelled in benchmark_queries())


@cache
def _benchmark_index() -> NearIndex:
    return NearIndex(labelled.query for labelled in benchmark_queries())


def in_benchmark(query: str) -> bool:
    """Whether the query equals one of the benchmark after normalisation."""
    return normalise(query) in _benchmark_forms()


def in_fresh_share(query: str) -> bool:
    """Whether the hash of the query's own text puts it into the fresh held-out share."""
    digest = hashlib.sha256(f"held-out:{normalise(query)}".encode()).digest()
    return int.from_bytes(digest[:8]) / 2**64 < FRESH_SHARE


def is_held_out(query: str) -> bool:
    """Whether the query itself is held out, by either rule."""
    return in_benchmark(query) or in_fresh_share(query)


def near_benchmark(query: str) -> str | None:
    """The benchmark query that this one equals or is near, if any."""
    return _benchmark_index().near(query, NEAR_HELD_OUT)
