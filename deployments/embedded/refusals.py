"""How AWS refuses a request whose keys it doesn't know, in each service's own words."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Final

_XML: Final = '<?xml version="1.0" encoding="UTF-8"?>\n'
STATUS: Final = 403


@dataclass(frozen=True, slots=True)
class Refusal:
    """A refused request's answer.

    Attributes:
        content_type: of the body.
        body: XML or JSON.
        error: the error's code; of JSON services it goes into a header.
    """

    content_type: str
    body: bytes
    error: str


def unknown_key(service: str, content_type: str, key_id: str) -> Refusal:
    """The access key id isn't known."""
    if service == "s3":
        return _s3(
            "InvalidAccessKeyId",
            "The AWS Access Key Id you provided does not exist in our records.",
            f"<AWSAccessKeyId>{key_id}</AWSAccessKeyId>",
        )
    message = "The security token included in the request is invalid."
    if _is_query(content_type):
        return _query("InvalidClientTokenId", message)
    return _json("UnrecognizedClientException", message)


def unsigned(service: str, content_type: str) -> Refusal:
    """The request carries no signature."""
    if _is_query(content_type):
        return _query("MissingAuthenticationToken", "Request is missing Authentication Token")
    if service == "s3":
        return _s3("AccessDenied", "Access Denied", "")
    return _json("MissingAuthenticationTokenException", "Missing Authentication Token")


def _is_query(content_type: str) -> bool:
    return content_type.startswith("application/x-www-form-urlencoded")


def _s3(code: str, message: str, detail: str) -> Refusal:
    body = f"{_XML}<Error><Code>{code}</Code><Message>{message}</Message>{detail}</Error>"
    return Refusal("application/xml", body.encode(), code)


def _query(code: str, message: str) -> Refusal:
    body = (
        f"<ErrorResponse><Error><Type>Sender</Type><Code>{code}</Code>"
        f"<Message>{message}</Message></Error></ErrorResponse>"
    )
    return Refusal("text/xml", body.encode(), code)


def _json(code: str, message: str) -> Refusal:
    return Refusal("application/json", json.dumps({"message": message}).encode(), code)
