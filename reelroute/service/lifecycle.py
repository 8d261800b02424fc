"""Whether the service can answer, and if not, why."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from reelroute.errors import ReelRouteError
from reelroute.routers import Router
from reelroute.service.errors import ApiError

if TYPE_CHECKING:
    from reelroute.routers.following import CacheInfo

_log = logging.getLogger(__name__)

OpenRouter = Callable[[], Router]


class Lifecycle:
    """The service's router, from its opening to the end of the process."""

    def __init__(self, router: Router | OpenRouter) -> None:
        """Take a router that is open, and stays its owner's, or the way to open one."""
        self._open = None if isinstance(router, Router) else router
        self._router = router if isinstance(router, Router) else None
        self._waiting_for = "the release is being opened"
        self.shutting_down = False

    async def open(self, retry_seconds: float) -> None:
        """Open the router, however often it takes."""
        while self._open and self._router is None:
            try:
                self._router = await asyncio.to_thread(self._open)
            except ReelRouteError as error:
                self._waiting_for = f"the release can't be opened: {error}"
                _log.warning("%s; the next try is in %g s", error, retry_seconds)
                await asyncio.sleep(retry_seconds)
            except Exception:
                self._waiting_for = "the release can't be opened: see the service's log"
                _log.exception("opening the release; the next try is in %g s", retry_seconds)
                await asyncio.sleep(retry_seconds)

    def close(self) -> None:
        """Let go of the router, if it was opened here."""
        close = getattr(self._router, "close", None)
        if self._open and close:
            close()

    def router(self) -> Router:
        """The router, also while the service shuts down.

        Raises:
            ApiError: there is none yet.
        """
        if self._router is None:
            raise ApiError(
                503, "not_ready", f"Not ready: {self._waiting_for}.", {"retry-after": "1"}
            )
        return self._router

    def release(self) -> str | None:
        """The version of the release at work; None without one."""
        return release_version(self._router)

    def cache(self) -> CacheInfo | None:
        """How the router's cache of answers does; None without one."""
        info: CacheInfo | None = getattr(self._router, "cache_info", None)
        return info if info and info.max_size else None

    def check_ready(self) -> None:
        """Nothing, if new queries are welcome.

        Raises:
            ApiError: they are not.
        """
        if self.shutting_down:
            raise ApiError(503, "shutting_down", "Not ready: the service is shutting down.")
        self.router()


def release_version(router: Router | None) -> str | None:
    """The version of a router's release; None for a router without one."""
    release = getattr(router, "release", None)
    return None if release is None else str(release.version)
