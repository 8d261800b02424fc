"""The router of the current release: follows the pointer, keeps a deadline, remembers answers."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import weakref
from collections import Counter, OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple, Self

from reelroute.aws import AwsAccess
from reelroute.errors import ReelRouteError, ReleaseError
from reelroute.limited_log import LimitedLog
from reelroute.release import (
    Reader,
    Release,
    beside,
    fetch_model,
    read_pointer,
    read_release,
)
from reelroute.routers.base import Attempt, Deadline, QueryError, Router, check_query, is_stopgap
from reelroute.routers.bedrock import BedrockRouter
from reelroute.routers.cascade import CascadeRouter
from reelroute.routers.local import LocalRouter
from reelroute.routers.rules import RulesRouter
from reelroute.weights import RoutingWeights

_log = logging.getLogger("reelroute")


class CacheInfo(NamedTuple):
    """How the memory of answers does, as `functools.lru_cache` tells it.

    Attributes:
        hits: queries answered from memory, over all releases.
        misses: queries that a model was asked for, over all releases.
        size: answers of the current release that are remembered.
        max_size: the most that are.
    """

    hits: int
    misses: int
    size: int
    max_size: int


class _Tally:
    """Hits and misses, over releases."""

    def __init__(self) -> None:
        self.hits = self.misses = 0
        self.lock = threading.Lock()


class _Lru:
    """A release's latest answers, by query; safe to use from many threads."""

    def __init__(self, size: int, tally: _Tally) -> None:
        self.size = size
        self._tally = tally
        self._answers: OrderedDict[str, RoutingWeights] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._answers)

    def get(self, query: str) -> RoutingWeights | None:
        with self._lock:
            answer = self._answers.get(query)
            if answer is not None:
                self._answers.move_to_end(query)
        with self._tally.lock:
            self._tally.hits += answer is not None
            self._tally.misses += answer is None
        return answer

    def put(self, query: str, answer: RoutingWeights) -> None:
        if self.size:
            with self._lock:
                self._answers[query] = answer
                self._answers.move_to_end(query)
                if len(self._answers) > self.size:
                    self._answers.popitem(last=False)


@dataclass(frozen=True)
class _Current:
    """A release at work: swapped as one, so that no query sees half of two."""

    release: Release
    sha256: str
    router: Router
    remembered: _Lru = field(compare=False)


class ReleaseRouter(Router):
    """Routes with the current release, and with the next one as soon as the pointer moves.

    The pointer is looked at in the background. A new release is opened, verified and warmed up
    before it replaces the old one, in one step; whatever fails on the way leaves the old one at
    work and is logged. Use it in a `with` statement, or call `close`; one that is forgotten stops
    following when it is collected.
    """

    #: Awaited queries that are answered together.
    _AWAITED: Final = 32

    def __init__(
        self,
        uri: str,
        access: AwsAccess,
        *,
        follow_seconds: float | None,
        deadline_ms: float | None,
        cache_size: int,
        fallback: bool,
    ) -> None:
        """Open the current release; see `Router.from_release` for the arguments and errors."""
        for name, value in (("follow_seconds", follow_seconds), ("deadline_ms", deadline_ms)):
            if value is not None and not value > 0:
                raise ValueError(f"{name} is {value}: it must be above 0, or None")
        if cache_size < 0:
            raise ValueError(f"cache_size is {cache_size}: it must not be negative")
        self.uri = uri
        self._access = access
        self._read = Reader(access)
        self._deadline_ms = deadline_ms
        self._cache_size = cache_size
        self._fallback = fallback
        self._rules = RulesRouter()
        self._warnings = LimitedLog(_log)
        self._tally = _Tally()
        self._refreshing = threading.Lock()
        self._closing = threading.Event()
        self._awaiting = ThreadPoolExecutor(self._AWAITED, thread_name_prefix="reelroute-await")
        self._current = self._open(None)
        self._follower: threading.Thread | None = None
        if follow_seconds is not None:
            # The thread knows the router only weakly, so that it doesn't keep it alive.
            weakref.finalize(self, self._closing.set)
            self._follower = threading.Thread(
                target=_follow,
                args=(weakref.ref(self), self._closing, follow_seconds),
                daemon=True,
                name="reelroute-follow",
            )
            self._follower.start()

    @property
    def name(self) -> str:  # type: ignore[override]
        """That of the router of the release at work."""
        return self._current.router.name

    @property
    def is_remote(self) -> bool:
        """Whether the router of the release at work is."""
        return self._current.router.is_remote

    @property
    def release(self) -> Release:
        """The release at work."""
        return self._current.release

    @property
    def cache_info(self) -> CacheInfo:
        """How often queries were answered from memory."""
        remembered = self._current.remembered
        with self._tally.lock:
            hits, misses = self._tally.hits, self._tally.misses
        return CacheInfo(hits, misses, len(remembered), remembered.size)

    def route(self, query: str) -> RoutingWeights:
        """The weights of one query, within the deadline.

        Raises:
            QueryError: the query is empty or too long.
            ReelRouteError: the model gives no answer and `fallback` is off, or the router is
                closed.
        """
        return self._answer([check_query(query)], self.deadline())[0]

    def route_many(self, queries: Sequence[str]) -> list[RoutingWeights]:
        """The weights of many queries, in their order; the deadline holds for all together.

        Raises:
            ReelRouteError: as `route`, for any of them.
        """
        return self.route_by(self.deadline(), queries)

    def deadline(self) -> Deadline | None:
        """When an answer that is asked for now is wanted, or None where there is no deadline."""
        return None if self._deadline_ms is None else Deadline.after(self._deadline_ms)

    def route_by(self, deadline: Deadline | None, queries: Sequence[str]) -> list[RoutingWeights]:
        """`route_many` by a deadline that began earlier, before a wait for a thread."""
        return self._answer([check_query(query) for query in queries], deadline)

    async def aroute(self, query: str) -> RoutingWeights:
        """`route`, without blocking the event loop; the deadline counts from the call."""
        return (await self.aroute_many([query]))[0]

    async def aroute_many(self, queries: Sequence[str]) -> list[RoutingWeights]:
        """`route_many`, without blocking the event loop; the deadline counts from the call."""
        texts = [check_query(query) for query in queries]
        deadline = self.deadline()
        self._check_open()
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._awaiting, self._answer, texts, deadline)

    def refresh(self) -> bool:
        """Look at the pointer now; whether a new release was taken up.

        Raises:
            ReelRouteError: the new release is missing or fails its check; the old one stays.
        """
        with self._refreshing:  # a slower look must not bring back an older release
            found = self._open(self._current)
            if found is self._current:
                return False
            self._current = found
        _log.info("release %s is at work", found.release.version)
        return True

    def close(self) -> None:
        """Stop following and let go of threads; queries in flight end."""
        self._closing.set()
        if self._follower and self._follower is not threading.current_thread():
            self._follower.join(timeout=5)
        self._awaiting.shutdown(wait=False)
        self._current.router.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _open(self, known: _Current | None) -> _Current:
        """The release that the pointer names: the known one itself if it still is that."""
        pointer = read_pointer(self._read(self.uri), self.uri)
        if known and (pointer.version, pointer.sha256) == (known.release.version, known.sha256):
            return known
        place = beside(self.uri, f"{pointer.version}.json")
        release = read_release(self._read(place), pointer, place)
        timeout = None if self._deadline_ms is None else self._deadline_ms / 1000
        router = router_of(release, self.uri, self._read, self._access, timeout)
        return _Current(release, pointer.sha256, router, _Lru(self._cache_size, self._tally))

    def _look(self) -> None:
        try:
            self.refresh()
        except ReelRouteError as error:
            _log.warning("%s; release %s stays at work", error, self.release.version)
        except Exception:
            _log.exception("following %s; release %s stays", self.uri, self.release.version)

    def _check_open(self) -> None:
        if self._closing.is_set():
            raise ReelRouteError(f"the router of {self.uri} is closed")

    def _answer(self, texts: Sequence[str], deadline: Deadline | None) -> list[RoutingWeights]:
        self._check_open()
        current = self._current  # read once: all of these queries are answered by one release
        answers: dict[str, RoutingWeights] = {}
        missing: list[str] = []
        for text in dict.fromkeys(texts):
            known = current.remembered.get(text)
            if known is None:
                missing.append(text)
            else:
                answers[text] = known
        if missing:
            found = self._with_fallback(missing, self._ask(current, missing, deadline))
            for text, answer in zip(missing, found, strict=True):
                answers[text] = answer
                if not is_stopgap(answer):
                    current.remembered.put(text, answer)
        return [answers[text] for text in texts]

    def _ask(
        self, current: _Current, texts: Sequence[str], deadline: Deadline | None
    ) -> list[Attempt]:
        """What the release's router says, whatever happens."""
        try:
            return current.router.attempt_many(texts, deadline)
        except QueryError:
            raise
        except ReelRouteError as error:
            why = error
        except Exception as error:
            _log.exception("asking release %s", current.release.version)
            why = ReelRouteError(
                f"release {current.release.version}: {type(error).__name__}: {error}"
            )
        return [why] * len(texts)

    def _with_fallback(
        self, texts: Sequence[str], attempts: Sequence[Attempt]
    ) -> list[RoutingWeights]:
        answers: list[RoutingWeights] = []
        failed: Counter[str] = Counter()
        for text, attempt in zip(texts, attempts, strict=True):
            if isinstance(attempt, RoutingWeights):
                answers.append(attempt)
                continue
            if not self._fallback:
                raise attempt
            failed[str(attempt)] += 1
            rules = self._rules.route(text)
            reasoning = f"{rules.reasoning} ({attempt}.)"
            answers.append(rules.model_copy(update={"reasoning": reasoning}))
        for why, count in failed.items():
            queries = "" if count == 1 else f" {count} queries"
            self._warnings.warning(f"{why}:{queries} answered by rules", cause=why)
        return answers


def _follow(router: weakref.ref[ReleaseRouter], closing: threading.Event, seconds: float) -> None:
    """Look at the pointer every so often, until the router is closed or gone."""
    while not closing.wait(seconds):
        held = router()
        if held is None:
            return
        held._look()
        del held  # while it waits, nobody but its user holds the router


def router_of(
    release: Release,
    uri: str,
    read: Reader,
    access: AwsAccess,
    timeout_seconds: float | None = None,
) -> Router:
    """The router that a release names, its models fetched, verified and loaded.

    Args:
        release: the release.
        uri: of the pointer that names it.
        read: reads its files.
        access: how AWS is reached.
        timeout_seconds: of each try to reach a model behind the network.

    Raises:
        ReelRouteError: a model is missing or fails its check.
    """
    local = behind = None
    if release.router != "bedrock" and release.local:
        try:
            local = LocalRouter.of_folder(fetch_model(release.local, uri, read, model_cache()))
        except (OSError, RuntimeError) as error:  # the latter: no home folder
            raise ReleaseError(
                f"the model of release {release.version} can't be kept on this machine: {error}. "
                "Name a folder that can be written to in REELROUTE_CACHE"
            ) from error
    if release.router != "local" and release.bedrock:
        behind = BedrockRouter.of_model(release.bedrock, release.prompt, access, timeout_seconds)
    if local and behind and release.pass_on_above is not None:
        return CascadeRouter(local, behind, release.pass_on_above)
    router = local or behind
    if router is None:
        raise ReleaseError(f"release {release.version} names no model that can be asked")
    return router


def model_cache() -> Path:
    """Where fetched models are kept: `REELROUTE_CACHE`, or the user's cache folder."""
    named = os.environ.get("REELROUTE_CACHE") or os.environ.get("XDG_CACHE_HOME")
    return Path(named or Path.home() / ".cache") / "reelroute" / "models"
