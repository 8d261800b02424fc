"""Releases: what search applications route with, and the one pointer that says which is current.

`releases/<version>.json` is immutable; the files of its local model lie in `releases/models/`.
`releases/current.json` is the pointer; it names a release with the hash of its file and moves
by a conditional write.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import shutil
import threading
import time
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from reelroute.aws import AwsAccess, error_code, speaking, whole
from reelroute.errors import ReleaseError
from reelroute.problems import first_problem

_log = logging.getLogger("reelroute")

POINTER_NAME: Final = "current.json"
#: Models of so many releases are kept on this machine: a rollback needs no download.
KEPT_MODELS: Final = 5
#: A model used within so many seconds is never removed: another process may have verified its
#: files and be about to load them.
_IN_USE_SECONDS: Final = 3_600.0
#: How the folder of a model is named: nothing else in the cache is touched.
_MODEL_FOLDER: Final = re.compile(r"[0-9a-f]{64}")


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


class ModelFile(_Frozen):
    """A file of a local model's folder."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    bytes: int = Field(ge=0)


class LocalModel(_Frozen):
    """A local student; its files lie beside the release, in `models/<fingerprint>/`.

    Attributes:
        fingerprint: hash of all that the training depended on.
    """

    fingerprint: str = Field(pattern=r"^[0-9a-f]{64}$")
    files: tuple[ModelFile, ...] = Field(min_length=1)

    def place(self, name: str) -> str:
        """Where a file lies, relative to the release's folder."""
        return f"models/{self.fingerprint}/{name}"


RouterKind = Literal["bedrock", "local", "cascade"]


class Release(_Frozen):
    """An immutable release.

    Attributes:
        version: its name, unique in the environment.
        router: who answers: the student in Bedrock, the local student, or a cascade of the
            local one and, where its confidence is low, the one in Bedrock.
        pass_on_above: the cascade's threshold: a local answer whose expected error (0 to 1) lies
            above it is left to Bedrock.
        evaluation: the scores that let it through the gate.
    """

    version: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")
    run_id: str
    created_at: datetime
    router: RouterKind
    prompt: Prompt
    bedrock: BedrockModel | None = None
    local: LocalModel | None = None
    pass_on_above: float | None = Field(default=None, ge=0, le=1)
    evaluation: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _has_its_models(self) -> Release:
        needed = {
            "bedrock": ("bedrock",),
            "local": ("local",),
            "cascade": ("bedrock", "local", "pass_on_above"),
        }[self.router]
        missing = [name for name in needed if getattr(self, name) is None]
        if missing:
            raise ValueError(f"a {self.router} release needs {', '.join(missing)}")
        return self

    @property
    def identity(self) -> str:
        """Hash of what answers: two releases with the same identity route alike."""
        same = self.model_dump_json(include={"router", "prompt", "local", "pass_on_above"})
        behind = self.bedrock.model_dump_json() if self.bedrock else ""
        return sha256((same + behind).encode())

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


def open_release(uri: str, read: Reader) -> Release:
    """The release that a pointer names, verified.

    Args:
        uri: `s3://bucket/…/current.json`, or the path of a pointer file; the release's file
            lies beside it.
        read: reads the files.

    Raises:
        ReleaseError: pointer or release are missing or fail their check.
        AwsError: AWS can't be reached.
    """
    pointer = read_pointer(read(uri), uri)
    place = beside(uri, f"{pointer.version}.json")
    return read_release(read(place), pointer, place)


def fetch_model(local: LocalModel, uri: str, read: Reader, cache: Path) -> Path:
    """The folder of a release's local model on this machine, every file verified.

    A model that had to be fetched takes the place of the one that was used longest ago: the
    `KEPT_MODELS` used last stay, and all that were used within the last hour.

    Args:
        local: the model.
        uri: the release pointer's; the files lie beside it.
        read: reads the files.
        cache: where fetched models are kept, a folder each.

    Raises:
        ReleaseError: a file is missing or other bytes than the release names.
        AwsError: AWS can't be reached.
    """
    folder = cache / local.fingerprint
    _touch(folder)  # from here on other processes leave it alone
    fetched = False
    for file in local.files:
        target = folder / file.name
        if target.is_file() and sha256(target.read_bytes()) == file.sha256:
            continue
        place = beside(uri, local.place(file.name))
        data = read(place)
        if sha256(data) != file.sha256:
            raise ReleaseError(f"{place} is not the file that the release names (hash differs)")
        folder.mkdir(parents=True, exist_ok=True)
        partial = folder / f".{file.name}.{os.getpid()}.{threading.get_ident()}"
        partial.write_bytes(data)
        partial.replace(target)
        fetched = True
    if fetched:
        _remove_unused(cache, folder)
    return folder


def _touch(folder: Path) -> None:
    """Note that a model is used: its folder's modification time is when it last was."""
    try:
        os.utime(folder)
    except OSError as error:  # not there yet, or a cache that is only read
        _log.debug("%s can't be marked as used: %s", folder, error)


def _remove_unused(cache: Path, fetched: Path) -> None:
    """Remove the models that were used longest ago; whatever can't be removed stays."""
    try:
        used = [
            (folder.stat().st_mtime, folder)
            for folder in cache.iterdir()
            if folder != fetched
            and _MODEL_FOLDER.fullmatch(folder.name)
            and folder.is_dir()
            and not folder.is_symlink()
        ]
    except OSError as error:
        _log.debug("%s can't be cleaned up: %s", cache, error)
        return
    for _, folder in sorted(used, reverse=True)[KEPT_MODELS - 1 :]:
        try:
            # Looked at anew: it may have come into use since.
            if time.time() - folder.stat().st_mtime > _IN_USE_SECONDS:
                shutil.rmtree(folder)
        except OSError as error:
            _log.debug("%s can't be removed: %s", folder, error)


def beside(uri: str, name: str) -> str:
    """The place of a file in the folder of another."""
    folder, slash, _ = uri.rpartition("/")
    return f"{folder}{slash}{name}"


class Reader:
    """Reads whole files from S3 or from this machine, by `s3://` address or path."""

    def __init__(self, access: AwsAccess) -> None:
        self._access = access
        self._s3: Any = None

    def __call__(self, place: str) -> bytes:
        """The bytes of a file.

        Raises:
            ReleaseError: there is none.
            AwsError: AWS can't be reached.
        """
        return self._from_s3(place) if place.startswith("s3://") else self._from_disk(place)

    def _from_s3(self, place: str) -> bytes:
        self._s3 = self._s3 or self._access.client("s3")
        bucket, _, key = place.removeprefix("s3://").partition("/")
        with speaking(f"reading {place}"):
            try:
                data: bytes = whole(
                    lambda: self._s3.get_object(Bucket=bucket, Key=key)["Body"].read()
                )
            except self._s3.exceptions.ClientError as error:
                if error_code(error) == "NoSuchKey":
                    raise ReleaseError(f"{place} doesn't exist: no release yet?") from None
                if error_code(error) == "AccessDenied" and place.endswith(POINTER_NAME):
                    # So S3 answers for what is not there, too, whoever may not list the bucket.
                    raise ReleaseError(
                        f"{place} doesn't exist (no release yet?), or the role in use may not "
                        "read it: it needs s3:GetObject on releases/*"
                    ) from None
                raise
        return data

    @staticmethod
    def _from_disk(place: str) -> bytes:
        try:
            return Path(place).read_bytes()
        except OSError as error:
            raise ReleaseError(f"{place} can't be read: {error.strerror}") from None
