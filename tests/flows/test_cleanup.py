"""The cleanup flow and command: each step said, the lease held, results where people look."""

from __future__ import annotations

from typing import Any

import pytest
from click.testing import CliRunner
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from prefect.client.schemas.objects import State

import flows.cleanup
from flows.cleanup import cleanup
from reelroute.cli import main
from tasks.cleanup import remove
from tasks.lease import Lease, holder_of
from tasks.runs import list_runs
from tests.support import Place

pytestmark = pytest.mark.usefixtures("prefect_server")


@pytest.fixture
def config(place: Place) -> str:
    """The profile of a bucket with three runs, of which one is to stay."""
    for n in (1, 2, 3):
        place.run(f"run-{n}")
    return place.profile(cleanup__runs=1, schedule__collision="refuse")


def run_ids(place: Place) -> list[str]:
    return [run.run_id for run in list_runs(place.storage())]


def clean(config: str, **parameters: Any) -> State[Any]:
    state: State[Any] = cleanup(config, **parameters, return_state=True)
    return state


def artifact(state: State[Any]) -> str:
    with get_client(sync_client=True) as client:
        found = client.read_artifacts(
            artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=["cleanup"]))
        )
    (mine,) = (a for a in found if a.flow_run_id == state.state_details.flow_run_id)
    return str(mine.data)


def test_a_cleanup_shows_what_it_removed_and_holds_the_lease_meanwhile(
    place: Place, config: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    holders = []

    def watched(*arguments: Any) -> None:
        holders.append(holder_of(place.storage(), "local"))
        remove(*arguments)

    monkeypatch.setattr(flows.cleanup, "remove", watched)
    state = clean(config)
    assert state.is_completed()
    assert state.message == "removed 2 runs"
    assert "| run | `run-1` | no kept release's, and not among the newest 1 runs |" in artifact(
        state
    )
    assert run_ids(place) == ["run-3"]
    assert [holder.run_id for holder in holders if holder] == ["cleanup", "cleanup"]
    assert holder_of(place.storage(), "local") is None
    assert clean(config).message == "nothing to remove"


def test_a_dry_run_removes_nothing_and_waits_for_nobody(place: Place, config: str) -> None:
    assert Lease(place.storage(), "local", "run-1").take() is None
    state = clean(config, dry_run=True)
    assert state.message == "would remove 1 run"
    assert "`run-2`" in artifact(state)
    assert len(run_ids(place)) == 3


def test_while_a_run_is_at_work_nothing_is_removed(place: Place, config: str) -> None:
    assert Lease(place.storage(), "local", "run-3").take() is None
    state = clean(config)
    assert state.name == "Refused"
    assert "run run-3 is at work on environment local" in (state.message or "")
    assert len(run_ids(place)) == 3


def test_a_wrong_parameter_is_a_sentence(config: str) -> None:
    state = clean(config, keep=-1)
    assert state.is_failed()
    assert "`cleanup.keep`" in (state.message or "")


def test_the_command_says_each_step(place: Place, config: str) -> None:
    def said(*arguments: str) -> list[str]:
        done = CliRunner().invoke(main, ["cleanup", *arguments, "--config", config])
        assert done.exit_code == 0, done.output
        return done.output.splitlines()

    would = said("--dry-run", "--keep", "2")
    assert [line.split(":")[0].split() for line in would[:2]] == [
        ["would", "remove", "run", "run-1"],
        ["would", "remove", "run", "run-2"],
    ]
    assert len(run_ids(place)) == 3
    assert said()[-1] == "removed 2 runs"
    assert run_ids(place) == ["run-3"]
    assert said()[0] == "nothing to remove"
    assert "newest 1 runs use stays (`cleanup.runs`)" in said()[1]
