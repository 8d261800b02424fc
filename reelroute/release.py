"""Releases: what search applications route with, and the one pointer that says which is current.

`releases/<version>.json` is immutable. `releases/current.json` is the pointer; it names a
release with the hash of its file and moves by a conditional write.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from reelroute.aws import AwsAccess, error_code, speaking
from reelroute.errors import ReleaseError
from reelroute.problems import first_problem

POINTER_NAME: Final = "current.json"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Prompt(_Frozen):
    """The router prompt: a student must be asked exactly as it was trained."""

    text: str = Field(min_length=1)
    sha256: str

    @classmethod
    def of(cls, text: str) -> Prompt:
        """A prompt with its hash."""
        return cls(text=text, sha256=sha256(text.encode()))


class BedrockModel(_Frozen):
    """A distilled student behind an on-demand deployment.

    Attributes:
        fingerprint: hash of all that the training depended on (data, teacher, student,
            hyperparameters); two runs with the same fingerprint have the same model.
        region: where the deployment lives.
        max_tokens: the answer's limit when it is asked.
    """

    deployment_arn: str = Field(min_length=1)
    model_arn: str = Field(min_length=1)
    fingerprint: str
    region: str
    max_tokens: int = Field(gt=0)


class Release(_Frozen):
    """An immutable release.

    Attributes:
        version: its name, unique in the environment.
        evaluation: the scores that let it through the gate.
    """

    version: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")
    run_id: str
    created_at: datetime
    prompt: Prompt
    bedrock: BedrockModel
    evaluation: dict[str, Any] = {}

    def to_bytes(self) -> bytes:
        """The release's file."""
        return (self.model_dump_json(indent=2) + "\n").encode()


class ReleaseRef(_Frozen):
    """A release by its name and the hash of its file's bytes."""

    version: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")
    sha256: str


class ReleasePointer(ReleaseRef):
    """The one switch.

    Attributes:
        serial: goes up by one with every move: after a rollback the pointer's text, and so its
            ETag, would otherwise repeat.
        history: the releases before, newest first, for rollback.
    """

    serial: int = Field(ge=1)
    moved_at: datetime
    action: Literal["promote", "rollback"]
    history: tuple[ReleaseRef, ...] = ()

    def to_bytes(self) -> bytes:
        """The pointer's file."""
        return (self.model_dump_json(indent=2) + "\n").encode()


def sha256(data: bytes) -> str:
    """Hex SHA-256."""
    return hashlib.sha256(data).hexdigest()


def read_pointer(data: bytes, source: str) -> ReleasePointer:
    """The pointer from its file's bytes.

    Raises:
        ReleaseError: not a pointer.
    """
    try:
        return ReleasePointer.model_validate_json(data)
    except ValidationError as error:
        raise ReleaseError(f"{source} is not a release pointer: {first_problem(error)}") from error


def read_release(data: bytes, pointer: ReleaseRef, source: str) -> Release:
    """The release that a pointer names, from its file's bytes.

    Raises:
        ReleaseError: the bytes are not those that the pointer names, or not a release.
    """
    if sha256(data) != pointer.sha256:
        raise ReleaseError(
            f"{source} is not the file that the release pointer names (hash differs)"
        )
    try:
        release = Release.model_validate_json(data)
    except ValidationError as error:
        raise ReleaseError(f"{source} is not a release: {first_problem(error)}") from error
    if release.version != pointer.version:
        raise ReleaseError(f"{source} holds {release.version!r}, not {pointer.version!r}")
    return release


def open_release(uri: str, access: AwsAccess, known: Release | None = None) -> Release:
    """The release that a pointer names, verified.

    Args:
        uri: `s3://bucket/…/current.json`, or the path of a pointer file; the release's file
            lies beside it.
        access: how AWS is reached.
        known: a release opened before; where the pointer still names it, it is returned itself.

    Raises:
        ReleaseError: pointer or release are missing or fail their check.
        AwsError: AWS can't be reached.
    """
    read = _reader(uri, access)
    pointer = read_pointer(read(uri), uri)
    if known is not None and pointer.sha256 == sha256(known.to_bytes()):
        return known
    place = f"{uri.rpartition('/')[0]}/{pointer.version}.json"
    return read_release(read(place), pointer, place)


def _reader(uri: str, access: AwsAccess) -> Callable[[str], bytes]:
    if not uri.startswith("s3://"):
        return _read_file
    client = access.client("s3")

    def read(place: str) -> bytes:
        bucket, _, key = place.removeprefix("s3://").partition("/")
        with speaking(f"reading {place}"):
            try:
                data: bytes = client.get_object(Bucket=bucket, Key=key)["Body"].read()
            except client.exceptions.ClientError as error:
                if error_code(error) == "NoSuchKey":
                    raise ReleaseError(f"{place} doesn't exist: no release yet?") from None
                raise
        return data

    return read


def _read_file(place: str) -> bytes:
    try:
        return Path(place).resolve().read_bytes()
    except OSError as error:
        raise ReleaseError(f"{place} can't be read: {error.strerror}") from None
