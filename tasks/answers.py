"""The answer store: what a model answered is stored before it is used, and never asked again.

Answers are kept in the bucket as part files of a few lines, written by group commit: callers
that arrive while a part is being written share the next one. So a kill loses at most the calls
that were in flight, at a fraction of an object an answer. `compact` joins the parts.
"""

from __future__ import annotations

import gzip
import hashlib
import threading
import uuid
import zlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Literal

from pydantic import Field, ValidationError

from data_contracts.queries import Frozen
from reelroute.errors import StageError
from reelroute.problems import first_problem
from tasks.storage import Storage

_READERS = 8


class Answer(Frozen):
    """What a model answered to one request, with its repair request where there was one.

    Attributes:
        key: identifies the request within its store.
        status: whether the last text was usable, or the request went to quarantine.
        texts: the raw answers, the last one counts.
        batch_input_tokens, batch_output_tokens: those of the tokens that a batch inference job
            asked for, at its price.
        calls: answers that were bought; 0 where a batch job has an error in an answer's place.
        latency_ms: of the last call, measured at the client, in milliseconds.
        run_id, attempt: which run's attempt bought it.
    """

    key: str
    status: Literal["usable", "quarantined"]
    texts: tuple[str, ...]
    reason: str = ""
    input_tokens: int = 0
    output_tokens: int = 0
    batch_input_tokens: int = 0
    batch_output_tokens: int = 0
    calls: int = 1
    latency_ms: float = 0.0
    run_id: str
    attempt: int = 1
    at: datetime = Field(default_factory=lambda: datetime.now(UTC))

    @property
    def by_batch(self) -> bool:
        """Whether a batch inference job asked for it (and a repair, where one was needed, not)."""
        return self.batch_input_tokens > 0 or self.calls == 0


def request_key(*parts: str) -> str:
    """A key from the parts that identify a request."""
    digest = hashlib.sha256()
    for part in parts:
        encoded = part.encode()
        digest.update(len(encoded).to_bytes(8) + encoded)
    return digest.hexdigest()[:32]


class AnswerStore:
    """Answers under one prefix of the bucket; safe to use from many threads.

    Raises:
        StageError: a stored line is not an answer.
        AwsError: the bucket can't be reached.
    """

    def __init__(self, storage: Storage, prefix: str) -> None:
        self._storage = storage
        self._prefix = prefix.rstrip("/")
        self._answers: dict[str, Answer] = {}
        self._pending: list[Answer] = []
        self._lock = threading.Lock()
        self._commit = threading.Lock()
        self._known: set[str] = set()  # keys of the files whose answers are in memory
        self._load()

    def __len__(self) -> int:
        return len(self._answers)

    def get(self, key: str) -> Answer | None:
        """The answer to a request, or None where it has not been asked.

        An answer that could not be stored when it came is stored now: it is not asked again.
        """
        with self._lock:
            waits = any(answer.key == key for answer in self._pending)
        if waits:
            self._write_pending()
        return self._answers.get(key)

    def values(self) -> list[Answer]:
        """All answers."""
        with self._lock:
            return list(self._answers.values())

    def put(self, answer: Answer) -> None:
        """Store an answer; it is in the bucket when this returns."""
        self.put_all([answer])

    def put_all(self, answers: Iterable[Answer]) -> None:
        """Store answers in one go; they are in the bucket when this returns."""
        with self._lock:
            self._pending += answers
        self._write_pending()

    def _write_pending(self) -> None:
        with self._commit:
            with self._lock:
                batch, self._pending = self._pending, []
            if batch:  # otherwise the caller before took this answer along
                try:
                    self._write_part(batch)
                except BaseException:
                    with self._lock:
                        self._pending = [*batch, *self._pending]
                    raise
                self._take(batch)

    def refresh(self) -> list[str]:
        """Take in what others have stored meanwhile; the keys of all files."""
        keys = list(self._storage.keys(f"{self._prefix}/"))
        self._load([key for key in keys if key not in self._known])
        return keys

    def compact(self) -> None:
        """Join all parts into one file; a kill in between loses and doubles nothing."""
        keys = self.refresh()
        if len(keys) <= 1:
            return
        lines = sorted(self._answers.values(), key=lambda answer: answer.key)
        data = gzip.compress(_lines(lines), mtime=0)
        joined = f"{self._prefix}/joined-{hashlib.sha256(data).hexdigest()[:16]}.jsonl.gz"
        self._storage.put_file(joined, data, "application/gzip")
        self._storage.delete([key for key in keys if key != joined])

    def _take(self, answers: Iterable[Answer]) -> None:
        """Keep of several answers to one request the usable one, and the newest of those."""
        with self._lock:
            for answer in answers:
                known = self._answers.get(answer.key)
                if known is None or _rank(answer) >= _rank(known):
                    self._answers[answer.key] = answer

    def _write_part(self, batch: list[Answer]) -> None:
        key = f"{self._prefix}/part-{uuid.uuid4().hex}.jsonl"
        self._storage.put(key, _lines(batch), "application/jsonl")
        self._known.add(key)

    def _load(self, keys: list[str] | None = None) -> None:
        keys = list(self._storage.keys(f"{self._prefix}/")) if keys is None else keys
        while True:
            with ThreadPoolExecutor(_READERS) as readers:
                objects = list(readers.map(self._storage.get, keys))
            for key, stored in zip(keys, objects, strict=True):
                if stored is not None:
                    source = self._storage.uri(key)
                    data = _unpacked(stored.data, source) if key.endswith(".gz") else stored.data
                    self._take(_answer(line, source) for line in data.splitlines())
                    self._known.add(key)
            if None not in objects:
                return
            # A part vanished: another run joined the parts meanwhile.
            keys = list(self._storage.keys(f"{self._prefix}/"))


def _unpacked(data: bytes, source: str) -> bytes:
    try:
        return gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise StageError(
            f"{source} is not a whole file of answers: {error}. "
            "Move the file away to ask those requests again"
        ) from None


def _answer(line: bytes, source: str) -> Answer:
    try:
        return Answer.model_validate_json(line)
    except ValidationError as error:
        raise StageError(
            f"{source} holds a line that is not an answer: {first_problem(error)}. "
            "Move the file away to ask those requests again"
        ) from None


def _rank(answer: Answer) -> tuple[bool, datetime]:
    return answer.status == "usable", answer.at


def _lines(answers: list[Answer]) -> bytes:
    return b"".join(answer.model_dump_json().encode() + b"\n" for answer in answers)
