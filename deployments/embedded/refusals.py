"""How AWS says no, in each service's own words."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Final

_XML: Final = '<?xml version="1.0" encoding="UTF-8"?>\n'


@dataclass(frozen=True, slots=True)
class Refusal:
    """A refused request's answer.

    Attributes:
        status: the HTTP status.
        content_type: of the body.
        body: XML or JSON.
        error: the error's code; of JSON services it goes into a header.
    """

    status: int
    content_type: str
    body: bytes
    error: str


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a request is refused, as the three protocols say it: status and code each."""

    message: str
    json: tuple[int, str]
    s3: tuple[int, str]
    query: tuple[int, str]


UNSIGNED: Final = Reason(
    "Missing Authentication Token",
    json=(403, "MissingAuthenticationTokenException"),
    s3=(403, "AccessDenied"),
    query=(403, "MissingAuthenticationToken"),
)
UNKNOWN_KEY: Final = Reason(
    "The security token included in the request is invalid.",
    json=(403, "UnrecognizedClientException"),
    s3=(403, "InvalidAccessKeyId"),
    query=(403, "InvalidClientTokenId"),
)
EXPIRED: Final = Reason(
    "The security token included in the request is expired",
    json=(403, "ExpiredTokenException"),
    s3=(400, "ExpiredToken"),
    query=(403, "ExpiredToken"),
)
NO_ACCESS_TO_MODEL: Final = Reason(
    "You don't have access to the model with the specified model ID.",
    json=(403, "AccessDeniedException"),
    s3=(403, "AccessDenied"),
    query=(403, "AccessDenied"),
)
THROTTLED: Final = Reason(
    "Too many requests, please wait before trying again.",
    json=(429, "ThrottlingException"),
    s3=(503, "SlowDown"),
    query=(400, "Throttling"),
)
SERVER_ERROR: Final = Reason(
    "We encountered an internal error. Please try again.",
    json=(500, "InternalServerException"),
    s3=(500, "InternalError"),
    query=(500, "InternalFailure"),
)


def refuse(reason: Reason, service: str, content_type: str) -> Refusal:
    """The refusal in the service's own protocol.

    Args:
        reason: why.
        service: as the request's signature names it.
        content_type: of the request.
    """
    message = reason.message
    if service == "s3":
        status, code = reason.s3
        body = f"{_XML}<Error><Code>{code}</Code><Message>{message}</Message></Error>"
        return Refusal(status, "application/xml", body.encode(), code)
    if content_type.startswith("application/x-www-form-urlencoded"):
        status, code = reason.query
        body = (
            f"<ErrorResponse><Error><Type>Sender</Type><Code>{code}</Code>"
            f"<Message>{message}</Message></Error></ErrorResponse>"
        )
        return Refusal(status, "text/xml", body.encode(), code)
    status, code = reason.json
    return Refusal(status, "application/json", json.dumps({"message": message}).encode(), code)
