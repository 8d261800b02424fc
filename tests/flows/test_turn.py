"""Whose turn it is: a second run waits or is refused, whoever started it."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from prefect.client.orchestration import get_client

import flows.stage
import flows.turn
from data_contracts.leases import lease_key
from flows.label import label
from flows.pipeline import pipeline
from flows.turn import CLEANUP
from flows.validate import validate
from tasks.lease import Lease, holder_of
from tests.conftest import Finished
from tests.support import Place

pytestmark = pytest.mark.usefixtures("prefect_server")


def elsewhere(lease: Lease) -> Lease:
    """A lease of a process on another machine."""
    lease._mine = lease._mine.model_copy(update={"host": "elsewhere"})
    return lease


def test_the_lease_is_free_after_a_run(finished: Finished) -> None:
    storage = finished.run.storage
    assert storage.get(lease_key("local")) is not None
    assert holder_of(storage, "local") is None


def test_a_second_run_is_refused_with_a_sentence_and_leaves_nothing(place: Place) -> None:
    storage = place.storage()
    other = elsewhere(Lease(storage, "local", "run-at-work"))
    assert other.take() is None
    config = place.profile(schedule__collision="refuse")
    state = pipeline(config=config, run_id="run-2", return_state=True)
    assert (state.type.value, state.name) == ("CANCELLED", "Refused")
    assert "run run-at-work is at work on environment local since" in (state.message or "")
    assert list(storage.keys("runs/")) == []


def test_a_second_run_waits_its_turn_and_says_so(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = place.storage()
    other = elsewhere(Lease(storage, "local", "run-at-work"))
    assert other.take() is None
    shown: list[tuple[str | None, str | None]] = []

    def sleep(_seconds: float) -> None:
        """Look at the flow run's state in the UI; the other run ends meanwhile."""
        with get_client(sync_client=True) as prefect:
            run = prefect.read_flow_run(flows.turn.flow_run.id)  # type: ignore[arg-type]
            shown.append((run.state_name, run.state and run.state.message))
        other._free()

    monkeypatch.setattr(flows.turn.time, "sleep", sleep)
    wrong = {"label.plan": "missing.csv"}
    state = pipeline(config=place.profile(), run_id="run-2", overrides=wrong, return_state=True)
    assert "missing.csv" in (state.message or "")
    assert shown[0][0] == "Waiting"
    assert "run run-at-work is at work on environment local" in (shown[0][1] or "")
    assert holder_of(storage, "local") is None


@pytest.mark.parametrize("at_work", ["run-1", "run-2", CLEANUP])
def test_a_stage_alone_has_to_wait_its_turn_too(at_work: str, place: Place) -> None:
    run = place.run("run-1")
    assert elsewhere(Lease(run.storage, "local", at_work)).take() is None
    config = place.profile(schedule__collision="refuse")
    state: Any = label("run-1", config, return_state=True)
    assert state.is_failed()
    assert f"run {at_work} is at work on environment local" in state.message
    assert "schedule.collision` is refuse" in state.message


def test_a_stage_alone_holds_the_lease_and_gives_it_back(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, seen = place.run("run-1"), []
    monkeypatch.setattr(
        flows.stage.Run, "completed", lambda *_: seen.append(holder_of(run.storage, "local"))
    )
    validate("run-1", place.profile(), return_state=True)
    assert seen[0]
    assert seen[0].run_id == "run-1"
    assert holder_of(run.storage, "local") is None


def test_two_runs_at_once_work_one_after_the_other(place: Place) -> None:
    """Both threads hold the lease in turn; no two holdings overlap."""
    storage, spans, guard = place.storage(), [], threading.Lock()

    def work(n: int) -> None:
        lease = Lease(storage, "local", f"run-{n}")
        while lease.take():
            threading.Event().wait(0.01)
        with lease.kept():
            assert guard.acquire(blocking=False)
            spans.append(n)
            guard.release()

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(spans) == [0, 1, 2, 3]
