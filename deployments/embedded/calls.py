"""The log of all calls, kept in memory: what was asked, when, and how it ended."""

from __future__ import annotations

import hashlib
import time
from collections import Counter, deque
from dataclasses import asdict, dataclass, field
from itertools import count
from threading import Lock
from typing import Any, Final

#: Older calls are forgotten, so that a server that runs for weeks stays small.
MAX_CALLS: Final = 200_000


@dataclass(slots=True)
class Call:
    """One request to the embedded AWS.

    Attributes:
        sequence: 1 for the first call since the server started.
        time: seconds since the epoch.
        service: the service's name (`s3`, `bedrock`, `bedrock-runtime`).
        operation: the operation's name in the service's API.
        model_id: the model that Converse was asked, else empty.
        text_sha256: of Converse the hash of all its turns' texts, joined by line ends (so of a
            single turn the hash of its text); of other Bedrock calls the hash of the body.
        status: the HTTP status of the answer.
        fault: which fault was injected, else empty.
    """

    sequence: int = 0
    time: float = field(default_factory=time.time)
    service: str = ""
    operation: str = ""
    model_id: str = ""
    text_sha256: str = ""
    status: int = 0
    fault: str = ""

    def hash_text(self, text: str | bytes) -> None:
        """Keep the hash of what was asked."""
        raw = text.encode() if isinstance(text, str) else text
        self.text_sha256 = hashlib.sha256(raw).hexdigest()


class CallLog:
    """The calls of one server, in the order in which they ended."""

    def __init__(self) -> None:
        self._calls: deque[Call] = deque(maxlen=MAX_CALLS)
        self._sequence = count(1)
        self._lock = Lock()

    def add(self, call: Call) -> None:
        """Keep a call that has ended."""
        with self._lock:
            call.sequence = next(self._sequence)
            self._calls.append(call)

    def all(self) -> list[Call]:
        """All calls that are still remembered."""
        with self._lock:
            return list(self._calls)

    def as_records(self) -> list[dict[str, Any]]:
        """All calls as plain values."""
        return [asdict(call) for call in self.all()]

    def summary(self) -> dict[str, Any]:
        """How many calls there were, by service, operation and model."""
        counts = Counter((call.service, call.operation, call.model_id) for call in self.all())
        rows = [
            {"service": service, "operation": operation, "model_id": model_id, "calls": calls}
            for (service, operation, model_id), calls in sorted(counts.items())
        ]
        return {"calls": sum(counts.values()), "by_operation": rows}
