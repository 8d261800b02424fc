"""The run's bucket: whole objects in and out, conditional writes, and nothing half-written."""

from __future__ import annotations

import hashlib
import tempfile
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any

from botocore.exceptions import ClientError

from configs.settings import Settings
from data_contracts.runs import StoredFile
from reelroute.aws import AwsAccess, error_code, speaking, whole
from reelroute.errors import RetryableAwsError, StageError

_ABSENT = ("NoSuchKey", "404", "NotFound")
_CONDITION_FAILED = (
    *("PreconditionFailed", "412", "ConditionalRequestConflict", "409"),
    *_ABSENT,
)
#: Bytes of an object that are held at a time where it is not needed whole.
_PIECE = 1 << 20
#: Bytes of a part of an object that is sent in parts, the service's least.
_PART = 5 << 20
#: The metadata under which a conditional write's object tells whose it is.
_MARK = "reelroute-write"


@dataclass(frozen=True, slots=True)
class StoredObject:
    """An object's bytes with the ETag that a conditional write names."""

    data: bytes
    etag: str


def aws_access(settings: Settings) -> AwsAccess:
    """How the profile reaches AWS."""
    from configs.settings import ROOT

    aws = settings.aws
    return AwsAccess(
        region=aws.region,
        endpoint_url=aws.endpoint_url,
        credentials_file=ROOT / aws.credentials_file if aws.credentials_file else None,
        profile=aws.profile,
        connect_timeout_seconds=aws.connect_timeout_seconds,
        read_timeout_seconds=aws.read_timeout_seconds,
        max_attempts=aws.max_attempts,
        max_connections=max(settings.label.concurrency, settings.evaluate.concurrency) + 16,
        bucket_owner=settings.storage.bucket_owner,
    )


class Storage:
    """The profile's bucket. S3 writes an object whole or not at all.

    Every method raises AwsError (RetryableAwsError where a later try may help).
    """

    def __init__(self, settings: Settings, client: Any | None = None) -> None:
        self._settings = settings
        self.bucket = settings.storage.bucket
        self._client = client or aws_access(settings).client("s3")
        self._encryption: dict[str, str] = {"ServerSideEncryption": settings.storage.encryption}
        if settings.storage.kms_key_id:
            self._encryption["SSEKMSKeyId"] = settings.storage.kms_key_id

    def __reduce__(self) -> tuple[type[Storage], tuple[Settings]]:
        # In another process it opens its own connections.
        return Storage, (self._settings,)

    def uri(self, key: str) -> str:
        """The object's `s3://` address."""
        return f"s3://{self.bucket}/{key}"

    def check(self) -> None:
        """Raise unless the bucket is there and may be read."""
        with speaking(f"looking into s3://{self.bucket}"):
            self._client.list_objects_v2(Bucket=self.bucket, MaxKeys=1)

    def get(self, key: str) -> StoredObject | None:
        """An object, or None where there is none."""

        def read() -> StoredObject:
            answer = self._client.get_object(Bucket=self.bucket, Key=key)
            return StoredObject(answer["Body"].read(), answer["ETag"])

        with speaking(f"reading {self.uri(key)}"):
            try:
                return whole(read)
            except ClientError as error:
                if error_code(error) in _ABSENT:
                    return None
                raise

    def put(self, key: str, data: bytes, content_type: str = "application/octet-stream") -> None:
        """Write an object, over an earlier one if there is one."""
        with speaking(f"writing {self.uri(key)}"):
            self._client.put_object(
                Bucket=self.bucket,
                Key=key,
                Body=data,
                ContentType=content_type,
                **_tagging(key),
                **self._encryption,
            )

    def put_new(self, key: str, data: bytes, content_type: str = "application/json") -> bool:
        """Write an object unless there is one already; whether it was written."""
        return self._put_if(key, data, content_type, IfNoneMatch="*")

    def replace(self, key: str, data: bytes, etag: str) -> bool:
        """Write over an object that is still the one with this ETag; whether it was."""
        return self._put_if(key, data, "application/json", IfMatch=etag)

    def _put_if(self, key: str, data: bytes, content_type: str, **condition: str) -> bool:
        # Boto3 tries a write again whose answer was lost, and then meets its own object: the
        # mark tells it from somebody else's.
        mark = uuid.uuid4().hex
        with speaking(f"writing {self.uri(key)}"):
            try:
                self._client.put_object(
                    Bucket=self.bucket,
                    Key=key,
                    Body=data,
                    ContentType=content_type,
                    Metadata={_MARK: mark},
                    **condition,
                    **self._encryption,
                )
            except ClientError as error:
                if error_code(error) in _CONDITION_FAILED:
                    return self._carries(key, mark)
                raise
        return True

    def _carries(self, key: str, mark: str) -> bool:
        """Whether the object is the one that was written with this mark."""
        try:
            head = self._client.head_object(Bucket=self.bucket, Key=key)
        except ClientError as error:
            if error_code(error) in _ABSENT:
                return False
            raise
        return bool(head["Metadata"].get(_MARK) == mark)

    def keys(self, prefix: str) -> Iterator[str]:
        """All keys that start with `prefix`, sorted."""
        yield from (key for key, _ in self.files(prefix))

    def files(self, prefix: str) -> Iterator[tuple[str, datetime]]:
        """All keys that start with `prefix` with the time of their last writing, sorted."""
        with speaking(f"listing {self.uri(prefix)}"):
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self.bucket, Prefix=prefix
            )
            for page in pages:
                yield from ((e["Key"], e["LastModified"]) for e in page.get("Contents", ()))

    def download(self, key: str, path: Path) -> None:
        """Write an object of any size to a file of this machine, piece by piece.

        Raises:
            StageError: there is none.
        """
        from boto3.exceptions import Boto3Error

        with speaking(f"reading {self.uri(key)}"):
            try:
                self._client.download_file(self.bucket, key, str(path))
            except ClientError as error:
                if error_code(error) in _ABSENT:
                    raise StageError(f"{self.uri(key)} is gone") from None
                raise
            except Boto3Error as error:
                raise RetryableAwsError(f"reading {self.uri(key)}: {error}. Run again") from error

    def folders(self, prefix: str) -> list[str]:
        """The names of the folders directly below `prefix` (which ends in a slash)."""
        with speaking(f"listing {self.uri(prefix)}"):
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self.bucket, Prefix=prefix, Delimiter="/"
            )
            return [
                entry["Prefix"][len(prefix) : -1]
                for page in pages
                for entry in page.get("CommonPrefixes", ())
            ]

    def delete(self, keys: Iterable[str]) -> None:
        """Remove objects; those that are not there don't matter."""
        left = iter(keys)
        while batch := [{"Key": key} for key in islice(left, 1000)]:
            with speaking(f"deleting {len(batch)} objects of s3://{self.bucket}"):
                self._client.delete_objects(Bucket=self.bucket, Delete={"Objects": batch})

    def put_file(self, key: str, data: bytes, content_type: str) -> StoredFile:
        """Write an object and read it back, unless the same content is there already.

        Raises:
            StageError: what was read back is not what was written.
        """
        file = StoredFile(key=key, sha256=hashlib.sha256(data).hexdigest(), bytes=len(data))
        if not self.verify(file):
            self.put(key, data, content_type)
            if not self.verify(file):
                raise StageError(f"{self.uri(key)} reads back other bytes than were written")
        return file

    def put_pieces(self, key: str, pieces: Iterable[bytes], content_type: str) -> StoredFile:
        """Write an object of any size, piece by piece, and read it back as `put_file` does.

        Raises:
            StageError: what was read back is not what was written.
        """
        from boto3.s3.transfer import TransferConfig

        digest, size = hashlib.sha256(), 0
        with tempfile.NamedTemporaryFile(prefix="reelroute-") as local:
            for piece in pieces:
                local.write(piece)
                digest.update(piece)
                size += len(piece)
            local.flush()
            file = StoredFile(key=key, sha256=digest.hexdigest(), bytes=size)
            if not self.verify(file):
                with speaking(f"writing {self.uri(key)}"), open(local.name, "rb") as whole_file:
                    self._client.upload_fileobj(
                        whole_file,
                        self.bucket,
                        key,
                        ExtraArgs={
                            "ContentType": content_type,
                            **self._encryption,
                            **_tagging(key),
                        },
                        Config=TransferConfig(use_threads=False, multipart_chunksize=_PART),
                    )
                if not self.verify(file):
                    raise StageError(f"{self.uri(key)} reads back other bytes than were written")
        return file

    def verify(self, file: StoredFile) -> bool:
        """Whether the file is there with its bytes."""

        def digest() -> str:
            answer = self._client.get_object(Bucket=self.bucket, Key=file.key)
            found = hashlib.sha256()
            for piece in answer["Body"].iter_chunks(_PIECE):
                found.update(piece)
            return found.hexdigest()

        with speaking(f"reading {self.uri(file.key)}"):
            try:
                return whole(digest) == file.sha256
            except ClientError as error:
                if error_code(error) in _ABSENT:
                    return False
                raise

    def read(self, file: StoredFile) -> bytes:
        """A recorded file's bytes.

        Raises:
            StageError: it is gone or has other bytes.
        """
        stored = self.get(file.key)
        if stored is None:
            raise StageError(f"{self.uri(file.key)} is gone; run its stage again with --force")
        if hashlib.sha256(stored.data).hexdigest() != file.sha256:
            raise StageError(
                f"{self.uri(file.key)} is not the file that its stage recorded (hash differs); "
                "run its stage again with --force"
            )
        return stored.data


def _tagging(key: str) -> dict[str, str]:
    """The tag by which the bucket's lifecycle finds what was put into quarantine."""
    return {"Tagging": "kind=quarantine"} if "/quarantine/" in key else {}
