"""The one pair of keys that the embedded AWS knows."""

from __future__ import annotations

import os
import re
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import parse_qs

PROFILE: Final = "embedded"
REGION: Final = "us-east-1"
_SCOPE: Final = re.compile(r"Credential=([^/,\s]+)/\d{8}/([^/]+)/([^/]+)/aws4_request")


@dataclass(frozen=True, slots=True)
class Credentials:
    """Access key id and secret."""

    key_id: str
    secret: str

    @classmethod
    def fresh(cls) -> Credentials:
        """A random pair; its id can't be taken for one of AWS's."""
        return cls(f"EMBEDDED{secrets.token_hex(6).upper()}", secrets.token_urlsafe(30))

    def write(self, path: Path) -> None:
        """Write an AWS shared-credentials file that only its owner can read."""
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_name(f"{path.name}.new")
        handle = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(
                f"[{PROFILE}]\n"
                f"aws_access_key_id = {self.key_id}\n"
                f"aws_secret_access_key = {self.secret}\n"
                f"region = {REGION}\n"
            )
        new.replace(path)


@dataclass(frozen=True, slots=True)
class Signature:
    """Who signed a request, for which region and service."""

    key_id: str
    region: str
    service: str


def signature(authorization: str, query_string: str) -> Signature | None:
    """The signature in a request's header or, of a presigned URL, in its query string.

    The signature's own digits are not verified: who knows the key id is let in.
    """
    found = _SCOPE.search(authorization)
    if found is None and "X-Amz-Credential" in query_string:
        scope = parse_qs(query_string).get("X-Amz-Credential", [""])[0]
        found = _SCOPE.search(f"Credential={scope}")
    elif found is None and "AWSAccessKeyId" in query_string:  # S3's older way to presign
        key_id = parse_qs(query_string).get("AWSAccessKeyId", [""])[0]
        return Signature(key_id, REGION, "s3")
    return Signature(found[1], found[2], found[3]) if found else None
