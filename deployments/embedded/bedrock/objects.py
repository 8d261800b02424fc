"""The service's own way to the caller's S3 objects: moto's store, without a request."""

from __future__ import annotations

from typing import Final
from urllib.parse import urlsplit

from moto.core import DEFAULT_ACCOUNT_ID
from moto.s3.exceptions import MissingBucket
from moto.s3.models import S3Backend, s3_backends

ACCOUNT: Final = DEFAULT_ACCOUNT_ID


class ObjectMissing(Exception):
    """A bucket or object that a job names isn't there; the text says which."""


def split_uri(uri: str) -> tuple[str, str]:
    """Bucket and key of an `s3://` URI."""
    parts = urlsplit(uri)
    return parts.netloc, parts.path.lstrip("/")


def read(uri: str) -> bytes:
    """An object's bytes.

    Raises:
        ObjectMissing: no such bucket or object.
    """
    bucket, key = split_uri(uri)
    try:
        found = _store().get_object(bucket, key)
    except MissingBucket as error:
        raise ObjectMissing(f"The bucket of {uri} does not exist.") from error
    if found is None or not hasattr(found, "value"):
        raise ObjectMissing(f"The object {uri} does not exist.")
    return bytes(found.value)


def keys(uri: str) -> list[str]:
    """The URIs of all objects under an `s3://` prefix, sorted.

    Raises:
        ObjectMissing: no such bucket.
    """
    bucket, prefix = split_uri(uri)
    try:
        found = _store().get_bucket(bucket).keys.values()
    except MissingBucket as error:
        raise ObjectMissing(f"The bucket of {uri} does not exist.") from error
    return sorted(f"s3://{bucket}/{key.name}" for key in found if key.name.startswith(prefix))


def write(prefix: str, name: str, content: bytes) -> None:
    """Put an object under an `s3://` prefix.

    Raises:
        ObjectMissing: no such bucket.
    """
    bucket, key = split_uri(prefix)
    full_key = f"{key.rstrip('/')}/{name}".lstrip("/")
    try:
        _store().put_object(bucket, full_key, content)
    except MissingBucket as error:
        raise ObjectMissing(f"The bucket of {prefix} does not exist.") from error


def _store() -> S3Backend:
    backend: S3Backend = s3_backends[ACCOUNT]["aws"]
    return backend
