"""The pipeline's commands: what they print, and one clear sentence for whatever is wrong."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import flows.cli
import flows.follow
from data_contracts.runs import STAGES
from flows.monitor import monitor
from flows.pipeline import STAGE_FLOWS, pipeline
from reelroute.cli import main
from tasks.releases import (
    POINTER_KEY,
    current_pointer,
    load_release,
    move_pointer,
    write_release,
)
from tests.conftest import Finished
from tests.support import Place, corpus_rows, fault
from tests.tasks.monitor.factory import END, traffic, write

pytestmark = pytest.mark.usefixtures("prefect_server")


@pytest.fixture(autouse=True)
def _reports(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(flows.cli, "REPORTS", tmp_path / "reports")


def reelroute(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


def fine(*arguments: str) -> str:
    done = reelroute(*arguments)
    assert done.exit_code == 0, done.output
    return done.output


def refused(*arguments: str) -> str:
    """What a command says that can't be done: a sentence, an exit code, no stack trace."""
    done = reelroute(*arguments)
    assert done.exit_code not in (0, None)
    assert isinstance(done.exception, SystemExit), done.exception
    assert "Traceback" not in done.output
    assert "Error: " in done.output
    return done.output


# --- runs and reports --------------------------------------------------------------------------


def test_runs_are_listed_with_their_state_and_last_word(finished: Finished) -> None:
    said = fine("runs", "list", "--config", finished.config)
    assert re.search(rf"{finished.run.run_id}  \S+ \S+  completed +7/7 stages  promoted: ", said)


def test_a_list_of_runs_as_json_is_one_array_of_manifests(finished: Finished) -> None:
    (found,) = json.loads(fine("runs", "list", "--json", "--config", finished.config))
    assert (found["run_id"], found["status"]) == (finished.run.run_id, "completed")
    assert set(found) >= {"parameters", "stages", "attempts", "cost"}


def test_an_empty_bucket_says_how_to_start(place: Place) -> None:
    config = place.profile()
    assert "No runs yet: `reelroute run` starts one." in fine("runs", "list", "--config", config)
    assert json.loads(fine("runs", "list", "--json", "--config", config)) == []
    for command in (("runs", "show"), ("report",), ("runs", "pull", "latest", "--to", "x")):
        assert "there are no runs in s3://" in refused(*command, "--config", config)


@pytest.mark.parametrize("named", [True, False], ids=["by id", "latest"])
def test_a_run_is_shown_stage_by_stage(named: bool, finished: Finished) -> None:
    which = [finished.run.run_id] if named else []
    said = fine("runs", "show", *which, "--config", finished.config)
    assert said.startswith(f"{finished.run.run_id}: completed\n")
    lines = said.splitlines()[1:]
    assert [line.split()[0] for line in lines] == list(STAGES)
    assert all("attempt 1" in line for line in lines)
    assert "simulated" in lines[0]


def test_stages_that_have_not_run_are_shown_too(place: Place) -> None:
    place.run("run-1")
    said = fine("runs", "show", "run-1", "--config", place.profile())
    assert said.splitlines()[1:] == [f"  {name:9s} –" for name in STAGES]


def test_a_run_as_json_is_its_whole_manifest(finished: Finished) -> None:
    found = json.loads(
        fine("runs", "show", finished.run.run_id, "--json", "--config", finished.config)
    )
    assert list(found["stages"]) == list(STAGES)
    assert found["status"] == "completed"
    assert found["cost"]["simulated"] is True
    label = found["stages"]["label"]
    assert set(label) >= {"inputs", "files", "resources", "metrics", "cost", "error", "version"}


def test_a_run_is_pulled_whole_with_its_manifest(finished: Finished, tmp_path: Path) -> None:
    target = tmp_path / "pulled"
    said = fine("runs", "pull", "latest", "--to", str(target), "--config", finished.config)
    storage, prefix = finished.run.storage, finished.run.prefix
    keys = list(storage.keys(prefix))
    assert said.startswith(f"{len(keys)} files of {finished.run.run_id}")
    for key in keys:
        stored = storage.get(key)
        assert stored is not None
        assert (target / key.removeprefix(prefix)).read_bytes() == stored.data
    assert json.loads((target / "manifest.json").read_text())["status"] == "completed"
    on_disk = {path for path in target.rglob("*") if path.is_file()}
    assert len(on_disk) == len(keys) + 1


def test_nothing_is_pulled_to_outside_the_folder(place: Place, tmp_path: Path) -> None:
    run = place.run("run-1")
    for name in ("../outside", "a/../../outside", "inside"):
        run.storage.put(run.key(name), b"x")
    target = tmp_path / "deep" / "pulled"
    fine("runs", "pull", "run-1", "--to", str(target), "--config", place.profile())
    assert not list(tmp_path.rglob("outside"))
    assert (target / "inside").read_bytes() == b"x"


def test_a_folder_that_cannot_be_written_is_named(place: Place, tmp_path: Path) -> None:
    place.run("run-1")
    (tmp_path / "file").write_text("")
    target = str(tmp_path / "file" / "pulled")
    said = refused("runs", "pull", "run-1", "--to", target, "--config", place.profile())
    assert target in said


@pytest.mark.parametrize("run_id", ["../../etc", "a/b", "RUN", ".."])
@pytest.mark.parametrize(
    "command",
    [
        ("runs", "show", "{}"),
        ("runs", "pull", "{}", "--to", "pulled"),
        ("report", "{}"),
        ("stage", "label", "--run", "{}"),
        ("run", "--run", "{}"),
    ],
    ids=lambda command: " ".join(command[:2]),
)
def test_a_run_id_that_could_be_a_path_is_refused(
    command: tuple[str, ...], run_id: str, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = [part.format(run_id) for part in command]
    assert "is not allowed" in refused(*arguments, "--config", place.profile())


def test_a_run_that_is_not_there_says_which_command_lists_them(place: Place) -> None:
    for command in (("runs", "show"), ("report",)):
        said = refused(*command, "run-9", "--config", place.profile())
        assert "there is no run 'run-9'" in said
        assert "reelroute runs list" in said


def test_a_report_as_json_is_one_object_of_the_agreed_shape(finished: Finished) -> None:
    found = json.loads(fine("report", "--json", "--config", finished.config))
    assert list(found) == ["run_id", "stages", "candidates"]
    assert found["run_id"] == finished.run.run_id
    assert list(found["stages"]) == list(STAGES)
    for stage in found["stages"].values():
        assert set(stage) == {"status", "seconds"}
        assert stage["status"] == "completed"
        assert stage["seconds"] >= 0
    names = [candidate["name"] for candidate in found["candidates"]]
    assert {"base-student", "distilled-student", "large-baseline"} <= set(names)
    for candidate in found["candidates"]:
        assert set(candidate) == {
            "name",
            "rubric",
            "rubric_interval",
            "judge",
            "mae",
            "dominant_match",
            "valid_rate",
            "latency_ms",
            "cost_per_1k_usd",
            "simulated_cost",
        }
        assert set(candidate["latency_ms"]) == {"mean", "p50", "p99"}
        low, high = candidate["rubric_interval"]
        assert low <= candidate["rubric"] <= high
        assert candidate["simulated_cost"] is True


def test_a_report_is_a_table_and_a_page_on_this_machine(finished: Finished, tmp_path: Path) -> None:
    said = fine("report", finished.run.run_id, "--config", finished.config)
    assert "distilled-student" in said
    page = tmp_path / "reports" / f"{finished.run.run_id}.html"
    assert f"report: {page}" in said
    assert "<!doctype html" in page.read_text(encoding="utf-8").lower()


def test_a_run_without_an_evaluation_has_stages_but_no_candidates(place: Place) -> None:
    place.run("run-1")
    config = place.profile()
    assert "has not been evaluated yet" in refused("report", "run-1", "--config", config)
    found = json.loads(fine("report", "run-1", "--json", "--config", config))
    assert found == {"run_id": "run-1", "stages": {}, "candidates": []}


# --- rollback ----------------------------------------------------------------------------------


def test_rollback_says_from_where_to_where(finished: Finished, place: Place) -> None:
    storage = place.storage()
    current = current_pointer(finished.run.storage)
    assert current is not None
    release = load_release(finished.run.storage, current.pointer)
    for version in ("a-1", "b-1"):
        ref = write_release(storage, release.model_copy(update={"version": version}))
        move_pointer(storage, current_pointer(storage), ref, "promote")
    said = fine("rollback", "--config", place.profile())
    assert said == "rolled back from b-1 to a-1 (serial 3)\n"
    assert "a-1 is the first release" in refused("rollback", "--config", place.profile())


def test_without_a_release_there_is_nothing_to_roll_back(place: Place) -> None:
    assert "there is no release to roll back" in refused("rollback", "--config", place.profile())
    assert place.storage().get(POINTER_KEY) is None


# --- bad input ---------------------------------------------------------------------------------

COMMANDS = [
    ("run",),
    ("stage", "label", "--run", "run-1"),
    ("runs", "list"),
    ("runs", "show", "run-1"),
    ("report", "run-1"),
    ("rollback",),
    ("route", "a dog"),
]


@pytest.fixture(params=COMMANDS, ids=lambda command: " ".join(command[:2]))
def command(request: pytest.FixtureRequest) -> tuple[str, ...]:
    return request.param  # type: ignore[no-any-return]


def test_a_misspelt_key_is_one_sentence(command: tuple[str, ...], place: Place) -> None:
    config = place.profile(label__sise=300)
    said = refused(*command, "--config", config)
    assert "unknown key `label.sise`; did you mean `label.size`?" in said


def test_a_missing_bucket_is_one_sentence(command: tuple[str, ...], place: Place) -> None:
    said = refused(*command, "--config", place.profile(storage__bucket="not-there"))
    assert "the bucket doesn't exist. Create it or correct `storage.bucket`" in said


def test_credentials_that_aws_refuses_are_one_sentence(
    command: tuple[str, ...], place: Place
) -> None:
    config = place.profile()
    with fault(place.aws, "wrong-credentials"):
        assert "AWS refused the credentials" in refused(*command, "--config", config)


def test_somebody_elses_credentials_file_is_one_sentence(
    command: tuple[str, ...], place: Place, tmp_path: Path
) -> None:
    other = tmp_path / "credentials"
    other.write_text("[embedded]\naws_access_key_id = AKIAX\naws_secret_access_key = y\n")
    config = place.profile(aws__credentials_file=str(other))
    said = refused(*command, "--config", config)
    assert "AWS refused the credentials" in said
    assert "aws.credentials_file" in said


def test_a_missing_credentials_file_is_one_sentence(command: tuple[str, ...], place: Place) -> None:
    said = refused(*command, "--config", place.profile(aws__credentials_file="nowhere/creds"))
    assert "nowhere/creds doesn't exist" in said


def test_an_unreachable_endpoint_is_one_sentence(command: tuple[str, ...], place: Place) -> None:
    said = refused(*command, "--config", place.profile(aws__endpoint_url="http://127.0.0.1:9"))
    assert "http://127.0.0.1:9" in said
    assert "`aws.endpoint_url`" in said


def test_a_profile_that_is_not_there_is_one_sentence(command: tuple[str, ...]) -> None:
    assert "doesn't exist" in refused(*command, "--config", "configs/nowhere.yaml")


def test_a_setting_that_is_no_assignment_is_one_sentence(place: Place) -> None:
    said = refused("run", "--set", "label.size", "--config", place.profile())
    assert "write it as KEY=VALUE" in said


def test_a_misspelt_setting_is_one_sentence(place: Place) -> None:
    said = refused("run", "--set", "label.sise=300", "--config", place.profile())
    assert "unknown key `label.sise`" in said


def test_a_size_out_of_range_is_one_sentence(place: Place) -> None:
    assert "`label.size`" in refused("run", "--size", "5", "--config", place.profile())


@pytest.mark.parametrize("there", [True, False], ids=["a folder", "missing"])
def test_a_queries_file_that_cannot_be_read_is_one_sentence(
    there: bool, place: Place, tmp_path: Path
) -> None:
    path = tmp_path if there else tmp_path / "nowhere.txt"
    said = refused("run", "--queries", str(path), "--config", place.profile())
    assert f"queries file {path} can't be read" in said


def test_logs_that_are_not_there_are_one_sentence(place: Place) -> None:
    said = refused("monitor", "--logs", "/nowhere", "--config", place.profile())
    assert "logs /nowhere: there is no such file or folder" in said


def test_queries_of_another_bucket_are_one_sentence(place: Place) -> None:
    said = refused("run", "--queries", "s3://other/queries.jsonl", "--config", place.profile())
    assert "lies outside of the profile's bucket" in said


def test_a_missing_deployment_is_named(place: Place) -> None:
    config = place.profile(environment="nobody-serves")
    said = refused("run", "--config", config)
    assert "no deployment 'pipeline/nobody-serves': has it been deployed?" in said


def test_an_unknown_stage_is_refused_with_those_there_are(place: Place) -> None:
    done = reelroute("stage", "bake", "--run", "x", "--config", place.profile())
    assert done.exit_code == 2
    assert "'label', 'validate', 'upload'" in done.output


# --- run and stage, followed -------------------------------------------------------------------


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, Any]]]:
    """Flow runs are run at once, in this process, instead of by a worker."""
    started: list[tuple[str, dict[str, Any]]] = []
    by_name = {flow.name: flow for flow in (pipeline, *STAGE_FLOWS, monitor)}

    def run_now(prefect: Any, deployment: str, parameters: dict[str, Any]) -> Any:
        started.append((deployment, parameters))
        run_flow: Callable[..., Any] = by_name[deployment.partition("/")[0]]
        state = run_flow(**parameters, return_state=True)
        return prefect.read_flow_run(state.state_details.flow_run_id)

    monkeypatch.setattr(flows.follow, "start_flow_run", run_now)
    return started


def test_a_run_is_followed_stage_by_stage_to_its_results(
    finished: Finished, in_process: list[tuple[str, dict[str, Any]]]
) -> None:
    said = fine("run", "--run", finished.run.run_id, "--config", finished.config)
    ((deployment, parameters),) = in_process
    assert deployment == "pipeline/local"
    assert parameters["run_id"] == finished.run.run_id
    assert parameters["config"] == finished.config
    lines = said.splitlines()
    assert re.match(
        r"pipeline/local: http://127\.0\.0\.1:\d+/runs/flow-run/[0-9a-f-]{36}", lines[0]
    )
    shown = [line.split()[0] for line in lines[1:8]]
    assert shown == list(STAGES)
    assert all("skipped" in line for line in lines[1:8])
    assert "distilled-student" in said
    assert f"s3://{finished.place.bucket}/runs/{finished.run.run_id}/evaluation/" in said


def test_one_stage_is_run_alone(
    finished: Finished, in_process: list[tuple[str, dict[str, Any]]]
) -> None:
    said = fine("stage", "upload", "--run", "latest", "--config", finished.config)
    assert in_process == [
        (
            "upload/local",
            {
                "config": finished.config,
                "run_id": finished.run.run_id,
                "overrides": {},
                "force": False,
            },
        )
    ]
    assert "nothing has changed since attempt 1" in said


@pytest.mark.usefixtures("in_process")
def test_a_run_that_fails_ends_with_its_sentence_and_an_exit_code(place: Place) -> None:
    with fault(place.aws, "teacher-answers", style="prose"):
        said = refused("run", "--config", place.profile())
    assert "pipeline/local ended as Failed: label: the label plan can't be filled" in said
    assert re.search(r"Go on with `reelroute run --run run-[0-9a-f]{12}`, or Retry in the UI", said)


@pytest.mark.usefixtures("in_process")
def test_a_stage_that_lacks_another_ends_with_what_to_run(place: Place) -> None:
    place.run("run-1")
    said = refused("stage", "deploy", "--run", "run-1", "--config", place.profile())
    assert "needs stage distill first" in said


def test_settings_of_the_environment_go_along_with_the_run(
    place: Place,
    in_process: list[tuple[str, dict[str, Any]]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("REELROUTE__LABEL__ROUND", "9")
    arguments = ["--size", "5000", "--set", "label.max_empty_batches=1", "--force"]
    refused("run", *arguments, "--config", place.profile())  # more than the plan can fill
    ((_, parameters),) = in_process
    assert parameters["overrides"] == {
        "label.round": 9,
        "label.max_empty_batches": 1,
        "label.size": 5000,
    }
    assert parameters["force"] is True


def test_a_window_of_logs_is_monitored(
    place: Place, tmp_path: Path, in_process: list[tuple[str, dict[str, Any]]]
) -> None:
    logs = write(tmp_path / "log.jsonl", traffic(corpus_rows(20), 30))
    arguments = ["--window-end", f"{END:%Y-%m-%dT%H:%M}", "--set", "monitor.window_minutes=60"]
    said = fine("monitor", "--logs", str(logs), *arguments, "--config", place.profile())
    ((deployment, parameters),) = in_process
    assert deployment == "monitor/local"
    assert parameters["overrides"] == {"monitor.window_minutes": 60}
    assert "11:00 to 2026-03-02 12:00 UTC: 30 requests, 30 queries" in said


# --- estimate ----------------------------------------------------------------------------------


def test_estimate_needs_no_server(place: Place) -> None:
    config = place.profile(aws__endpoint_url="http://127.0.0.1:9")
    said = fine("estimate", "--config", config, "--size", "1000")
    assert re.search(r"^label +weights +embedded\.teacher-v1:0 +1,000 ", said, re.MULTILINE)
    assert "The budget of $100 a run suffices" in said


def test_estimate_takes_own_queries_and_says_where_there_are_none(
    place: Place, tmp_path: Path
) -> None:
    own = tmp_path / "own.txt"
    own.write_text("one\n\ntwo\n", "utf-8")
    said = fine("estimate", "--config", place.profile(), "--queries", str(own))
    assert re.search(r"weights +embedded\.teacher-v1:0 +2 ", said)
    assert "No such file" in refused("estimate", "--queries", str(tmp_path / "none.txt"))
