"""The lease of an environment: who works on it, and until when that is known."""

from __future__ import annotations

from datetime import datetime
from typing import Final

from pydantic import Field

from data_contracts.queries import Frozen

LEASES_PREFIX: Final = "leases/"


class LeaseRecord(Frozen):
    """What `leases/<environment>.json` holds; written conditionally and never without a new serial.

    Attributes:
        token: names this holding of the lease, whoever else may have the same run.
        run_id: the run that is worked on.
        flow_run_id: the Prefect flow run that works on it.
        host, pid, process_started: the process that does; its start in seconds since the epoch,
            because process numbers are used again.
        serial: goes up with every write, so that no two versions have the same ETag.
        expires_at: from here on anybody may take the lease.
        freed_at: when its holder gave it back, if it did.
    """

    environment: str
    token: str
    run_id: str
    flow_run_id: str | None = None
    host: str
    pid: int = Field(ge=1)
    process_started: float
    serial: int = Field(ge=1)
    taken_at: datetime
    expires_at: datetime
    freed_at: datetime | None = None


def lease_key(environment: str) -> str:
    """The key of an environment's lease."""
    return f"{LEASES_PREFIX}{environment}.json"
