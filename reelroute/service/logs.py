"""The service's log: one JSON object a line.

Standard output holds one line for each request to `/v1/route`, in the format of `RouteLine`: the
contract with the monitor, which reads these lines by the million. Standard error holds what the
service says of itself, as objects with `ts`, `level`, `logger` and `message`. Everything outside
ASCII is escaped, and so are control characters: no query can end a line or move a terminal.
"""

from __future__ import annotations

import hashlib
import json
import logging
import sys
import threading
import unicodedata
from collections import deque
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from typing import Any, Final, Literal, TextIO

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, field_serializer

from reelroute.routers import RulesRouter, is_stopgap
from reelroute.weights import Modality, RoutingWeights, Weight

#: Letters that are looked at for the script of a query.
_SCRIPT_LETTERS: Final = 32


class _Line(BaseModel):
    """Later versions may add keys: a reader leaves out what it doesn't know."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class QueryLog(_Line):
    """One query of a request.

    Attributes:
        id: the first 12 hex digits of the SHA-256 of the query with single spaces, as in the
            pipeline's data.
        words, characters: its length.
        script: the Unicode script of most of its letters (`latin`, `cyrillic`, `cjk`, …); None
            without letters.
        language: as the router judges it (ISO 639-1); None where it doesn't.
        dominant, weights: the answer.
        router: who answered.
        fallback: another router stood in for the one that should have answered: the keyword
            rules, or a cascade's local student (`local (instead of bedrock)`).
        confidence: the router's, in [0, 1]; None where it gives none.
        expected_error: the mean error of a weight that the router expects, in [0, 1].
        unknown_language: how likely it is that the router doesn't know the query's language, in
            [0, 1]; both None where the router doesn't say.
        text: the query, where the service is told to log it.
    """

    id: str = Field(pattern=r"^[0-9a-f]{12}$")
    words: int = Field(ge=1)
    characters: int = Field(ge=1)
    script: str | None
    language: str | None = None
    dominant: Modality
    weights: dict[Modality, Weight]
    router: str
    fallback: bool
    confidence: float | None = Field(default=None, ge=0, le=1)
    expected_error: float | None = Field(default=None, ge=0, le=1)
    unknown_language: float | None = Field(default=None, ge=0, le=1)
    text: str | None = None

    @classmethod
    def of(
        cls, query: str, weights: RoutingWeights, *, fallback: bool, with_text: bool
    ) -> QueryLog:
        """The log of a query that was answered; `query` has single spaces."""
        return cls(
            id=hashlib.sha256(query.encode()).hexdigest()[:12],
            words=query.count(" ") + 1,
            characters=len(query),
            script=script_of(query),
            language=getattr(weights, "language", None),
            dominant=weights.dominant,
            weights=weights.as_dict(),
            router=weights.router,
            fallback=fallback,
            confidence=getattr(weights, "confidence", None),
            expected_error=getattr(weights, "expected_error", None),
            unknown_language=getattr(weights, "unknown_language", None),
            text=query if with_text else None,
        )


class RouteLine(_Line):
    """One request to `/v1/route`, answered, refused or failed.

    Attributes:
        ts: when it was answered (UTC).
        request_id: the client's, or one made for it.
        status: of the HTTP answer.
        error: the error's code; None for an answer.
        release: the release that answered; None without an answer, and for a router that has
            no release.
        latency_ms: from the arrival of the whole request to its answer, inside the service.
        query_count: the length of `queries`; 0 without an answer.
    """

    ts: AwareDatetime
    event: Literal["route"] = "route"
    request_id: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    status: int
    error: str | None = None
    release: str | None = None
    latency_ms: float = Field(ge=0)
    query_count: int = Field(ge=0)
    queries: tuple[QueryLog, ...] = ()

    @field_serializer("ts")
    def _utc(self, moment: datetime) -> str:
        return _timestamp(moment)

    def to_line(self) -> str:
        """The line, with its end."""
        return f"{json.dumps(self.model_dump(), ensure_ascii=True)}\n"


def is_fallback(weights: RoutingWeights, router: object) -> bool:
    """Whether these weights stand in for those of the router's own model."""
    return is_stopgap(weights) and not isinstance(router, RulesRouter)


def script_of(text: str) -> str | None:
    """The Unicode script of most of the first letters, in lower case; None without letters."""
    if text.isascii():
        return "latin" if any(map(str.isalpha, text)) else None
    counts: dict[str, int] = {}
    for letter in [character for character in text if character.isalpha()][:_SCRIPT_LETTERS]:
        script = unicodedata.name(letter, "unknown").partition(" ")[0].lower()
        counts[script] = counts.get(script, 0) + 1
    return max(counts, key=lambda script: counts[script], default=None)


class LineWriter:
    """Writes lines in a thread of its own: a reader that is stuck never holds up an answer.

    Lines that find too many waiting are left out and counted.

    Attributes:
        dropped: lines left out so far.
    """

    #: Seconds between two writes: waking the thread for each line would cost the answers more.
    _PAUSE: Final = 0.05

    def __init__(
        self,
        stream: TextIO | None = None,
        *,
        lock: AbstractContextManager[Any] | None = None,
        waiting_lines: int = 20_000,
    ) -> None:
        """Write to a stream, once started.

        Args:
            stream: by default standard output.
            lock: held while writing, where several processes share the stream.
            waiting_lines: more wait for their reader in no case.
        """
        self.dropped = 0
        self._stream = stream
        self._lock = lock or nullcontext()
        self._most = waiting_lines
        self._waiting: deque[str] = deque()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True, name="reelroute-log")

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    def write(self, line: str) -> None:
        """Hand over a line."""
        if len(self._waiting) < self._most:
            self._waiting.append(line)
        else:
            self.dropped += 1

    def close(self, seconds: float = 5) -> None:
        """Write what is waiting; a reader that is stuck is left after the time."""
        self._closing.set()
        self._thread.join(seconds)

    def _work(self) -> None:
        stream = self._stream or sys.stdout
        ended = False
        while not ended:
            ended = self._closing.wait(self._PAUSE)
            lines = [self._waiting.popleft() for _ in range(len(self._waiting))]
            if not lines:
                continue
            try:
                with self._lock:
                    stream.write("".join(lines))
                    stream.flush()
            except (OSError, ValueError):
                # The reader is gone; the service goes on without a log.
                self.dropped += len(lines)


class JsonFormatter(logging.Formatter):
    """What the service says of itself, one JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as a line."""
        line: dict[str, Any] = {
            "ts": _timestamp(datetime.fromtimestamp(record.created, UTC)),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=True)


def _timestamp(moment: datetime) -> str:
    return f"{moment.astimezone(UTC).replace(tzinfo=None).isoformat('T', 'milliseconds')}Z"
