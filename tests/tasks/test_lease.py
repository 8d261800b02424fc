"""The lease: one holder at a time, renewed while it lives, taken over once it is gone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

import tasks.lease
from configs.settings import ROOT
from data_contracts.leases import LeaseRecord, lease_key
from reelroute.errors import StageError
from tasks.lease import Lease, holder_of, is_held_here
from tasks.storage import Storage
from tests.support import Place, in_threads

KEY = lease_key("local")

MakeLease = Callable[..., Lease]


@pytest.fixture
def storage(place: Place) -> Storage:
    return place.storage()


@pytest.fixture
def lease(storage: Storage) -> MakeLease:
    def make(run_id: str = "run-1", seconds: float = 60) -> Lease:
        return Lease(storage, "local", run_id, seconds=seconds)

    return make


def stored(storage: Storage) -> LeaseRecord:
    found = storage.get(KEY)
    assert found is not None
    return LeaseRecord.model_validate_json(found.data)


def change(storage: Storage, **values: Any) -> None:
    """Write the lease as somebody else would have."""
    raw = stored(storage).model_dump(mode="json") | values
    storage.put(KEY, json.dumps(raw).encode())


def test_who_comes_second_learns_who_is_at_work(storage: Storage, lease: MakeLease) -> None:
    assert lease("run-1").take() is None
    holder = lease("run-2").take()
    assert holder is not None
    assert (holder.run_id, holder.serial) == ("run-1", 1)
    assert is_held_here(holder)


def test_of_many_who_come_together_one_gets_it(storage: Storage, lease: MakeLease) -> None:
    answers = in_threads(lambda n: lease(f"run-{n}").take(), range(12))
    assert answers.count(None) == 1
    assert {holder.run_id for holder in answers if holder} == {stored(storage).run_id}


def test_it_is_freed_at_the_end_also_after_an_error(storage: Storage, lease: MakeLease) -> None:
    first = lease("run-1")
    assert first.take() is None
    with suppress(ZeroDivisionError), first.kept():
        assert holder_of(storage, "local") is not None
        raise ZeroDivisionError
    assert holder_of(storage, "local") is None
    assert lease("run-2").take() is None
    assert stored(storage).serial == 3


def test_it_is_renewed_while_its_holder_lives(storage: Storage, lease: MakeLease) -> None:
    first = lease(seconds=0.3)
    assert first.take() is None
    taken = stored(storage)
    with first.kept():
        for _ in range(200):
            if stored(storage).serial >= 4:
                break
            tasks.lease.threading.Event().wait(0.05)
        first.check()
    renewed = stored(storage)
    assert renewed.serial >= 4
    assert renewed.taken_at == taken.taken_at < renewed.expires_at


def test_an_expired_one_may_be_taken_and_its_holder_learns_it(
    storage: Storage, lease: MakeLease
) -> None:
    first = lease("run-1")
    assert first.take() is None
    past = datetime.now(UTC) - timedelta(seconds=1)
    change(storage, expires_at=past.isoformat(), host="elsewhere")
    assert lease("run-2").take() is None
    first.renew()
    with pytest.raises(StageError, match=r"lost the lease of environment local .run-2|run run-2"):
        first.check()
    assert stored(storage).run_id == "run-2"


def test_what_its_holder_lost_it_does_not_free(storage: Storage, lease: MakeLease) -> None:
    first = lease("run-1")
    assert first.take() is None
    with first.kept():
        change(storage, token="another", run_id="run-2", serial=2)
    holder = holder_of(storage, "local")
    assert holder is not None
    assert holder.run_id == "run-2"


def test_anothers_unexpired_one_on_another_machine_is_left_alone(
    storage: Storage, lease: MakeLease
) -> None:
    assert lease("run-1").take() is None
    change(storage, host="elsewhere", pid=4194305)
    holder = lease("run-2").take()
    assert holder is not None
    assert holder.host == "elsewhere"


def test_a_process_number_that_was_used_again_is_not_the_holder(
    storage: Storage, lease: MakeLease
) -> None:
    assert lease("run-1").take() is None
    change(storage, process_started=stored(storage).process_started - 100)
    assert lease("run-2").take() is None


HOLDS = """
import sys
from configs.settings import load_settings
from tasks.lease import Lease
from tasks.storage import Storage
storage = Storage(load_settings(sys.argv[1]))
lease = Lease(storage, "local", "run-killed", seconds=3600)
with lease.kept() if lease.take() is None else sys.exit("taken"):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_it_is_taken_over_at_once_when_its_holder_was_killed(
    place: Place, storage: Storage, lease: MakeLease
) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDS, place.profile()],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        second = lease("run-2")
        found = second.take()
        assert found is not None
        assert (found.run_id, found.pid) == ("run-killed", holder.pid)
    finally:
        holder.kill()
    # It is gone also while its parent has not waited for it.
    os.waitid(os.P_PID, holder.pid, os.WEXITED | os.WNOWAIT)
    assert second.take() is None
    holder.communicate()


def test_a_write_whose_answer_was_lost_counts(
    storage: Storage, lease: MakeLease, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_new = Storage.put_new

    def lossy(self: Storage, key: str, data: bytes, content_type: str = "") -> bool:
        put_new(self, key, data)
        return False

    monkeypatch.setattr(Storage, "put_new", lossy)
    first = lease("run-1")
    assert first.take() is None
    first.check()


def test_what_is_not_a_lease_is_a_sentence(storage: Storage, lease: MakeLease) -> None:
    storage.put(KEY, b'{"environment": 1}')
    with pytest.raises(StageError, match=r"leases/local.json is not a lease .*: delete it"):
        lease().take()
