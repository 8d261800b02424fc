"""Records that lie on this machine's disk instead of in memory."""

from __future__ import annotations

import tempfile
from array import array
from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar, overload

from pydantic import TypeAdapter

R = TypeVar("R")


class Spool(Generic[R]):
    """A list of records that grows in a temporary file: of any length at hardly more memory.

    Args:
        kind: the records' class, a pydantic model or a dataclass.
    """

    def __init__(self, kind: type[R]) -> None:
        self._records = TypeAdapter(kind)
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 (goes with the object)
        self._ends = array("Q", [0])  # where in the file each record ends

    def append(self, record: R) -> None:
        """Add a record at the end."""
        self.extend([record])

    def extend(self, records: Iterable[R]) -> None:
        """Add records at the end."""
        self._file.seek(self._ends[-1])
        for record in records:
            size = self._file.write(self._records.dump_json(record) + b"\n")
            self._ends.append(self._ends[-1] + size)

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, at: int) -> R: ...

    @overload
    def __getitem__(self, at: slice) -> list[R]: ...

    def __getitem__(self, at: int | slice) -> R | list[R]:
        positions = range(len(self))[at]
        if isinstance(positions, int):
            return self._records.validate_json(self._line(positions))
        return [self._records.validate_json(self._line(position)) for position in positions]

    def __iter__(self) -> Iterator[R]:
        return map(self._records.validate_json, self.lines())

    def lines(self) -> Iterator[bytes]:
        """The records as lines of JSON, with their ends."""
        position = 0
        while position < len(self):
            yield self._line(position)
            position += 1

    def _line(self, position: int) -> bytes:
        begin, end = self._ends[position : position + 2]
        self._file.seek(begin)
        return self._file.read(end - begin)
