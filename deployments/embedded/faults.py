"""Faults on request, from a seed, so that a test of robustness repeats exactly.

A fault of some kind counts the calls that it could hit, from 1; whether it hits the n-th is
decided by seed, kind and n alone. To add a kind, name it in `KINDS` and ask `Faults.draw` at
the place where it strikes.
"""

from __future__ import annotations

import random
from dataclasses import asdict, dataclass
from threading import Lock
from typing import Any, Final

from deployments.embedded.restyle import STYLES
from reelroute.errors import ReelRouteError

WRONG_CREDENTIALS: Final = "wrong-credentials"
TEACHER_ANSWERS: Final = "teacher-answers"

#: What can be made to fail, and how.
KINDS: Final = {
    WRONG_CREDENTIALS: "every signed call is refused, as with keys that the account doesn't know",
    TEACHER_ANSWERS: "the teacher's answers are spoilt in one style, or in all styles by turns",
}
#: The kinds that come in styles, with the style that is taken where none is named.
STYLED: Final = {TEACHER_ANSWERS: ("mixed", (*STYLES, "mixed"))}


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault that is switched on.

    Attributes:
        kind: one of `KINDS`.
        rate: the share of calls that it hits, over 0 and at most 1.
        seed: decides which.
        style: how it hits, for kinds that come in styles, else empty.
    """

    kind: str
    rate: float = 1.0
    seed: int = 0
    style: str = ""


@dataclass(frozen=True, slots=True)
class Hit:
    """A fault that hits a call.

    Attributes:
        fault: what was switched on.
        number: how many calls before this one it could have hit, plus 1.
        hits: how many calls it has hit, this one included.
    """

    fault: Fault
    number: int
    hits: int


def make_fault(kind: str, rate: float = 1.0, seed: int = 0, style: str | None = None) -> Fault:
    """A fault of a known kind.

    Raises:
        ReelRouteError: an unknown kind or style, or a rate outside 0 to 1.
    """
    if kind not in KINDS:
        raise ReelRouteError(f"there is no fault {kind!r}: choose one of {', '.join(KINDS)}")
    if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 < rate <= 1:
        raise ReelRouteError(f"the rate {rate!r} is not over 0 and at most 1")
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise ReelRouteError(f"the seed {seed!r} is not a whole number")
    default, styles = STYLED.get(kind, ("", ("",)))
    chosen = style or default
    if chosen not in styles:
        known = ", ".join(s for s in styles if s) or "none"
        raise ReelRouteError(f"the fault {kind} has no style {chosen!r}: it knows {known}")
    return Fault(kind, float(rate), seed, chosen)


class Faults:
    """The faults of one server; at most one of each kind is on."""

    def __init__(self) -> None:
        self._on: dict[str, Fault] = {}
        self._numbers: dict[str, int] = {}
        self._hits: dict[str, int] = {}
        self._lock = Lock()

    def set(
        self, kind: str, *, rate: float = 1.0, seed: int = 0, style: str | None = None
    ) -> Fault:
        """Switch a fault on, in place of one of the same kind; its count starts anew.

        Raises:
            ReelRouteError: an unknown kind or style, or a rate outside 0 to 1.
        """
        fault = make_fault(kind, rate, seed, style)
        with self._lock:
            self._on[kind] = fault
            self._numbers[kind] = self._hits[kind] = 0
        return fault

    def clear(self, kind: str | None = None) -> None:
        """Switch one fault off, or all."""
        with self._lock:
            for name in [kind] if kind else list(self._on):
                self._on.pop(name, None)

    def on(self) -> list[dict[str, Any]]:
        """The faults that are on, as plain values, with the number of calls that each has hit."""
        with self._lock:
            return [{**asdict(f), "hits": self._hits[f.kind]} for f in self._on.values()]

    def draw(self, kind: str) -> Hit | None:
        """Whether this call is hit; counts the call."""
        if kind not in self._on:  # the common case, without the lock
            return None
        with self._lock:
            fault = self._on.get(kind)
            if fault is None:
                return None
            self._numbers[kind] += 1
            number = self._numbers[kind]
            # A string seeds by its SHA-512, the same in every process.
            if random.Random(f"{fault.seed}:{kind}:{number}").random() >= fault.rate:
                return None
            self._hits[kind] += 1
            return Hit(fault, number, self._hits[kind])
