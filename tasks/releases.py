"""Releases in the bucket: read, written once, and the pointer that moves conditionally."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from configs.settings import Settings
from reelroute.errors import ReleaseError
from reelroute.release import (
    POINTER_NAME,
    Release,
    ReleasePointer,
    ReleaseRef,
    read_pointer,
    read_release,
    sha256,
)
from tasks.runs import Run
from tasks.storage import Storage

RELEASES_PREFIX = "releases/"
POINTER_KEY = f"{RELEASES_PREFIX}{POINTER_NAME}"
#: How many releases back the pointer remembers.
MAX_HISTORY = 50


@dataclass(frozen=True, slots=True)
class CurrentPointer:
    """The pointer with the ETag that a conditional write names."""

    pointer: ReleasePointer
    etag: str


def current_pointer(storage: Storage) -> CurrentPointer | None:
    """The release pointer, or None before the first release.

    Raises:
        ReleaseError: the pointer's file is not a pointer.
    """
    stored = storage.get(POINTER_KEY)
    if stored is None:
        return None
    return CurrentPointer(read_pointer(stored.data, storage.uri(POINTER_KEY)), stored.etag)


def load_release(storage: Storage, ref: ReleaseRef) -> Release:
    """A release, verified against the hash that the pointer has of it.

    Raises:
        ReleaseError: it is gone or other bytes than the pointer names.
    """
    key = _key(ref.version)
    stored = storage.get(key)
    if stored is None:
        raise ReleaseError(f"release {ref.version} is gone from {storage.uri(key)}")
    return read_release(stored.data, ref, storage.uri(key))


def release_before(run: Run) -> Release | None:
    """The release that a run's model is to replace.

    That is the current one or, where the current one is the run's own already, the one before.
    """
    current = current_pointer(run.storage)
    if current is None:
        return None
    for ref in (current.pointer, *current.pointer.history):
        release = load_release(run.storage, ref)
        if release.run_id != run.run_id:
            return release
    return None


def release_to_replace(_settings: Settings, run: Run) -> dict[str, str]:
    """The release that a run's model is to replace, as an input of its evaluation."""
    release = release_before(run)
    return {"current release": release.version if release else "none"}


def write_release(storage: Storage, release: Release) -> ReleaseRef:
    """Write a release, once; the same release may be written again.

    Raises:
        ReleaseError: another release has this version.
    """
    data = release.to_bytes()
    ref = ReleaseRef(version=release.version, sha256=sha256(data))
    if not storage.put_new(_key(release.version), data):
        load_release(storage, ref)
    return ref


def move_pointer(
    storage: Storage,
    current: CurrentPointer | None,
    to: ReleaseRef,
    action: Literal["promote", "rollback"],
) -> ReleasePointer:
    """Move the pointer, provided that it is still where it was read.

    Raises:
        ReleaseError: somebody else has moved it meanwhile.
    """
    before = current.pointer if current else None
    if before is None:
        history: tuple[ReleaseRef, ...] = ()
    elif action == "rollback":
        position = [ref.version for ref in before.history].index(to.version)
        history = before.history[position + 1 :]
    else:
        old = ReleaseRef(version=before.version, sha256=before.sha256)
        history = (old, *before.history)[:MAX_HISTORY]
    pointer = ReleasePointer(
        version=to.version,
        sha256=to.sha256,
        serial=before.serial + 1 if before else 1,
        moved_at=datetime.now(UTC),
        action=action,
        history=history,
    )
    data = pointer.to_bytes()
    moved = (
        storage.replace(POINTER_KEY, data, current.etag)
        if current
        else storage.put_new(POINTER_KEY, data)
    )
    if not moved:
        raise ReleaseError(
            f"{storage.uri(POINTER_KEY)} was moved by somebody else meanwhile; nothing was "
            "changed. Look at `reelroute runs list` and try again"
        )
    return pointer


def _key(version: str) -> str:
    return f"{RELEASES_PREFIX}{version}.json"
