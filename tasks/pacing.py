"""Pacing: on-demand calls run just below a model's quota instead of bouncing off it.

All workers of an environment share one timeline a quota, kept by a global concurrency limit of
Prefect with slot decay: who occupies slots moves its end, and what is still active then tells
when their own stretch begins. So stretches follow each other without a gap, and nobody is ever
denied slots. (`prefect.concurrency.sync.rate_limit` asks until it is not denied, and each
denial forgets what has decayed before: many who ask at once starve each other.) A stretch holds
five seconds' share of the quota: the server is asked once in that time, not once a call, and
what its clock loses at every question (here about 0.07 s) matters little.
"""

from __future__ import annotations

import math
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Final

from configs.settings import Quota, Settings
from reelroute.errors import RetryableAwsError
from tasks.base import logger

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

#: The share of a quota that is used: clocks and connections are not exact.
HEADROOM: Final = 0.98
#: How much of a quota's time a worker takes from the shared timeline at once, in seconds.
STRETCH_SECONDS: Final = 5.0
#: A worker takes its next stretch so long before the present one ends, in seconds: the Prefect
#: server may be slow.
LEAD_SECONDS: Final = 1.0
#: How far a call that passed too late lets the next ones catch up, in seconds.
CATCH_UP_SECONDS: Final = 0.5
#: Seconds that a worker goes without the Prefect server before it asks it again.
ALONE_SECONDS: Final = 60.0
#: The first pause after the service pushed back, and the longest, in seconds.
PAUSE_SECONDS: Final = (1.0, 16.0)

#: Slots are whole numbers: a hundredth of a request is the least that rounding can lose.
_SLOTS_PER_REQUEST = 100
#: The timeline's length in seconds; what is beyond it is refused.
_TIMELINE_SECONDS = 3600
_MOST_SLOTS = 2**31 - 1


class SharedTimeline:
    """A quota's timeline that all workers of an environment share, kept by the Prefect server.

    Args:
        name: of the global concurrency limit, which is made, or brought up to date, when it is
            first used.
        per_second: how much may be used a second.
        slots: slots of the limit for one of it.
    """

    def __init__(self, name: str, per_second: float, slots: int = 1) -> None:
        self.name = name
        self._decay = per_second * slots
        self._slots = slots
        self._client: SyncPrefectClient | None = None

    def reserve(self, amount: float) -> float:
        """Take the timeline's next stretch; in how many seconds it begins.

        Raises:
            Exception: the Prefect server can't be reached, or refuses.
        """
        client = self._client or self._open()
        occupied = math.ceil(amount * self._slots)
        client.increment_concurrency_slots([self.name], occupied, "rate_limit")
        active = client.read_global_concurrency_limit_by_name(self.name).active_slots
        return max(active - occupied, 0) / self._decay

    def _open(self) -> SyncPrefectClient:
        from prefect.client.orchestration import get_client
        from prefect.exceptions import ObjectAlreadyExists
        from prefect.settings import PREFECT_API_URL

        if not PREFECT_API_URL.value():
            raise ConnectionError("no Prefect server is named (PREFECT_API_URL)")
        # With settings of its own it is not the flow run's client, which is not for all threads.
        client = get_client(httpx_settings={"timeout": 10.0}, sync_client=True)
        length = min(math.ceil(self._decay * _TIMELINE_SECONDS), _MOST_SLOTS)
        for _ in range(2):
            try:
                client.upsert_global_concurrency_limit_by_name(self.name, length, self._decay)
                break
            except ObjectAlreadyExists:  # another worker made it meanwhile
                continue
        self._client = client
        return client


class Lane:
    """One quota of a model in this process: calls pass one after the other, evenly spaced.

    Args:
        per_minute: the quota.
        reserve: takes so much of the shared timeline; in how many seconds its stretch begins.
        clock, sleep: of monotonic seconds.
    """

    def __init__(
        self,
        per_minute: float,
        reserve: Callable[[float], float],
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._per_second = per_minute * HEADROOM / 60
        self._stretch = max(self._per_second * STRETCH_SECONDS, 1.0)
        self._reserve = reserve
        self._clock, self._sleep = clock, sleep
        self._turn = threading.Lock()  # whose call is next
        self._extending = threading.Lock()
        self._state = threading.Lock()
        self._left = 0.0  # of the stretch that was reserved
        self._next = clock()  # when the next call may pass
        self._alone_until = 0.0

    def enter(self, amount: float) -> None:
        """Wait until so much of the quota may be used."""
        with self._turn:
            if self._left < amount:
                with self._extending:
                    if self._left < amount:  # otherwise another call has just extended it
                        self._extend(max(self._stretch, amount - self._left))
            with self._state:
                self._next = max(self._next, self._clock() - CATCH_UP_SECONDS)
            while (wait := self._next - self._clock()) > 0:
                self._sleep(wait)
            with self._state:
                self._left -= amount
                self._next += amount / self._per_second
        ahead = self._per_second * LEAD_SECONDS
        if self._left < ahead and self._extending.acquire(blocking=False):
            try:
                self._extend(self._stretch)  # the other calls pass meanwhile
            finally:
                self._extending.release()

    def give_back(self, amount: float) -> None:
        """Return what a call set aside and did not use (or, negative, used beyond that)."""
        with self._state:
            self._left += amount
            self._next -= amount / self._per_second

    def pause(self, seconds: float) -> None:
        """Let no call pass for so long."""
        with self._state:
            self._next = max(self._next, self._clock() + seconds)

    def _extend(self, amount: float) -> None:
        wait, before, left = 0.0, self._clock(), self._left
        if before >= self._alone_until:
            try:
                wait = self._reserve(amount)
            except Exception as error:  # whatever is wrong with the server, calls go on
                self._alone_until = self._clock() + ALONE_SECONDS
                logger().warning(
                    "the Prefect server can't pace the calls (%s): this worker keeps the whole "
                    "quota by itself for the next %.0f s. With several workers set "
                    "`quotas` lower, or bring the server back",
                    error,
                    ALONE_SECONDS,
                )
        with self._state:
            # What was left of the stretch before is used up just before the new one begins.
            begins = before + wait - left / self._per_second
            self._left += amount
            self._next = max(self._next, begins)


class PacedCall:
    """What a call turned out to take of the quota."""

    tokens: int | None = None
    retries: int = 0

    def settle(self, tokens: int, *, retries: int = 0) -> None:
        """Enter the tokens that were used, and how often boto3 had to try again."""
        self.tokens, self.retries = tokens, retries


class Pacer:
    """Keeps the calls of a model below its quotas, whichever of them binds."""

    def __init__(self, requests: Lane | None, tokens: Lane | None) -> None:
        self._requests, self._tokens = requests, tokens
        self._lock = threading.Lock()
        self._pause = PAUSE_SECONDS[0]
        self._paused_until = 0.0

    @contextmanager
    def call(self, tokens: int) -> Iterator[PacedCall]:
        """Wait until a call of at most so many tokens may be made; the block makes it."""
        if self._tokens:
            self._tokens.enter(tokens)
        if self._requests:
            self._requests.enter(1)
        made = PacedCall()
        try:
            yield made
        except RetryableAwsError:
            self.push_back()
            raise
        if made.retries:
            self.push_back()
        if self._tokens and made.tokens is not None:
            self._tokens.give_back(tokens - made.tokens)

    def push_back(self) -> None:
        """Slow down: the service refused a call nonetheless.

        All calls pause; for longer, if it pushes back again soon after.
        """
        now = time.monotonic()
        with self._lock:
            if now < self._paused_until:
                return  # the calls that were in flight tell of the same
            recent = now < self._paused_until + PAUSE_SECONDS[1]
            self._pause = min(self._pause * 2, PAUSE_SECONDS[1]) if recent else PAUSE_SECONDS[0]
            self._paused_until = now + self._pause
            pause = self._pause
        for lane in (self._requests, self._tokens):
            if lane:
                lane.pause(pause)


def pacer_of(settings: Settings, model_id: str) -> Pacer | None:
    """The pacer of a model's calls, one a process; None where the profile has no quota of it.

    Args:
        model_id: as it is asked. Deployments of custom models go by their base model, as the
            service counts them.
    """
    if ":custom-model-deployment/" in model_id:
        model_id = settings.models.student.customization_id
    quota = settings.quotas.get(model_id)
    return _pacer(settings.environment, model_id, quota) if quota else None


@cache
def _pacer(environment: str, model_id: str, quota: Quota) -> Pacer:
    model = re.sub(r"[^a-z0-9.]+", "-", model_id.lower())

    def lane(per_minute: float | None, what: str, slots: int) -> Lane | None:
        if per_minute is None:
            return None
        name = f"reelroute-{environment}-{model}-{what}"
        shared = SharedTimeline(name, per_minute * HEADROOM / 60, slots)
        return Lane(per_minute, shared.reserve)

    return Pacer(
        lane(quota.requests_per_minute, "requests", _SLOTS_PER_REQUEST),
        lane(quota.tokens_per_minute, "tokens", 1),
    )
