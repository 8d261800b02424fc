"""Monitoring: what a window of production logs comes to, and how it compares.

Everything that is counted is a histogram, name of a bin to count. Histograms of two files add up
bin by bin, so a window's aggregate doesn't depend on how its lines lie in files, nor on which
machine read which of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Final, Literal

from pydantic import AwareDatetime, Field, field_validator

from data_contracts.queries import Frozen, QueryText, query_problem

Histogram = dict[str, int]
#: What a window is compared with.
Reference = Literal["training", "before"]

#: New words that an aggregate keeps by name, the most frequent.
MAX_NEW_WORDS: Final = 200
#: The domain of queries that were sampled from production.
PRODUCTION_DOMAIN: Final = "production"


class Window(Frozen):
    """A span of time: `start` belongs to it, `end` to the next one."""

    start: AwareDatetime
    end: AwareDatetime

    @property
    def name(self) -> str:
        """The window's name in keys: its end in UTC, and its length in minutes."""
        minutes = round((self.end - self.start).total_seconds() / 60)
        return f"{self.end:%Y%m%dT%H%MZ}-{minutes}m"

    @property
    def before(self) -> Window:
        """The window of the same length before this one."""
        length: timedelta = self.end - self.start
        return Window(start=self.start - length, end=self.start)

    def __str__(self) -> str:
        return f"{self.start:%Y-%m-%d %H:%M} to {self.end:%Y-%m-%d %H:%M} UTC"


class LineCounts(Frozen):
    """What became of the lines of the log files; `read` is the sum of the others.

    Attributes:
        malformed: no JSON object, or not what the service writes.
        other: an object of another kind, such as another model's invocation.
        outside: a request of another time.
        requests: of the window.
    """

    read: int = 0
    malformed: int = 0
    other: int = 0
    outside: int = 0
    requests: int = 0

    def __add__(self, more: LineCounts) -> LineCounts:
        return LineCounts(**{name: value + getattr(more, name) for name, value in self})


class Aggregate(Frozen):
    """What a window of logs, or a training set, comes to.

    Attributes:
        queries: answered queries; every histogram of queries adds up to it or, where a log
            doesn't say, to less.
        texts: queries whose text was logged.
        histograms: by measure.
        new_words: words that the training set doesn't hold, with the queries that have them.
        unreadable: files that could not be read, by name, with the reason.
    """

    lines: LineCounts = LineCounts()
    queries: int = 0
    texts: int = 0
    histograms: dict[str, Histogram] = Field(default_factory=dict)
    new_words: Histogram = Field(default_factory=dict)
    unreadable: dict[str, str] = Field(default_factory=dict)

    def __add__(self, more: Aggregate) -> Aggregate:
        words = Counter(self.new_words) + Counter(more.new_words)
        names = sorted({*self.histograms, *more.histograms})
        return Aggregate(
            lines=self.lines + more.lines,
            queries=self.queries + more.queries,
            texts=self.texts + more.texts,
            histograms={name: _add(self.histogram(name), more.histogram(name)) for name in names},
            new_words=dict(
                sorted(words.items(), key=lambda item: (-item[1], item[0]))[:MAX_NEW_WORDS]
            ),
            unreadable={**self.unreadable, **more.unreadable},
        )

    def histogram(self, measure: str) -> Histogram:
        """A measure's histogram; empty where the logs don't say."""
        return self.histograms.get(measure, {})


def _add(one: Mapping[str, int], other: Mapping[str, int]) -> Histogram:
    return dict(sorted((Counter(one) + Counter(other)).items()))


class Comparison(Frozen):
    """A measure of the window beside a reference.

    Attributes:
        measure: what is compared.
        kind: population stability index, difference of shares (0 to 1), or ratio of p95s.
        value: None where either side has too few queries, or doesn't say.
        threshold: from here on it is drift: the profile's or, where that is larger, what
            chance alone would reach in one window of a hundred thousand.
        queries: of the window and of the reference that were compared.
        evidence: what differs most, as a sentence.
    """

    measure: str
    reference: Reference
    kind: Literal["psi", "share", "ratio"]
    value: float | None
    threshold: float
    queries: tuple[int, int]
    evidence: str = ""

    @property
    def name(self) -> str:
        """Measure and reference, as in `channel/training`."""
        return f"{self.measure}/{self.reference}"

    @property
    def drifted(self) -> bool:
        """Whether the value reaches the threshold."""
        return self.value is not None and self.value >= self.threshold


class WindowRecord(Frozen):
    """What was found in a window; written once and never changed.

    Attributes:
        release: the release that the training set belongs to; None before the first one.
        new_drift: the drifted measures that no earlier event of this release told of; where
            there are any, an event is emitted.
        sampled, refused: how many queries were sampled, and how many were not, by reason.
        sample: the `s3://` address of the sampled queries, where texts were logged.
    """

    environment: str
    window: Window
    release: str | None
    aggregate: Aggregate
    comparisons: tuple[Comparison, ...]
    new_drift: tuple[str, ...] = ()
    sample: str | None = None
    sampled: int = 0
    refused: dict[str, int] = Field(default_factory=dict)
    created_at: datetime

    @property
    def drifted(self) -> tuple[Comparison, ...]:
        """The comparisons that are drift."""
        return tuple(comparison for comparison in self.comparisons if comparison.drifted)


class DriftEvent(Frozen):
    """The payload of a `reelroute.drift.detected` event.

    Attributes:
        measures: everything that has drifted in the window, with value and threshold.
        record: the `s3://` address of the window's record.
        queries: of the queries sampled for the next run; empty where texts are not logged.
    """

    environment: str
    window: str
    release: str | None
    measures: tuple[Comparison, ...]
    record: str
    queries: str = ""


class ProductionQuery(Frozen):
    """A query sampled from production, masked: a line of `queries.jsonl`.

    Attributes:
        seen: how often it was asked in the window.
        masked: kinds of personal data that were masked in it.
    """

    query: QueryText
    source: Literal["production"] = "production"
    window: str = Field(max_length=60)
    seen: int = Field(ge=1)
    masked: tuple[str, ...] = ()

    @field_validator("query")
    @classmethod
    def _is_text(cls, query: str) -> str:
        problem = query_problem(query)
        if problem:
            raise ValueError(problem)
        return query
