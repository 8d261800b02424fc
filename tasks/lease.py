"""The lease of an environment: one pipeline run at a time, whoever started it.

It is an object in the bucket that changes by conditional writes alone. Its holder renews it in
the background; it may be taken by another once it was freed, has expired, or its holder's
process, where that can be seen from here, is gone. Holders' clocks must agree to within a third
of the lease's length.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import psutil
from pydantic import ValidationError

from data_contracts.leases import LeaseRecord, lease_key
from reelroute.errors import AwsError, StageError
from reelroute.problems import first_problem
from tasks.base import logger
from tasks.storage import Storage

#: Two readings of one process's start may differ by rounding, in seconds.
_SAME_START = 1.0
#: How often a write that another one came before is tried again at once.
_TRIES = 5


class Lease:
    """One run's hold on an environment, or its attempts to get it.

    Args:
        seconds: how long the lease holds without being renewed; it is renewed every third of it.
    """

    def __init__(
        self,
        storage: Storage,
        environment: str,
        run_id: str,
        flow_run_id: str | None = None,
        seconds: float = 120,
    ) -> None:
        self._storage = storage
        self._key = lease_key(environment)
        self._length = timedelta(seconds=seconds)
        self._renewed_at = datetime.min.replace(tzinfo=UTC)
        self._lost: str | None = None
        now = datetime.now(UTC)
        self._mine = LeaseRecord(
            environment=environment,
            token=uuid4().hex,
            run_id=run_id,
            flow_run_id=flow_run_id,
            host=socket.gethostname(),
            pid=os.getpid(),
            process_started=psutil.Process().create_time(),
            serial=1,
            taken_at=now,
            expires_at=now,
        )

    def take(self) -> LeaseRecord | None:
        """Take the lease if it is free: None then, else the record of who holds it.

        Raises:
            StageError: what lies there is not a lease.
            AwsError: the bucket can't be reached.
        """
        holder: LeaseRecord | None = None
        for _ in range(_TRIES):
            stored = self._storage.get(self._key)
            holder = _parse(stored.data, self._storage.uri(self._key)) if stored else None
            if holder and self._is_mine(holder) and holder.freed_at is None:
                self._renewed_at = datetime.now(UTC)  # the answer to the write was lost
                return None
            if holder and not is_over(holder):
                return holder
            if self._write(holder, stored.etag if stored else None):
                return None
        return holder

    def renew(self) -> None:
        """Hold on for another length; where somebody else has taken the lease, note that."""
        stored = self._storage.get(self._key)
        holder = _parse(stored.data, self._storage.uri(self._key)) if stored else None
        if stored is None or holder is None or not self._is_mine(holder):
            self._lost = f"run {holder.run_id} has taken it" if holder else "it was deleted"
        else:
            self._write(holder, stored.etag)

    def check(self) -> None:
        """Raise unless the lease is still held.

        Raises:
            StageError: it isn't; the message says what to do.
            AwsError: it should have been renewed by now, and the bucket can't be reached.
        """
        if self._lost is None and datetime.now(UTC) > self._renewed_at + self._length:
            self.renew()  # the machine may have slept
        if self._lost is not None:
            raise StageError(
                f"run {self._mine.run_id} has lost the lease of environment "
                f"{self._mine.environment} ({self._lost}): "
                f"`reelroute run --run {self._mine.run_id}` goes on with it"
            )

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Renew the lease, which has been taken, in the background; free it at the end."""
        ended = threading.Event()

        def keep() -> None:
            while not ended.wait(self._length.total_seconds() / 3) and self._lost is None:
                try:
                    self.renew()
                except (AwsError, StageError) as error:
                    logger().warning("the lease could not be renewed, trying again: %s", error)

        keeper = threading.Thread(target=keep, name="lease", daemon=True)
        keeper.start()
        try:
            yield
        finally:
            ended.set()
            keeper.join()
            self._free()

    def _free(self) -> None:
        """Give the lease back; where that fails, it expires."""
        try:
            stored = self._storage.get(self._key)
            holder = _parse(stored.data, self._storage.uri(self._key)) if stored else None
            if stored and holder and self._is_mine(holder):
                self._write(holder, stored.etag, freed=True)
        except (AwsError, StageError) as error:
            logger().warning("the lease could not be freed, it will expire: %s", error)

    def _is_mine(self, holder: LeaseRecord) -> bool:
        return holder.token == self._mine.token

    def _write(self, before: LeaseRecord | None, etag: str | None, freed: bool = False) -> bool:
        now = datetime.now(UTC)
        data = (
            self._mine.model_copy(
                update={
                    "serial": before.serial + 1 if before else 1,
                    "taken_at": before.taken_at if before and self._is_mine(before) else now,
                    "expires_at": now if freed else now + self._length,
                    "freed_at": now if freed else None,
                }
            )
            .model_dump_json(indent=2)
            .encode()
        )
        written = (
            self._storage.replace(self._key, data, etag)
            if etag
            else self._storage.put_new(self._key, data)
        )
        if written:
            self._renewed_at = now
        return written


def holder_of(storage: Storage, environment: str) -> LeaseRecord | None:
    """Who holds an environment's lease now, or None."""
    key = lease_key(environment)
    stored = storage.get(key)
    holder = _parse(stored.data, storage.uri(key)) if stored else None
    return None if holder is None or is_over(holder) else holder


def is_over(holder: LeaseRecord) -> bool:
    """Whether another may take the lease: freed, expired, or its process is gone."""
    if holder.freed_at is not None or datetime.now(UTC) >= holder.expires_at:
        return True
    return holder.host == socket.gethostname() and not _is_alive(holder)


def is_held_here(holder: LeaseRecord) -> bool:
    """Whether it is this process that holds the lease."""
    return (holder.host, holder.pid) == (socket.gethostname(), os.getpid()) and _is_alive(holder)


def _is_alive(holder: LeaseRecord) -> bool:
    try:
        process = psutil.Process(holder.pid)
        started: float = process.create_time()
        ended: bool = process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
    return not ended and abs(started - holder.process_started) <= _SAME_START


def _parse(data: bytes, uri: str) -> LeaseRecord:
    try:
        return LeaseRecord.model_validate_json(data)
    except ValidationError as error:
        raise StageError(
            f"{uri} is not a lease ({first_problem(error)}): delete it if no run is at work"
        ) from None
