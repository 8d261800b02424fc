"""Cleanup: what nothing needs goes, in an order that may be interrupted; all else stays."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import pytest

import deployments.embedded.bedrock.deployments as embedded
from deployments.embedded.bedrock import training
from deployments.embedded.models.embeddings import static_embeddings
from deployments.embedded.models.light_student import LightStudent, train
from flows.cleanup import clean_up, counted
from reelroute.errors import AwsError, ReleaseError, StageError
from tasks.base import StageContext
from tasks.cleanup import Removal, plan_cleanup, remove
from tasks.deploy import buy_provisioned, create_deployment, deployment_status, smoke_test
from tasks.distill import model_exists, start_job, wait_for_model
from tasks.lease import Lease
from tasks.promote import roll_back
from tasks.releases import current_pointer
from tasks.runs import list_runs
from tasks.storage import Storage
from tests.support import CallsSince, Place, corpus_rows, fault, record
from tests.tasks.test_deploy import NO_MODEL
from tests.tasks.test_distill import distilling
from tests.tasks.test_promote import release
from tests.tasks.test_releases import move_to

pytestmark = pytest.mark.usefixtures("prefect_server")

DELETES = ("DeleteCustomModelDeployment", "DeleteCustomModel", "DeleteObjects")


@dataclass(frozen=True)
class Week:
    """A run with its own model, deployment and release."""

    stage: StageContext
    model: str
    deployment: str

    @property
    def kept(self) -> bool:
        """Whether everything of it is there; asserts that not just a part is."""
        settings, run = self.stage.settings, self.stage.run
        there = {
            deployment_status(settings, self.deployment) == "Active",
            model_exists(settings, self.model),
            run.parameters() is not None,
            any(run.storage.keys(run.prefix)),
        }
        assert len(there) == 1
        return there.pop()


@pytest.fixture(autouse=True)
def _deployments_are_active_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "SECONDS_TO_ACTIVE", 0)


@pytest.fixture(scope="module")
def student() -> LightStudent:
    """What every customization job here trains: which one it is doesn't matter."""
    rows = corpus_rows(100)
    labels = [row.weights for row in rows]
    return train([row.query for row in rows], labels, static_embeddings())


@pytest.fixture
def weeks(place: Place, student: LightStudent, monkeypatch: pytest.MonkeyPatch) -> list[Week]:
    """Three weekly runs, each of which was promoted."""
    monkeypatch.setattr(training, "train", lambda *_: student)
    distills = [distilling(place, f"w{n}", rows=100) for n in (1, 2, 3)]
    jobs = [start_job(stage) for stage in distills]
    made = []
    for n, (distill, job) in enumerate(zip(distills, jobs, strict=True), start=1):
        model = wait_for_model(distill, job).model_arn
        deploy = place.stage("deploy", run=distill.run)
        week = Week(deploy, model, create_deployment(deploy, model))
        move_to(place.storage(), release(f"w{n}-r", week.deployment, model))
        made.append(week)
    return made


def deployed(place: Place, run_id: str = "run-1", **more: Any) -> str:
    """The deployment of a run, in this place's bucket."""
    run = place.run(run_id, **more)
    return create_deployment(place.stage("deploy", run=run, **more), NO_MODEL)


def planned(place: Place, **overrides: Any) -> list[Removal]:
    settings = place.settings(**{"cleanup__keep": 1, "cleanup__runs": 1, **overrides})
    return plan_cleanup(settings, Storage(settings))


def targets(place: Place, **overrides: Any) -> list[str]:
    return [removal.target for removal in planned(place, **overrides)]


def do(place: Place, plan: list[Removal]) -> None:
    for removal in plan:
        remove(place.settings(), place.storage(), removal)


def test_a_plan_names_deployments_then_models_then_runs_and_removes_nothing(
    place: Place, weeks: list[Week], calls: CallsSince
) -> None:
    plan = planned(place, cleanup__keep=0)
    assert [removal.kind for removal in plan] == ["deployment"] * 2 + ["model"] * 2 + ["run"] * 2
    assert "(made by run w1)" in str(plan[1])
    assert calls.count(*DELETES) == 0
    assert all(week.kept for week in weeks)


def test_after_cleanup_the_release_answers_and_a_rollback_reaches_those_kept(
    place: Place, weeks: list[Week]
) -> None:
    storage = place.storage()
    storage.put("labels/teacher/answers.jsonl", b"{}")
    outside = [key for key in storage.keys("") if not key.startswith("runs/")]
    do(place, planned(place))
    assert [week.kept for week in weeks] == [False, True, True]
    assert planned(place) == []
    assert [key for key in storage.keys("") if not key.startswith("runs/")] == outside
    assert smoke_test(weeks[2].stage, weeks[2].deployment) == 3
    assert roll_back(place.settings(), storage)[1].version == "w2-r"
    assert smoke_test(weeks[1].stage, weeks[1].deployment) == 3
    with pytest.raises(ReleaseError, match="is gone; the pointer stays"):
        roll_back(place.settings(), storage)
    current = current_pointer(storage)
    assert current is not None
    assert current.pointer.version == "w2-r"


def test_interrupted_anywhere_the_next_cleanup_does_the_rest(
    place: Place, weeks: list[Week]
) -> None:
    plan = planned(place, cleanup__keep=0)
    for done in (1, 3, 5):
        do(place, plan[:done])
        assert planned(place, cleanup__keep=0) == plan[done:]
    do(place, plan)  # what is gone counts as done
    assert [week.kept for week in weeks] == [False, False, True]


def test_as_many_of_the_newest_runs_stay_as_the_profile_says(place: Place) -> None:
    found = [deployed(place, f"run-{n}") for n in (1, 2, 3)]
    assert targets(place, cleanup__runs=3) == []
    assert targets(place, cleanup__runs=2) == [found[0], "runs/run-1/"]


def test_what_a_run_at_work_has_made_stays(place: Place) -> None:
    at_work, _, _ = (deployed(place, f"run-{n}") for n in (1, 2, 3))
    assert at_work in targets(place)
    assert Lease(place.storage(), "local", "run-1").take() is None
    assert at_work not in targets(place)
    assert "runs/run-1/" not in targets(place)
    assert "runs/run-2/" in targets(place)


def test_what_a_kept_run_uses_of_an_older_one_stays(place: Place) -> None:
    used, unused = deployed(place, "run-1"), deployed(place, "run-2")
    newest = place.run("run-3")
    assert targets(place) == [unused, used, "runs/run-1/", "runs/run-2/"]
    file = place.run("run-2").put_text("local/model.bin", "weights")
    newest.write_record(
        record(newest, "deploy", files={"model": file}, resources={"deployment_arn": used})
    )
    assert targets(place) == ["runs/run-1/"]


def test_nothing_untagged_and_nothing_of_another_environment_or_bucket_is_touched(
    place: Place, tmp_path: Any
) -> None:
    bedrock = place.aws.client("bedrock")
    ours = deployed(place)
    place.run("run-2")
    stage = place.stage("deploy")
    tags = stage.tags()
    strangers = [
        (stage.name("untagged"), []),
        (stage.name("half-tagged"), tags[:1]),
        (stage.name("other-environment"), [*tags[:1], {**tags[1], "value": "other"}, tags[2]]),
        (f"other-{stage.name()}"[:63], tags),
    ]
    for name, its_tags in strangers:
        bedrock.create_custom_model_deployment(
            modelDeploymentName=name, modelArn=NO_MODEL, tags=its_tags
        )
    deployed(place, "production-1", settings=place.settings(environment="production"))
    place.storage().put("runs/no-parameters/notes.txt", b"")
    assert targets(place) == [ours, "runs/run-1/"]


def test_a_model_behind_a_deployment_that_stays_stays(place: Place, weeks: list[Week]) -> None:
    bedrock = place.aws.client("bedrock")
    bedrock.create_custom_model_deployment(
        modelDeploymentName=f"somebody-elses-{place.bucket}", modelArn=weeks[0].model
    )
    plan = planned(place)
    assert [removal.kind for removal in plan] == ["deployment", "run"]
    do(place, plan)
    assert model_exists(place.settings(), weeks[0].model)


def test_a_folder_that_does_not_go_is_still_a_run_and_is_named(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = place.run("run-1")
    place.run("run-2")
    plan = planned(place)
    monkeypatch.setattr(Storage, "delete", lambda self, keys: None)
    with pytest.raises(StageError, match=r"objects of s3://.*/runs/run-1/ were not deleted"):
        do(place, plan)
    monkeypatch.undo()
    deleted: list[list[str]] = []
    delete = Storage.delete

    def noted(self: Storage, keys: list[str]) -> None:
        deleted.append(keys)
        delete(self, keys)

    monkeypatch.setattr(Storage, "delete", noted)
    assert {run.run_id for run in list_runs(place.storage())} == {"run-1", "run-2"}
    do(place, planned(place))
    assert deleted[-1] == [old.key("run.json")]
    assert [run.run_id for run in list_runs(place.storage())] == ["run-2"]


def test_a_release_that_cannot_be_read_stops_the_plan(place: Place) -> None:
    for version in ("a-1", "b-1"):
        move_to(place.storage(), release(version))
    place.storage().delete(["releases/a-1.json"])
    with pytest.raises(ReleaseError, match="release a-1 is gone"):
        planned(place)


def test_an_error_of_aws_is_not_taken_for_gone(place: Place) -> None:
    deployed(place)
    place.run("run-2")
    plan = planned(place)
    with fault(place.aws, "wrong-credentials"), pytest.raises(AwsError, match="credentials"):
        do(place, plan)
    assert planned(place) == plan


def bought(place: Place, model: str, run_id: str, commitment: str = "none") -> str:
    """Provisioned Throughput of a run, in this place's bucket."""
    wanted = {"units": 1, "commitment": commitment, "confirm_usd_per_hour": 20}
    settings = place.settings(deploy__mode="provisioned", deploy__provisioned=wanted)
    stage = place.stage("deploy", run=place.run(run_id), settings=settings)
    return buy_provisioned(stage, model)


def test_provisioned_throughput_stays_only_for_releases_and_for_the_run_at_work(
    place: Place, weeks: list[Week]
) -> None:
    model = weeks[2].model
    released, refused, at_work = (bought(place, model, f"w{n}") for n in (4, 5, 6))
    move_to(place.storage(), release("w4-r", released, model))
    assert Lease(place.storage(), "local", "w6").take() is None
    plan = [r for r in planned(place, cleanup__runs=10) if r.kind == "provisioned"]
    assert [removal.target for removal in plan] == [refused]
    assert "it is billed by the hour (bought by run w5)" in plan[0].reason
    do(place, plan)
    left = {arn: deployment_status(place.settings(), arn) for arn in (released, refused, at_work)}
    assert left[refused] == "gone"
    assert "gone" not in (left[released], left[at_work])
    assert model_exists(place.settings(), model)


def test_what_a_commitment_binds_is_listed_with_its_end_and_stays_with_its_model(
    place: Place, weeks: list[Week]
) -> None:
    model = weeks[0].model
    arn = bought(place, model, "w1", "one_month")
    plan = planned(place, cleanup__keep=0)
    (bound,) = (removal for removal in plan if removal.stays)
    assert bound.target == arn
    assert re.search(r"committed until \d{4}-\d\d-\d\d \d\d:\d\d UTC", str(bound))
    assert "bills 1 model units for another 720 hours" in str(bound)
    assert model not in [removal.target for removal in plan]
    with pytest.raises(StageError, match=r"can't be removed: .* committed until"):
        remove(place.settings(), place.storage(), bound)
    said: list[str] = []
    settings = place.settings(cleanup__keep=0, cleanup__runs=1)
    done = clean_up(settings, place.storage(), said.append, dry_run=False)
    assert [line for line in said if line.startswith("must leave")] == [f"must leave {bound}"]
    assert counted(done, dry_run=False).endswith("; 1 provisioned must stay: a commitment binds")
    assert deployment_status(settings, arn) != "gone"
    assert model_exists(settings, model)
