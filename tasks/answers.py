"""The answer store: what a model answered is stored before it is used, and never asked again.

Answers are kept in the bucket as part files of a few lines, written by group commit: callers
that arrive while a part is being written share the next one. So a kill loses at most the calls
that were in flight, at a fraction of an object an answer. `compact` joins the parts. On this
machine they lie in a table on the disk: a store of any size takes little memory.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import sqlite3
import threading
import uuid
import zlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Literal

from pydantic import Field, ValidationError

from data_contracts.queries import Frozen
from reelroute.errors import StageError
from reelroute.problems import first_problem
from tasks.storage import Storage

_READERS = 8
#: Answers that are read from the table, or files from the bucket, at once.
_CHUNK = 256


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
        self._answers = _Table()
        self._pending: list[Answer] = []
        self._lock = threading.Lock()
        self._commit = threading.Lock()
        self._known: set[str] = set()  # the others' files whose answers are in the table
        self._own = f"{self._prefix}/part-{uuid.uuid4().hex}-"
        self._parts = range(0)  # the numbers of our own parts that are not joined yet
        self._load(self._unknown())

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

    def values(self) -> Iterator[Answer]:
        """All answers, by key."""
        return map(Answer.model_validate_json, self._answers.lines())

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
                    self._answers.take(batch)
                except BaseException:
                    with self._lock:
                        self._pending = [*batch, *self._pending]
                    raise

    def refresh(self) -> None:
        """Take in what others have stored meanwhile."""
        self._load(self._unknown())

    def compact(self) -> None:
        """Join all parts into one file; a kill in between loses and doubles nothing."""
        self._write_pending()  # what our parts hold is in the table from here on
        with self._commit:
            self._join()

    def _join(self) -> None:
        self.refresh()
        others, own = sorted(self._known), self._parts
        if len(others) + len(own) <= 1:
            return
        # Named by its answers, so that two who join the same ones write the same file.
        digest = hashlib.sha256()
        for line in self._answers.lines():
            digest.update(line + b"\n")
        joined = f"{self._prefix}/joined-{digest.hexdigest()[:16]}.jsonl.gz"
        self._storage.put_pieces(joined, _packed(self._answers.lines()), "application/gzip")
        self._storage.delete(key for key in others if key != joined)
        self._storage.delete(map(self._part, own))
        self._known = {joined}
        self._parts = range(own.stop, self._parts.stop)

    def _part(self, number: int) -> str:
        return f"{self._own}{number:08}.jsonl"

    def _write_part(self, batch: list[Answer]) -> None:
        # A number is used once: of a write that seems to have failed others may have read.
        number = self._parts.stop
        self._parts = range(self._parts.start, number + 1)
        self._storage.put(self._part(number), _lines(batch), "application/jsonl")

    def _unknown(self) -> list[str]:
        """Keys of the files whose answers are not in the table."""
        written = self._part(self._parts.stop)
        return [
            key
            for key in self._storage.keys(f"{self._prefix}/")
            if key not in self._known and not self._own <= key < written
        ]

    def _load(self, keys: list[str]) -> None:
        while not all(self._read(keys[at : at + _CHUNK]) for at in range(0, len(keys), _CHUNK)):
            keys = self._unknown()  # a part vanished: another run joined the parts meanwhile

    def _read(self, keys: list[str]) -> bool:
        """Take in the answers of files; whether all were there."""
        with ThreadPoolExecutor(_READERS) as readers:
            objects = list(readers.map(self._storage.get, keys))
        for key, stored in zip(keys, objects, strict=True):
            if stored is not None:
                source = self._storage.uri(key)
                lines = _lines_of(stored.data, source, packed=key.endswith(".gz"))
                self._answers.take(_answer(line, source) for line in lines)
                self._known.add(key)
        return None not in objects


class _Table:
    """Answers by key on this machine's disk; safe to use from many threads.

    Of several answers to one request it keeps the usable one, and the newest of those.
    """

    def __init__(self) -> None:
        # A database without a name lies on the disk once it is large, and goes when it is closed.
        self._database = sqlite3.connect("", check_same_thread=False, isolation_level=None)
        self._lock = threading.Lock()
        self._database.execute("PRAGMA journal_mode = OFF")
        self._database.execute("PRAGMA cache_size = -1000")  # KiB
        self._database.execute(
            "CREATE TABLE answers (key TEXT PRIMARY KEY, usable INTEGER, at REAL, line BLOB) "
            "WITHOUT ROWID"
        )

    def __len__(self) -> int:
        with self._lock:
            (count,) = self._database.execute("SELECT count(*) FROM answers").fetchone()
        return int(count)

    def take(self, answers: Iterable[Answer]) -> None:
        rows = (
            (a.key, a.status == "usable", a.at.timestamp(), a.model_dump_json().encode())
            for a in answers
        )
        with self._lock:
            self._database.execute("BEGIN")
            try:
                self._database.executemany(
                    "INSERT INTO answers VALUES (?, ?, ?, ?) ON CONFLICT (key) DO UPDATE "
                    "SET usable = excluded.usable, at = excluded.at, line = excluded.line "
                    "WHERE (excluded.usable, excluded.at) >= (answers.usable, answers.at)",
                    rows,
                )
            finally:
                self._database.execute("COMMIT")

    def get(self, key: str) -> Answer | None:
        with self._lock:
            row = self._database.execute(
                "SELECT line FROM answers WHERE key = ?", (key,)
            ).fetchone()
        return Answer.model_validate_json(row[0]) if row else None

    def lines(self) -> Iterator[bytes]:
        """All answers as JSON, by key."""
        last = ""
        while True:
            with self._lock:
                rows = self._database.execute(
                    "SELECT key, line FROM answers WHERE key > ? ORDER BY key LIMIT ?",
                    (last, _CHUNK),
                ).fetchall()
            if not rows:
                return
            yield from (line for _, line in rows)
            last = rows[-1][0]


def _packed(lines: Iterable[bytes]) -> Iterator[bytes]:
    packer = zlib.compressobj(wbits=zlib.MAX_WBITS | 16)  # gzip, with no time in its header
    for line in lines:
        yield packer.compress(line + b"\n")
    yield packer.flush()


def _lines_of(data: bytes, source: str, *, packed: bool) -> Iterator[bytes]:
    if not packed:
        yield from data.splitlines()
        return
    try:
        with gzip.open(io.BytesIO(data)) as file:
            yield from file
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


def _lines(answers: list[Answer]) -> bytes:
    return b"".join(answer.model_dump_json().encode() + b"\n" for answer in answers)
