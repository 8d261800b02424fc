"""`reelroute serve`: the service of a release."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from functools import partial
from typing import Final

from reelroute.aws import AwsAccess
from reelroute.errors import RetryableAwsError
from reelroute.release import Reader, open_release
from reelroute.routers import Router
from reelroute.service.server import serve
from reelroute.service.settings import ServiceSettings

#: Seconds that AWS gets at least to send the next bytes of a model's file.
_LEAST_TIMEOUT: Final = 5.0


def serve_release(uri: str, access: AwsAccess, settings: ServiceSettings) -> None:
    """Serve a release, and those that follow it, until SIGTERM or SIGINT.

    While AWS can't be reached the service runs, is not ready, and tries again.

    Args:
        uri: the release pointer, as for `Router.from_release`.
        access: how AWS is reached.
        settings: the service's settings.

    Raises:
        ReleaseError: pointer or release are missing or fail their check.
        AwsError: AWS refuses for good.
        ReelRouteError: the address can't be listened on, or a worker died.
    """
    deadline = settings.deadline_ms / 1000
    if deadline:
        # An answer after the deadline is thrown away: no call should outlive it by much.
        timeout = min(access.read_timeout_seconds, max(deadline, _LEAST_TIMEOUT))
        access = replace(
            access, connect_timeout_seconds=timeout, read_timeout_seconds=timeout, max_attempts=2
        )
    with contextlib.suppress(RetryableAwsError):
        open_release(uri, Reader(access))
    serve(
        partial(
            Router.from_release,
            uri,
            access,
            follow_seconds=settings.follow_seconds or None,
            deadline_ms=settings.deadline_ms or None,
            cache_size=settings.cache_size,
        ),
        settings,
    )
