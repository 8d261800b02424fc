"""The pipeline: seven stages, each done once, from wherever it stopped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterParentFlowRunId
from prefect.client.schemas.objects import State

import tasks.evaluate
from data_contracts.conversation import parse_line
from data_contracts.evaluation import BASE_STUDENT, DISTILLED_STUDENT, EvaluationSummary
from data_contracts.heldout import benchmark_queries, in_fresh_share, near_benchmark
from data_contracts.monitoring import ProductionQuery
from data_contracts.queries import LabelledQuery
from data_contracts.runs import STAGES
from deployments.embedded.aws import EmbeddedAws
from deployments.embedded.models.catalogue import routing_models
from flows.inputs import derive_run_id
from flows.pipeline import pipeline
from reelroute.errors import AnswerError
from reelroute.parsing import parse_forgiving
from tasks.monitor.records import MonitorFolder
from tasks.releases import POINTER_KEY, current_pointer
from tasks.runs import Run
from tasks.stable import read_mark
from tests.conftest import Finished
from tests.support import CallsSince, Place, corpus_rows, fault, read_jsonl
from tests.tasks.monitor.factory import WINDOW

pytestmark = pytest.mark.usefixtures("prefect_server")

#: What a skipped stage may ask Bedrock: whether what it made is still there.
LOOK_UPS = {"GetFoundationModel", "GetCustomModel", "GetCustomModelDeployment"}


def stages_of(state: State[Any]) -> dict[str, str | None]:
    """The state names of a pipeline's stages."""
    parent = FlowRunFilterParentFlowRunId(any_=[state.state_details.flow_run_id])
    with get_client(sync_client=True) as client:
        found = client.read_flow_runs(flow_run_filter=FlowRunFilter(parent_flow_run_id=parent))
    return {run.name.partition(" ")[0]: run.state and run.state.name for run in found}


def bedrock(calls: CallsSince) -> set[str]:
    return {call.operation for call in calls.all() if call.service.startswith("bedrock")}


# --- the finished pipeline ---------------------------------------------------------------------


def test_each_of_the_seven_stages_leaves_one_completed_record(finished: Finished) -> None:
    records = finished.run.records()
    assert [r.stage for r in records] == list(STAGES)
    assert {(r.status, r.attempt) for r in records} == {("completed", 1)}
    assert finished.run.manifest().status == "completed"
    assert finished.message.startswith(f"run {finished.run.run_id}: promoted")


def test_the_run_id_is_derived_from_the_flow_runs_id(finished: Finished) -> None:
    assert finished.run.run_id == f"run-{finished.flow_run_id.replace('-', '')[:12]}"
    parameters = finished.run.parameters()
    assert parameters is not None
    assert parameters.flow_run_id == finished.flow_run_id


def test_every_stage_has_the_tags_by_which_automations_find_it(finished: Finished) -> None:
    parent = FlowRunFilterParentFlowRunId(any_=[finished.flow_run_id])
    with get_client(sync_client=True) as client:
        found = client.read_flow_runs(flow_run_filter=FlowRunFilter(parent_flow_run_id=parent))
    assert len(found) == len(STAGES)
    assert all({"reelroute", "local"} <= set(run.tags) for run in found)


def test_what_was_asked_is_accepted_or_a_duplicate_or_in_quarantine(finished: Finished) -> None:
    label = finished.run.completed("label")
    m = label.metrics
    assert m["asked"] == m["accepted"] + m["duplicates"] + m["quarantined"] >= 300
    read = finished.run.storage.read
    counted = {name: len(read_jsonl(read(file))) for name, file in label.files.items()}
    assert counted["labelled"] == m["accepted"]
    assert counted["duplicates"] == m["duplicates"]
    assert counted["quarantine"] == m["quarantined"]


def test_every_labelled_row_is_trained_on_held_out_or_withheld(finished: Finished) -> None:
    read, files = finished.run.storage.read, finished.run.completed("validate").files
    labelled = read_jsonl(read(finished.run.completed("label").files["labelled"]))
    parts = [
        row["query"]
        for name in ("train", "fresh", "withheld")
        for row in read_jsonl(read(files[name]))
    ]
    assert sorted(parts) == sorted(row["query"] for row in labelled)


def test_every_line_of_the_training_file_is_what_the_service_takes(finished: Finished) -> None:
    upload = finished.run.completed("upload")
    lines = finished.run.storage.read(upload.files["training"]).decode().splitlines()
    trained = {parse_line(line).user_text for line in lines}
    assert len(lines) == upload.metrics["records"]
    assert trained.isdisjoint(row.query for row in benchmark_queries())


def test_the_distilled_student_beats_the_base_student_outside_the_interval(
    finished: Finished,
) -> None:
    file = finished.run.completed("evaluate").files["summary"]
    summary = EvaluationSummary.model_validate_json(finished.run.storage.read(file))
    student, base = summary.candidate(DISTILLED_STUDENT), summary.candidate(BASE_STUDENT)
    assert student is not None
    assert base is not None
    assert student.rubric_interval[0] > base.rubric_interval[1]


def test_the_release_names_what_was_deployed(finished: Finished) -> None:
    current = current_pointer(finished.run.storage)
    assert current is not None
    promote = finished.run.completed("promote")
    assert promote.resources["current_release"] == current.pointer.version
    stored = finished.run.storage.get(f"releases/{current.pointer.version}.json")
    assert stored is not None
    release = json.loads(stored.data)
    deploy = finished.run.completed("deploy")
    assert release["bedrock"]["deployment_arn"] == deploy.resources["deployment_arn"]
    assert release["run_id"] == finished.run.run_id


def test_the_teacher_is_asked_each_text_once(finished: Finished) -> None:
    teacher = finished.place.settings().models.teacher.id
    texts = [call.text_sha256 for call in finished.calls if call.model_id == teacher]
    assert len(texts) == len(set(texts)) > 300


def test_costs_are_counted_and_marked_as_simulated(finished: Finished) -> None:
    cost = finished.run.manifest().cost
    assert cost.simulated
    assert cost.usd == pytest.approx(sum(r.cost.usd for r in finished.run.records()))
    label = finished.run.completed("label")
    teacher = finished.place.settings().models.teacher.id
    assert label.cost.calls == sum(call.model_id == teacher for call in finished.calls)


def test_a_second_start_of_the_run_skips_all_seven_and_asks_no_model(
    finished: Finished, calls: CallsSince
) -> None:
    before = finished.run.records()
    state = pipeline(finished.config, finished.run.run_id, return_state=True)
    assert state.is_completed(), state.message
    assert stages_of(state) == dict.fromkeys(STAGES, "Skipped")
    assert bedrock(calls) <= LOOK_UPS
    assert calls.count("PutObject") == 2  # the lease, taken and freed
    assert finished.run.records() == before


# --- smaller pipelines -------------------------------------------------------------------------


def _unreadable(query: str) -> bool:
    try:
        parse_forgiving(routing_models().model("embedded.light-student-v1:0").answer(query))
    except AnswerError:
        return True
    return False


@pytest.fixture(scope="module")
def hard_for_base() -> tuple[LabelledQuery, ...]:
    """Few benchmark queries, on which the base student breaks its JSON: any student passes."""
    return tuple(row for row in benchmark_queries() if _unreadable(row.query))[:16]


@pytest.fixture
def _small_evaluation(
    hard_for_base: tuple[LabelledQuery, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(hard_for_base) == 16
    monkeypatch.setattr(tasks.evaluate, "benchmark_queries", lambda: hard_for_base)
    # Drawing takes longer than all the rest; the finished pipeline has drawn.
    monkeypatch.setattr(tasks.evaluate, "report_charts", lambda report, training: {})


@pytest.fixture(scope="module")
def small(session_aws: EmbeddedAws, tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A bucket that the tests below share, so that the teacher is paid once; each has runs
    of its own."""
    from tests.conftest import new_place

    return new_place(session_aws, tmp_path_factory.mktemp("small"), {"label.size": 150})


def start(place: Place, run_id: str, **overrides: Any) -> State[Any]:
    state: State[Any] = pipeline(place.profile(), run_id, overrides or None, return_state=True)
    return state


@pytest.mark.usefixtures("_small_evaluation")
def test_after_a_failed_stage_the_same_run_goes_on_there(
    small: Place, capfd: pytest.CaptureFixture[str]
) -> None:
    config = small.profile()
    impossible = {"promote.candidates": ["cascade"]}
    state = pipeline(config, "run-fail", impossible, return_state=True)
    assert state.is_failed()
    assert (state.message or "").startswith("promote: the run has none of the candidates cascade")
    assert "Traceback" not in "".join(capfd.readouterr())
    run = Run(small.storage(), "run-fail")
    assert run.manifest().status == "failed"
    failed = run.latest("promote")
    assert failed is not None
    assert (failed.status, failed.attempt) == ("failed", 1)
    assert failed.error
    before = run.records()

    mended = {"promote.candidates": ["distilled-student"]}
    state = pipeline(config, "run-fail", mended, return_state=True)
    assert state.is_completed(), state.message
    names = stages_of(state)
    assert names.pop("promote") == "Completed"
    assert names == dict.fromkeys(STAGES[:-1], "Skipped")
    assert run.records()[:-1] == before
    assert run.completed("promote").attempt == 2
    assert run.manifest().status == "completed"

    changed = {**mended, "promote.valid_rate_min": 0.5}
    state = pipeline(config, "run-fail", changed, return_state=True)
    assert [n for n, name in stages_of(state).items() if name == "Completed"] == ["promote"]
    assert run.completed("promote").attempt == 3


@pytest.mark.usefixtures("_small_evaluation")
def test_a_second_run_asks_the_teacher_nothing_and_leaves_the_pointer_at_the_same_model(
    small: Place,
) -> None:
    assert start(small, "run-one").is_completed()
    storage = small.storage()
    pointer = storage.get(POINTER_KEY)
    assert pointer is not None
    calls = CallsSince(small.aws)
    state = start(small, "run-two")
    assert state.is_completed(), state.message
    assert "identical" in (state.message or "")
    assert storage.get(POINTER_KEY) == pointer
    assert calls.asked(small.settings().models.teacher.id) == 0
    assert calls.count("CreateModelCustomizationJob", "CreateCustomModelDeployment") == 0
    run = Run(storage, "run-two")
    assert run.completed("distill").metrics["reused"]
    assert run.completed("label").metrics["from_store"] == 150
    file = run.completed("evaluate").files["summary"]
    summary = EvaluationSummary.model_validate_json(storage.read(file))
    assert summary.candidate("current-release") is not None


@pytest.mark.usefixtures("_small_evaluation")
def test_a_forced_run_takes_no_identical_model_and_no_deployment_that_is_there(
    small: Place,
) -> None:
    calls = CallsSince(small.aws)
    state = pipeline(small.profile(), "run-forced", force=True, return_state=True)
    assert state.is_completed(), state.message
    assert calls.count("CreateModelCustomizationJob") == 1
    assert calls.count("CreateCustomModelDeployment") == 1
    run = Run(small.storage(), "run-forced")
    assert not run.completed("distill").metrics["reused"]
    assert not run.completed("deploy").metrics["reused"]


def test_a_bad_teacher_fails_the_pipeline_with_a_sentence_and_the_run_can_go_on(
    place: Place, capfd: pytest.CaptureFixture[str]
) -> None:
    with fault(place.aws, "teacher-answers", style="prose"):
        state = start(place, "run-1")
    assert state.is_failed()
    assert (state.message or "").startswith("label: the label plan can't be filled: cell ")
    assert "Traceback" not in "".join(capfd.readouterr())
    run = Run(place.storage(), "run-1")
    assert [(r.stage, r.status) for r in run.records()] == [("label", "failed")]


def test_too_few_own_queries_are_refused_before_a_cent_is_spent(
    place: Place, tmp_path: Path, calls: CallsSince
) -> None:
    path = tmp_path / "own.txt"
    path.write_text("\n".join(row.query for row in corpus_rows(60)), encoding="utf-8")
    state = pipeline(place.profile(), "run-1", None, str(path), return_state=True)
    assert state.is_failed()
    assert "at least 100: add queries and run again; nothing was bought" in (state.message or "")
    assert bedrock(calls) == {"GetFoundationModel"}


@pytest.mark.usefixtures("_small_evaluation")
def test_queries_that_the_monitor_sampled_are_labelled_beside_those_of_the_plan(
    small: Place,
) -> None:
    queries = [row.query for row in corpus_rows(12, start=4000)]
    folder, storage = MonitorFolder(small.storage(), "local"), small.storage()
    sampled = [ProductionQuery(query=query, window="w", seen=1) for query in queries]
    uri = folder.write_queries(WINDOW, sampled)
    state = pipeline(small.profile(), "run-drift", None, uri, return_state=True)
    assert state.is_completed(), state.message
    run = Run(storage, "run-drift")
    labelled = read_jsonl(storage.read(run.completed("label").files["labelled"]))
    found = [row["query"] for row in labelled if row["domain"] == "production"]
    assert found == queries
    assert len(labelled) == 150 + len(queries)


@pytest.mark.usefixtures("_small_evaluation")
def test_a_fine_tuned_student_is_promoted_and_the_stable_deployment_follows(
    small: Place,
) -> None:
    overrides = {"distill.customization": "fine_tuning", "deploy.mode": "stable"}
    calls = CallsSince(small.aws)
    state = start(small, "run-tuned", **overrides)
    assert state.is_completed(), state.message
    storage, run = small.storage(), Run(small.storage(), "run-tuned")
    assert not run.completed("distill").metrics["reused"]
    mark, current = read_mark(storage), current_pointer(storage)
    assert mark is not None
    assert current is not None
    assert mark.version == current.pointer.version
    assert mark.sentence() in (state.message or "")
    promote = run.completed("promote")
    assert promote.resources["stable_deployment_arn"] == mark.deployment_arn
    assert promote.cost.calls == calls.asked(mark.deployment_arn) == 3
    again = start(small, "run-tuned", **overrides)
    assert stages_of(again) == dict.fromkeys(STAGES, "Skipped")


@pytest.mark.slow
@pytest.mark.usefixtures("_small_evaluation")
def test_with_prompts_alone_few_are_labelled_here_and_units_are_bought_by_the_hour(
    small: Place,
) -> None:
    overrides = {
        "distill.training_data": "prompts",
        "deploy.mode": "provisioned",
        "deploy.provisioned": {"units": 1, "confirm_usd_per_hour": 25},
        "label.round": "prompts",
    }
    state = start(small, "run-prompts", **overrides)
    assert state.is_completed(), state.message
    storage, run = small.storage(), Run(small.storage(), "run-prompts")
    label, validate = run.completed("label"), run.completed("validate")
    assert label.metrics["asked"] == sum(
        label.metrics[name] for name in ("accepted", "duplicates", "quarantined")
    )
    labelled = read_jsonl(storage.read(label.files["labelled"]))
    assert len(labelled) + label.metrics["prompts"] == 150
    assert len(labelled) == 10 + validate.metrics["fresh"] + len(
        [row for row in labelled if near_benchmark(row["query"]) and in_fresh_share(row["query"])]
    )
    lines = storage.read(run.completed("upload").files["training"]).splitlines()
    answered = [parse_line(line.decode()).assistant_text is not None for line in lines]
    assert sum(answered) == validate.metrics["train"] == 10
    assert len(answered) - 10 == validate.metrics["prompts"] > 100
    deploy = run.completed("deploy")
    assert ":provisioned-model/" in deploy.resources["deployment_arn"]
    assert deploy.cost.usd > 20
    assert "it is billed $20.00 an hour until cleanup" in deploy.metrics["summary"]
    small.aws.client("bedrock").delete_provisioned_model_throughput(
        provisionedModelId=deploy.resources["deployment_arn"]
    )


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({"label.sise": 300}, "unknown key `label.sise`; did you mean `label.size`?"),
        ({"storage.bucket": "not-there"}, "the bucket doesn't exist"),
        ({"aws.endpoint_url": "http://127.0.0.1:9"}, "Is the endpoint up"),
        ({"aws.credentials_file": "nowhere"}, "nowhere doesn't exist"),
        ({"models.teacher.id": "unpriced"}, "no price for 'unpriced'"),
        (
            {
                "deploy.mode": "provisioned",
                "deploy.provisioned": {"units": 1, "confirm_usd_per_hour": 19},
            },
            "costs $20.00 an hour, idle or not, and is not confirmed",
        ),
    ],
)
def test_what_is_wrong_before_the_first_stage_is_one_sentence(
    overrides: dict[str, Any],
    said: str,
    place: Place,
    calls: CallsSince,
    capfd: pytest.CaptureFixture[str],
) -> None:
    state = pipeline(place.profile(), "run-1", overrides, return_state=True)
    assert state.is_failed()
    assert said in (state.message or "")
    assert bedrock(calls) == set()
    assert place.storage().folders("runs/") == []
    assert "Traceback" not in "".join(capfd.readouterr())


def test_wrong_credentials_are_one_sentence(place: Place) -> None:
    with fault(place.aws, "wrong-credentials"):
        state = start(place, "run-1")
    assert state.is_failed()
    assert "AWS refused the credentials" in (state.message or "")


def test_another_environments_run_is_refused(place: Place) -> None:
    place.run("run-1")
    other = place.profile(environment="production")
    state = pipeline(other, "run-1", return_state=True)
    assert state.is_failed()
    assert "belongs to environment 'local'" in (state.message or "")


def test_a_run_id_that_is_a_path_is_refused(place: Place) -> None:
    state = start(place, "../../run")
    assert state.is_failed()
    assert "is not allowed" in (state.message or "")


def test_a_run_id_is_derived_from_any_flow_runs_id() -> None:
    assert derive_run_id("0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0") == "run-0f1e2d3c4b5a"
