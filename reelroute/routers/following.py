"""The router of the current release: follows the pointer, keeps a deadline, remembers answers."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from reelroute.aws import AwsAccess
from reelroute.errors import ReelRouteError, ReleaseError
from reelroute.release import Reader, Release, fetch_model, open_release
from reelroute.routers.base import QueryError, Router, check_query
from reelroute.routers.bedrock import BedrockRouter
from reelroute.routers.cascade import CascadeRouter
from reelroute.routers.local import LocalRouter
from reelroute.routers.rules import RulesRouter
from reelroute.weights import RoutingWeights

_log = logging.getLogger("reelroute")


@dataclass(frozen=True)
class _Current:
    """A release at work: swapped as one, so that no query sees half of two."""

    release: Release
    router: Router
    remembered: _Lru = field(compare=False)


class _Lru:
    """The latest answers, by query; safe to use from many threads."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._answers: OrderedDict[str, RoutingWeights] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, query: str) -> RoutingWeights | None:
        with self._lock:
            answer = self._answers.get(query)
            if answer is not None:
                self._answers.move_to_end(query)
            return answer

    def put(self, query: str, answer: RoutingWeights) -> None:
        if self._size:
            with self._lock:
                self._answers[query] = answer
                self._answers.move_to_end(query)
                if len(self._answers) > self._size:
                    self._answers.popitem(last=False)


class ReleaseRouter(Router):
    """Routes with the current release, and with the next one as soon as the pointer moves.

    The pointer is looked at in the background. A new release is opened, verified and warmed up
    before it replaces the old one, in one step; whatever fails on the way leaves the old one at
    work and is logged. Use it in a `with` statement, or call `close`.
    """

    #: Queries that wait for a model behind the network together.
    _IN_FLIGHT: Final = 32

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
        self.uri = uri
        self._access = access
        self._read = Reader(access)
        self._deadline_ms = deadline_ms
        self._cache_size = cache_size
        self._fallback = fallback
        self._rules = RulesRouter()
        self._pool = ThreadPoolExecutor(self._IN_FLIGHT, thread_name_prefix="reelroute")
        self._current = self._open()
        self._closing = threading.Event()
        self._follower: threading.Thread | None = None
        if follow_seconds is not None:
            self._follower = threading.Thread(
                target=self._follow, args=(follow_seconds,), daemon=True, name="reelroute-follow"
            )
            self._follower.start()

    @property
    def release(self) -> Release:
        """The release at work."""
        return self._current.release

    def route(self, query: str) -> RoutingWeights:
        """The weights of one query, within the deadline.

        Raises:
            QueryError: the query is empty or too long.
            ReelRouteError: the model can't be reached, and `fallback` is off.
        """
        text = check_query(query)
        current = self._current
        known = current.remembered.get(text)
        if known is not None:
            return known
        if not current.router.is_remote:
            answer = current.router.route(text)
        else:
            waiting = self._pool.submit(current.router.route, text)
            answer = self._in_time(waiting, text, self._deadline())
        if answer.router != self._rules.name:
            current.remembered.put(text, answer)
        return answer

    def route_many(self, queries: Sequence[str]) -> list[RoutingWeights]:
        """The weights of many queries, in their order; the deadline holds for all together."""
        texts = [check_query(query) for query in queries]
        current = self._current
        answers = {text: current.remembered.get(text) for text in texts}
        missing = [text for text, answer in answers.items() if answer is None]
        if not current.router.is_remote:
            found = current.router.route_many(missing)
        else:
            deadline = self._deadline()
            waiting = [self._pool.submit(current.router.route, text) for text in missing]
            found = [
                self._in_time(future, text, deadline)
                for future, text in zip(waiting, missing, strict=True)
            ]
        for text, answer in zip(missing, found, strict=True):
            answers[text] = answer
            if answer.router != self._rules.name:
                current.remembered.put(text, answer)
        return [weights for text in texts if (weights := answers[text]) is not None]

    def refresh(self) -> bool:
        """Look at the pointer now; whether a new release was taken up.

        Raises:
            ReelRouteError: the new release is missing or fails its check; the old one stays.
        """
        release = open_release(self.uri, self._read, known=self._current.release)
        if release is self._current.release:
            return False
        self._current = self._open(release)
        _log.info("release %s is at work", release.version)
        return True

    def close(self) -> None:
        """Stop following; queries in flight end."""
        self._closing.set()
        if self._follower:
            self._follower.join(timeout=5)
        self._pool.shutdown(wait=False, cancel_futures=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _open(self, release: Release | None = None) -> _Current:
        release = release or open_release(self.uri, self._read)
        router = router_of(release, self.uri, self._read, self._access)
        return _Current(release, router, _Lru(self._cache_size))

    def _follow(self, seconds: float) -> None:
        while not self._closing.wait(seconds):
            try:
                self.refresh()
            except ReelRouteError as error:
                _log.warning("%s; release %s stays at work", error, self.release.version)
            except Exception:
                _log.exception("following %s; release %s stays", self.uri, self.release.version)

    def _deadline(self) -> float | None:
        return None if self._deadline_ms is None else time.monotonic() + self._deadline_ms / 1000

    def _in_time(
        self, waiting: Future[RoutingWeights], query: str, deadline: float | None
    ) -> RoutingWeights:
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        try:
            return waiting.result(timeout=left)
        except FutureTimeoutError:
            waiting.cancel()
            why: ReelRouteError = ReelRouteError(f"no answer within {self._deadline_ms:g} ms")
        except QueryError:
            raise
        except ReelRouteError as error:
            why = error
        if not self._fallback:
            raise why
        _log.warning("%s: answered by rules", why)
        rules = self._rules.route(query)
        return rules.model_copy(update={"reasoning": f"{rules.reasoning} ({why}.)"})


def router_of(release: Release, uri: str, read: Reader, access: AwsAccess) -> Router:
    """The router that a release names, its models fetched, verified and loaded.

    Raises:
        ReelRouteError: a model is missing or fails its check.
    """
    local = behind = None
    if release.router != "bedrock" and release.local:
        local = LocalRouter.of_folder(fetch_model(release.local, uri, read, model_cache()))
    if release.router != "local" and release.bedrock:
        behind = BedrockRouter.of_model(release.bedrock, release.prompt, access)
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
