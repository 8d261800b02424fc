"""How a fault strikes a call at the door: before it takes effect, after it, or on the way back."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from deployments.embedded import faults, refusals
from deployments.embedded.bedrock.errors import STATUS
from deployments.embedded.faults import Hit

Headers = list[tuple[str, str]]

#: What an error says that was injected.
INJECTED: Final = "The service says so: an injected fault."


class ConnectionDropped(ConnectionError):
    """The connection is to be closed without an answer."""


@dataclass(frozen=True, slots=True)
class Response:
    """What goes back to the caller.

    Attributes:
        status: the HTTP status.
        headers: with the content length.
        body: empty for HEAD.
        breaks_off_after: the bytes of the body after which the connection is dropped, or None.
    """

    status: int
    headers: Headers
    body: bytes
    breaks_off_after: int | None = None


@dataclass(frozen=True, slots=True)
class Struck:
    """A call that is hit.

    Attributes:
        hit: by what.
        service: whose call.
        content_type: of the request.
        answer: lets the call take effect and gives its answer.
    """

    hit: Hit
    service: str
    content_type: str
    answer: Callable[[], Response]

    def refused(self, reason: refusals.Reason) -> Response:
        """An error in the service's words, in place of an answer."""
        return refusal_response(refusals.refuse(reason, self.service, self.content_type))


def refusal_response(refusal: refusals.Refusal) -> Response:
    """A refusal as it goes over the wire."""
    headers = [
        ("Content-Type", refusal.content_type),
        ("Content-Length", str(len(refusal.body))),
        ("x-amzn-errortype", refusal.error),
    ]
    return Response(refusal.status, headers, refusal.body)


def _refused(reason: refusals.Reason) -> Callable[[Struck], Response]:
    return lambda struck: struck.refused(reason)


def _service_error(struck: Struck) -> Response:
    code = struck.hit.fault.style
    status = {**STATUS, **faults.S3_STATUS}[code]
    answer = (status, code)
    return struck.refused(refusals.Reason(INJECTED, json=answer, s3=answer, query=answer))


def _server_error_after(struck: Struck) -> Response:
    struck.answer()
    return struck.refused(refusals.SERVER_ERROR)


def _dropped(struck: Struck) -> Response:
    raise ConnectionDropped


def _dropped_after(struck: Struck) -> Response:
    struck.answer()
    raise ConnectionDropped


def _cut_off(struck: Struck) -> Response:
    response = struck.answer()
    return replace(response, breaks_off_after=len(response.body) // 2)


def _broken_json(struck: Struck) -> Response:
    response = struck.answer()
    body = response.body[: len(response.body) // 2]
    kept = [(name, value) for name, value in response.headers if name.lower() != "content-length"]
    return replace(response, headers=[*kept, ("Content-Length", str(len(body)))], body=body)


def _slow(struck: Struck) -> Response:
    time.sleep(struck.hit.fault.seconds)
    return struck.answer()


#: How the kinds that strike at the door do so; of several that hit a call the first counts.
STRIKES: Final[dict[str, Callable[[Struck], Response]]] = {
    faults.WRONG_CREDENTIALS: _refused(refusals.UNKNOWN_KEY),
    faults.EXPIRED_CREDENTIALS: _refused(refusals.EXPIRED),
    faults.DENIED_MODELS: _refused(refusals.NO_ACCESS_TO_MODEL),
    faults.THROTTLING: _refused(refusals.THROTTLED),
    faults.SERVER_ERROR: _refused(refusals.SERVER_ERROR),
    faults.SERVICE_ERROR: _service_error,
    faults.SERVER_ERROR_AFTER: _server_error_after,
    faults.DROPPED: _dropped,
    faults.DROPPED_AFTER: _dropped_after,
    faults.CUT_OFF: _cut_off,
    faults.BROKEN_JSON: _broken_json,
    faults.SLOW: _slow,
}
