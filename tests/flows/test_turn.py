"""Whose turn it is: a second run waits or is refused, whoever started it."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from prefect.client.orchestration import get_client

import flows.turn
from data_contracts.leases import lease_key
from flows.label import label
from flows.pipeline import pipeline
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


def test_a_stage_alone_is_refused_while_a_pipeline_works_on_its_run(place: Place) -> None:
    run = place.run("run-1")
    assert elsewhere(Lease(run.storage, "local", "run-1")).take() is None
    state: Any = label("run-1", place.profile(), return_state=True)
    assert state.is_failed()
    assert "run run-1 is at work on environment local" in state.message


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
