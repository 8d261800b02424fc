"""Warnings that an outage repeats with every call, said now and then."""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

#: Equal warnings are said once in so many seconds.
PAUSE_SECONDS: Final = 10.0
#: So many different warnings are remembered, those said or left out last: a cause whose text
#: never repeats must not fill the memory.
_REMEMBERED: Final = 256


@dataclass(slots=True)
class _Said:
    """A warning: when it was last said, and how often it was left out since."""

    at: float
    left_out: int = 0


class LimitedLog:
    """Logs equal warnings once in ten seconds; the next one says how many were left out.

    Safe to use from many threads.

    Args:
        log: where warnings go.
        clock: seconds that never go back.
    """

    def __init__(self, log: logging.Logger, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._log = log
        self._clock = clock
        self._said: OrderedDict[str, _Said] = OrderedDict()
        self._lock = threading.Lock()

    def warning(self, message: str, *, cause: str | None = None) -> None:
        """Log a warning, or count it as left out.

        Args:
            message: the warning.
            cause: warnings with the same cause are equal, however else they differ; without it,
                those with the same message.
        """
        left_out = self._admit(cause or message)
        if left_out is not None:
            more = f" (and {left_out} more time{'s' * (left_out != 1)})" if left_out else ""
            self._log.warning("%s%s", message, more, stacklevel=2)

    def _admit(self, cause: str) -> int | None:
        """How many warnings of the cause were left out before this one; None leaves it out too."""
        with self._lock:
            now = self._clock()
            before = self._said.get(cause)
            if before and now - before.at < PAUSE_SECONDS:
                before.left_out += 1
                self._said.move_to_end(cause)
                return None
            self._said[cause] = _Said(now)
            self._said.move_to_end(cause)
            if len(self._said) > _REMEMBERED:
                self._said.popitem(last=False)
            return before.left_out if before else 0
