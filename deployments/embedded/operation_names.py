"""What the call log names a request that moto answers."""

from __future__ import annotations

from typing import Final
from urllib.parse import parse_qs

_OBJECT: Final = {
    "GET": "GetObject",
    "HEAD": "HeadObject",
    "PUT": "PutObject",
    "DELETE": "DeleteObject",
}
_BUCKET: Final = {
    "GET": "ListObjects",
    "HEAD": "HeadBucket",
    "PUT": "CreateBucket",
    "DELETE": "DeleteBucket",
}
#: Query parameters that say what is done to a bucket or an object.
_SUBRESOURCES: Final = (
    "acl",
    "cors",
    "delete",
    "encryption",
    "lifecycle",
    "location",
    "policy",
    "publicAccessBlock",
    "tagging",
    "uploadId",
    "uploads",
    "versioning",
    "versions",
)


def s3_operation(method: str, path: str, query_string: str, *, copies: bool) -> str:
    """The S3 operation's name; where a subresource is meant, the method and its name.

    Args:
        method: the HTTP method.
        path: `/bucket` or `/bucket/key`.
        query_string: without the question mark.
        copies: whether the request names a source to copy from.
    """
    query = parse_qs(query_string, keep_blank_values=True)
    for name in _SUBRESOURCES:
        if (method, name) == ("POST", "delete") and name in query:
            return "DeleteObjects"
        if name in query:
            return f"{method} ?{name}"
    bucket, _, key = path.lstrip("/").partition("/")
    if key:
        return "CopyObject" if copies and method == "PUT" else _OBJECT.get(method, method)
    if not bucket:
        return "ListBuckets"
    return "ListObjectsV2" if "list-type" in query else _BUCKET.get(method, method)


def target_operation(target: str) -> str:
    """The operation in an `X-Amz-Target` header, as JSON services send it."""
    return target.rsplit(".", 1)[-1]
