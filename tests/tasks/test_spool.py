"""Records on the disk: in order, as often as they are asked for."""

from __future__ import annotations

from data_contracts.queries import QuarantinedQuery
from tasks.spool import Spool


def test_a_spool_is_a_list_of_its_records() -> None:
    records = [QuarantinedQuery(query=f"é {n}\n", reason="why") for n in range(50)]
    spool = Spool(QuarantinedQuery)
    assert list(spool) == []
    spool.extend(records[:20])
    first = iter(spool)
    assert next(first) == records[0]
    spool.extend(records[20:49])
    spool.append(records[49])
    assert len(spool) == 50
    assert list(spool) == records
    assert [next(first), *first] == records[1:]  # what came meanwhile is read, too
    assert b"".join(spool.lines()).count(b"\n") == 50
