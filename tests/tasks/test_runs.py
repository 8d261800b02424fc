"""Runs in the bucket: started once, recorded once, and what to do where something lacks."""

from __future__ import annotations

import json

import pytest

from data_contracts.runs import RunParameters
from reelroute.errors import ContractError, StageError
from tasks.runs import Run, list_runs
from tests.support import Place, in_threads, record


def test_a_started_run_keeps_profile_prompts_and_own_queries(place: Place) -> None:
    run = place.run(queries=b"one\ntwo\n")
    keys = {key.removeprefix(run.prefix) for key in run.storage.keys(run.prefix)}
    assert keys == {
        "run.json",
        "inputs/profile.json",
        "inputs/queries.txt",
        "inputs/prompts/router.md",
        "inputs/prompts/write_queries.md",
        "inputs/prompts/repair.md",
        "inputs/prompts/judge.md",
    }
    own = run.own_queries()
    assert own is not None
    assert run.storage.read(own) == b"one\ntwo\n"
    profile = run.storage.get(run.key("inputs/profile.json"))
    assert profile is not None
    assert json.loads(profile.data)["storage"]["bucket"] == place.bucket


def test_a_run_that_is_started_again_keeps_what_it_was_started_with(place: Place) -> None:
    settings = place.settings()
    run = Run(place.storage(), "run-1")
    first = run.start(settings, {"label.size": 300}, "flow-1", None)
    second = run.start(settings, {"label.size": 999}, "flow-2", b"other\n")
    assert first == second == run.parameters()
    assert second.overrides == {"label.size": 300}
    assert run.own_queries() is None


def test_of_many_who_start_a_run_all_get_the_same_parameters(place: Place) -> None:
    settings, storage = place.settings(), place.storage()
    started = in_threads(
        lambda n: Run(storage, "run-1").start(settings, {"label.size": 100 + n}, None, None),
        range(8),
        threads=8,
    )
    assert all(isinstance(parameters, RunParameters) for parameters in started)
    assert len({json.dumps(parameters.overrides) for parameters in started}) == 1


@pytest.mark.parametrize(
    "run_id", ["", "..", "../x", "a/b", "A", "-a", "a-", "a" * 41, "run 1", "a\n", "ü"]
)
def test_a_run_id_that_could_be_a_path_is_refused(run_id: str, place: Place) -> None:
    with pytest.raises(ContractError, match="is not allowed"):
        Run(place.storage(), run_id)


def test_a_record_is_written_once(place: Place) -> None:
    run = place.run()
    run.write_record(record(run, "label"))
    with pytest.raises(StageError, match=r"attempt 1 of stage label .* by another process"):
        run.write_record(record(run, "label", status="failed", error="other"))
    assert run.records() == [record(run, "label")]


def test_of_many_who_record_an_attempt_exactly_one_wins(place: Place) -> None:
    run = place.run()
    outcomes = in_threads(
        lambda n: run.write_record(record(run, "label", error=str(n))), range(8), threads=8
    )
    assert outcomes.count(None) == 1
    assert sum(isinstance(outcome, StageError) for outcome in outcomes) == 7
    assert run.records()[0].error == str(outcomes.index(None))


def test_records_come_in_the_stages_order_and_the_latest_attempt_counts(place: Place) -> None:
    run = place.run()
    for stage, attempt, status in (
        ("upload", 1, "completed"),
        ("label", 2, "completed"),
        ("label", 1, "failed"),
    ):
        run.write_record(record(run, stage, attempt=attempt, status=status))  # type: ignore[arg-type]
    assert [(r.stage, r.attempt) for r in run.records()] == [
        ("label", 1),
        ("label", 2),
        ("upload", 1),
    ]
    latest = run.latest("label")
    assert latest is not None
    assert (latest.attempt, latest.status) == (2, "completed")
    assert run.latest("deploy") is None


def test_a_stage_that_must_be_done_first_is_named_with_its_command(place: Place) -> None:
    run = place.run()
    with pytest.raises(
        StageError, match=r"needs stage label first \(it has not run\).*reelroute stage label"
    ):
        run.completed("label")
    run.write_record(record(run, "label", status="failed", error="the teacher was ill"))
    with pytest.raises(StageError, match="its latest attempt failed: the teacher was ill"):
        run.completed("label")


def test_a_run_that_is_not_there_is_named_with_the_command_that_lists_them(place: Place) -> None:
    with pytest.raises(StageError, match=r"no run 'run-9' in s3://.*reelroute runs list"):
        Run(place.storage(), "run-9").manifest()


def test_the_manifest_is_derived_from_the_records(place: Place) -> None:
    run = place.run()
    assert run.manifest().status == "unfinished"
    run.write_record(record(run, "label", status="failed", error="x"))
    assert run.manifest().status == "failed"
    run.write_record(record(run, "label", attempt=2))
    manifest = run.manifest()
    assert (manifest.status, manifest.attempts) == ("unfinished", {"label": 2})


@pytest.mark.parametrize("key", ["run.json", "stages/label/001.json"])
def test_a_file_that_is_no_record_is_named(key: str, place: Place) -> None:
    run = place.run()
    run.storage.put(run.key(key), b'{"half": ')
    with pytest.raises(StageError, match=key.replace(".", r"\.")):
        run.manifest()


def test_runs_are_listed_the_newest_first(place: Place) -> None:
    assert list_runs(place.storage()) == []
    for run_id in ("run-b", "run-a", "run-c"):
        place.run(run_id)
    assert [m.run_id for m in list_runs(place.storage())] == ["run-c", "run-a", "run-b"]


def test_files_of_a_run_lie_in_its_folder_as_utf8(place: Place) -> None:
    run = place.run()
    text = run.put_text("notes/a.txt", "Zürich ☀")
    value = run.put_json("notes/b.json", {"city": "Zürich"})
    assert (text.key, value.key) == ("runs/run-1/notes/a.txt", "runs/run-1/notes/b.json")
    assert run.storage.read(text).decode() == "Zürich ☀"
    assert json.loads(run.storage.read(value)) == {"city": "Zürich"}
