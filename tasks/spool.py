"""Records that lie on this machine's disk instead of in memory."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

from data_contracts.queries import Frozen

R = TypeVar("R", bound=Frozen)


class Spool(Generic[R]):
    """A list of records that grows in a temporary file: of any length at the same memory.

    Args:
        kind: the records' class.
    """

    def __init__(self, kind: type[R]) -> None:
        self._kind = kind
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 (goes with the object)
        self._count = 0

    def append(self, record: R) -> None:
        """Add a record at the end."""
        self.extend([record])

    def extend(self, records: Iterable[R]) -> None:
        """Add records at the end."""
        self._file.seek(0, 2)
        for record in records:
            self._file.write(record.model_dump_json().encode() + b"\n")
            self._count += 1

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[R]:
        return map(self._kind.model_validate_json, self.lines())

    def lines(self) -> Iterator[bytes]:
        """The records as lines of JSON, with their ends."""
        at = 0
        while True:
            self._file.seek(at)
            line = self._file.readline()
            if not line:
                return
            at = self._file.tell()
            yield line
