"""Faults on request, from a seed, so that a test of robustness repeats exactly.

A fault of some kind counts the calls that it could hit, from 1; whether it hits the n-th is
decided by seed, kind and n alone. To add a kind, name it in `KINDS` and let it strike: at the
door (`strikes.py`), or by asking `Faults.draw` at the place where it does.
"""

from __future__ import annotations

import random
from collections.abc import Collection
from dataclasses import asdict, dataclass
from threading import Lock
from typing import Any, Final

from deployments.embedded.bedrock.errors import STATUS
from deployments.embedded.restyle import STYLES
from reelroute.errors import ReelRouteError

WRONG_CREDENTIALS: Final = "wrong-credentials"
EXPIRED_CREDENTIALS: Final = "expired-credentials"
DENIED_MODELS: Final = "denied-models"
THROTTLING: Final = "throttling"
SERVER_ERROR: Final = "server-error"
SERVER_ERROR_AFTER: Final = "server-error-after"
SERVICE_ERROR: Final = "service-error"
DROPPED: Final = "dropped"
DROPPED_AFTER: Final = "dropped-after"
CUT_OFF: Final = "cut-off"
BROKEN_JSON: Final = "broken-json"
SLOW: Final = "slow"
FAILED_JOBS: Final = "failed-jobs"
STUCK_JOBS: Final = "stuck-jobs"
UNFINISHED_JOBS: Final = "unfinished-jobs"
RECORD_ERRORS: Final = "record-errors"
REPORTED_STATE: Final = "reported-state"
TEACHER_ANSWERS: Final = "teacher-answers"
MODEL_ANSWERS: Final = "model-answers"

_BEDROCK: Final = ("bedrock", "bedrock-runtime")
_CONVERSE: Final = ("Converse",)
_CREATE: Final = (
    "CreateModelCustomizationJob",
    "CreateCustomModelDeployment",
    "CreateEvaluationJob",
    "CreateModelInvocationJob",
    "CreateProvisionedModelThroughput",
    "UpdateCustomModelDeployment",
)
_BATCH: Final = ("CreateModelInvocationJob",)
#: HTTP status of the errors that S3's API model has, by code.
S3_STATUS: Final = {
    "EncryptionTypeMismatch": 400,
    "InvalidObjectState": 403,
    "InvalidRequest": 400,
    "InvalidWriteOffset": 400,
    "NoSuchBucket": 404,
    "NoSuchKey": 404,
    "TooManyParts": 400,
}
#: What jobs, deployments and models can say of themselves, and why an answer can end.
STATES: Final = (
    *("Submitted", "Validating", "Scheduled", "InProgress", "Completed", "PartiallyCompleted"),
    *("Failed", "Stopping", "Stopped", "Expired", "Deleting"),
    *("Creating", "Active", "Updating", "InService"),
    *("end_turn", "tool_use", "max_tokens", "stop_sequence", "guardrail_intervened"),
    *("content_filtered", "malformed_model_output", "malformed_tool_use"),
    "model_context_window_exceeded",
)


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of fault.

    Attributes:
        says: what it does.
        services: those whose calls it can hit; empty means all.
        operations: those that it can hit; empty means all.
        styles: how it can hit, the default first; empty where there is one way only.
    """

    says: str
    services: tuple[str, ...] = ()
    operations: tuple[str, ...] = ()
    styles: tuple[str, ...] = ()

    def can_hit(self, service: str, operation: str) -> bool:
        """Whether calls of this operation are among those that it can hit."""
        return (not self.services or service in self.services) and (
            not self.operations or operation in self.operations
        )


#: What can be made to fail, and how.
KINDS: Final = {
    WRONG_CREDENTIALS: Kind("calls are refused, as with keys that the account doesn't know"),
    EXPIRED_CREDENTIALS: Kind("calls are refused, as with keys that were good an hour ago"),
    DENIED_MODELS: Kind("the account has no access to the model", _BEDROCK, _CONVERSE),
    THROTTLING: Kind("calls are refused: too many of them"),
    SERVER_ERROR: Kind("calls end with a server error and have no effect"),
    SERVER_ERROR_AFTER: Kind("calls take effect, but end with a server error"),
    SERVICE_ERROR: Kind(
        "calls are refused with the error that the style names",
        ("s3", *_BEDROCK),
        styles=(*STATUS, *S3_STATUS),
    ),
    DROPPED: Kind("the connection is dropped, and the call has no effect"),
    DROPPED_AFTER: Kind("the call takes effect, then the connection is dropped"),
    CUT_OFF: Kind("the answer breaks off in the middle"),
    BROKEN_JSON: Kind("the answer's JSON is damaged", _BEDROCK),
    SLOW: Kind("calls take so many seconds longer"),
    FAILED_JOBS: Kind("jobs and deployments end as Failed", _BEDROCK, _CREATE),
    STUCK_JOBS: Kind("jobs and deployments never end by themselves", _BEDROCK, _CREATE),
    UNFINISHED_JOBS: Kind(
        "batch jobs time out halfway and leave what they have, or before they have begun",
        _BEDROCK,
        _BATCH,
        ("halfway", "unbegun"),
    ),
    RECORD_ERRORS: Kind(
        "records of batch jobs have an error in place of an answer: their own or the service's",
        _BEDROCK,
        _BATCH,
        ("bad-request", "internal"),
    ),
    REPORTED_STATE: Kind(
        "jobs, deployments and answers report the state that the style names, whatever theirs is",
        _BEDROCK,
        styles=STATES,
    ),
    TEACHER_ANSWERS: Kind(
        "the teacher's answers are spoilt in one style, or in all styles by turns",
        _BEDROCK,
        _CONVERSE,
        ("mixed", *STYLES),
    ),
    MODEL_ANSWERS: Kind(
        "any model's answers are spoilt in one style, or in all styles by turns",
        _BEDROCK,
        _CONVERSE,
        ("mixed", *STYLES),
    ),
}
#: The longest that a call can be made to wait, in seconds.
MAX_SECONDS: Final = 600


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault that is switched on.

    Attributes:
        kind: one of `KINDS`.
        rate: the share of calls that it hits, over 0 and at most 1.
        seed: decides which.
        style: how it hits, for kinds that come in styles, else empty.
        operations: the operations that it hits; empty means all that its kind can hit.
        seconds: how much longer a slow call takes.
        times: after so many hits it hits no more; 0 is without end.
    """

    kind: str
    rate: float = 1.0
    seed: int = 0
    style: str = ""
    operations: tuple[str, ...] = ()
    seconds: float = 1.0
    times: int = 0

    def can_hit(self, service: str, operation: str) -> bool:
        """Whether calls of this operation are among those that it can hit."""
        return KINDS[self.kind].can_hit(service, operation) and (
            not self.operations or operation in self.operations
        )


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


def make_fault(
    kind: str,
    rate: float = 1.0,
    seed: int = 0,
    style: str | None = None,
    operations: Collection[str] = (),
    seconds: float = 1.0,
    times: int = 0,
) -> Fault:
    """A fault of a known kind.

    Raises:
        ReelRouteError: an unknown kind or style, an operation that the kind can't hit, a rate
            outside 0 to 1, seconds outside 0 to `MAX_SECONDS`, or times below 0.
    """
    if kind not in KINDS:
        raise ReelRouteError(f"there is no fault {kind!r}: choose one of {', '.join(KINDS)}")
    if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 < rate <= 1:
        raise ReelRouteError(f"the rate {rate!r} is not over 0 and at most 1")
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise ReelRouteError(f"the seed {seed!r} is not a whole number")
    if not isinstance(seconds, int | float) or not 0 <= seconds <= MAX_SECONDS:
        raise ReelRouteError(f"{seconds!r} is not a number of seconds from 0 to {MAX_SECONDS}")
    if isinstance(times, bool) or not isinstance(times, int) or times < 0:
        raise ReelRouteError(f"{times!r} is not a number of times: 0 is without end")
    styles = KINDS[kind].styles or ("",)
    chosen = style or styles[0]
    if chosen not in styles:
        known = ", ".join(s for s in styles if s) or "none"
        raise ReelRouteError(f"the fault {kind} has no style {chosen!r}: it knows {known}")
    for operation in operations:
        known_operations = KINDS[kind].operations
        if known_operations and operation not in known_operations:
            raise ReelRouteError(
                f"the fault {kind} can't hit {operation!r}: it hits {', '.join(known_operations)}"
            )
    return Fault(kind, float(rate), seed, chosen, tuple(operations), float(seconds), times)


class Faults:
    """The faults of one server; at most one of each kind is on."""

    def __init__(self) -> None:
        self._on: dict[str, Fault] = {}
        self._numbers: dict[str, int] = {}
        self._hits: dict[str, int] = {}
        self._lock = Lock()

    def set(self, kind: str, **how: Any) -> Fault:
        """Switch a fault on, in place of one of the same kind; its count starts anew.

        Args:
            kind: one of `KINDS`.
            how: see `make_fault`, which also says what is raised.
        """
        fault = make_fault(kind, **how)
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

    def draw(self, kind: str, service: str, operation: str) -> Hit | None:
        """Whether a call of this operation is hit; counts the call if it could be."""
        if kind not in self._on:  # the common case, without the lock
            return None
        with self._lock:
            fault = self._on.get(kind)
            if fault is None or not fault.can_hit(service, operation):
                return None
            if fault.times and self._hits[kind] >= fault.times:
                return None
            self._numbers[kind] += 1
            number = self._numbers[kind]
            # A string seeds by its SHA-512, the same in every process.
            if random.Random(f"{fault.seed}:{kind}:{number}").random() >= fault.rate:
                return None
            self._hits[kind] += 1
            return Hit(fault, number, self._hits[kind])
