"""The stable deployment: one ARN, whose model follows the release pointer through everything."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

import deployments.embedded.bedrock.deployments as embedded
import tasks.stable
from benchmarks.promotion import (
    Traffic,
    answer_of,
    follower,
    make_release,
    promote,
    router_of,
)
from configs.settings import Settings
from deployments.embedded.aws import EmbeddedAws
from deployments.embedded.bedrock.state import now
from reelroute.errors import StageError
from reelroute.release import LocalModel, ModelFile, Release
from tasks.promote import release_still_there, roll_back_with_stable
from tasks.releases import current_pointer, load_release, move_pointer, write_release
from tasks.stable import (
    StableDeployment,
    ask_directly,
    follow_pointer,
    follow_release,
    lags,
    read_mark,
    stable_name,
)
from tasks.storage import Storage
from tests.conftest import new_place
from tests.support import CallsSince, Place, fault, record
from tests.tasks.test_promote import release

UPDATE, CREATE = "UpdateCustomModelDeployment", "CreateCustomModelDeployment"


@dataclass(frozen=True)
class Two:
    """Two releases with models of their own, and how each answers."""

    one: Release
    two: Release
    answers: dict[str, str]


@pytest.fixture(autouse=True)
def _updates_are_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "SECONDS_TO_ACTIVE", 0.1)


@pytest.fixture(scope="module")
def two(session_aws: EmbeddedAws, tmp_path_factory: pytest.TempPathFactory) -> Two:
    place = new_place(session_aws, tmp_path_factory.mktemp("two"), {"deploy.mode": "stable"})
    settings, storage = place.settings(), place.storage()
    made, answers = [], {}
    for version, start in (("one", 0), ("two", 3000)):
        answer = make_release(settings, storage, version, start, 120)
        current = current_pointer(storage)
        assert current is not None
        made.append(load_release(storage, current.pointer))
        answers[answer] = version
    assert len(answers) == 2
    return Two(*made, answers)


@dataclass(frozen=True)
class Stable:
    """A fresh bucket whose profile wants a stable deployment."""

    place: Place
    settings: Settings
    storage: Storage

    def point(self, to: Release) -> None:
        """Move the pointer alone, as a promotion that is killed right after."""
        move_pointer(
            self.storage, current_pointer(self.storage), write_release(self.storage, to), "promote"
        )

    def follow(self) -> StableDeployment | None:
        return follow_pointer(self.settings, self.storage, ask_directly(self.settings))

    def promote(self, to: Release) -> None:
        promote(self.settings, self.storage, to)

    def roll_back(self) -> list[str]:
        said: list[str] = []
        roll_back_with_stable(self.settings, self.storage, said.append)
        return said

    def seen(self) -> dict[str, Any]:
        found: dict[str, Any] = self.place.aws.client("bedrock").get_custom_model_deployment(
            customModelDeploymentIdentifier=stable_name(self.settings)
        )
        return found

    @property
    def serves(self) -> str:
        return str(self.seen()["modelArn"])

    @property
    def version(self) -> str:
        current = current_pointer(self.storage)
        assert current is not None
        return current.pointer.version


@pytest.fixture
def stable(place: Place) -> Iterator[Stable]:
    settings = place.settings(deploy__mode="stable")
    yield Stable(place, settings, Storage(settings))
    bedrock = place.aws.client("bedrock")
    for found in bedrock.list_custom_model_deployments(nameContains=stable_name(settings))[
        "modelDeploymentSummaries"
    ]:
        bedrock.delete_custom_model_deployment(
            customModelDeploymentIdentifier=found["customModelDeploymentArn"]
        )


def model(of: Release) -> str:
    assert of.bedrock is not None
    return of.bedrock.model_arn


def test_the_first_release_makes_it_and_the_same_release_again_changes_nothing(
    stable: Stable, two: Two, calls: CallsSince
) -> None:
    stable.point(two.one)
    made = stable.follow()
    assert made is not None
    assert (made.version, made.model_arn, stable.serves) == ("one", model(two.one), model(two.one))
    assert read_mark(stable.storage) == made
    assert "serves release one" in made.sentence()
    tags = stable.place.aws.client("bedrock").list_tags_for_resource(
        resourceARN=made.deployment_arn
    )["tags"]
    assert {tag["key"]: tag["value"] for tag in tags} == {
        "project": "reelroute",
        "environment": "local",
        "role": "stable",
    }
    asked = calls.asked(made.deployment_arn)
    assert asked == stable.settings.deploy.smoke_queries
    assert stable.follow() == made
    assert (calls.count(CREATE), calls.count(UPDATE)) == (1, 0)
    assert calls.asked(made.deployment_arn) == asked


def test_the_arn_stays_through_promotion_and_rollback(stable: Stable, two: Two) -> None:
    stable.promote(two.one)
    arn = stable.seen()["customModelDeploymentArn"]
    stable.promote(two.two)
    assert stable.serves == model(two.two)
    said = stable.roll_back()
    assert said == [
        "rolled back from two to one (serial 3)",
        f"the stable deployment {arn} serves release one",
    ]
    assert (stable.version, stable.serves) == ("one", model(two.one))
    assert stable.seen()["customModelDeploymentArn"] == arn


def test_what_was_killed_after_the_pointer_moved_is_brought_to_agree_by_the_next(
    stable: Stable, two: Two
) -> None:
    stable.promote(two.one)
    stable.point(two.two)
    assert lags(stable.settings, stable.storage)
    stable.follow()
    assert stable.serves == model(two.two)
    assert not lags(stable.settings, stable.storage)


def test_a_rollback_that_was_killed_is_finished_and_goes_no_further_back(
    stable: Stable, two: Two
) -> None:
    stable.promote(two.one)
    stable.promote(two.two)
    stable.promote(release("three", model=model(two.one)))
    current = current_pointer(stable.storage)
    assert current is not None
    move_pointer(stable.storage, current, current.pointer.history[0], "rollback")
    said = stable.roll_back()
    assert said[0] == "the pointer was moved back to two before"
    assert (stable.version, stable.serves) == ("two", model(two.two))
    assert stable.roll_back()[0] == "rolled back from two to one (serial 5)"


def test_an_update_that_is_under_way_is_waited_for_and_put_right(
    stable: Stable, two: Two, monkeypatch: pytest.MonkeyPatch
) -> None:
    stable.promote(two.one)
    moment, wait = embedded.now(), tasks.stable.wait
    monkeypatch.setattr(embedded, "now", lambda: moment)  # no time passes: it goes on updating
    stable.place.aws.client("bedrock").update_custom_model_deployment(
        customModelDeploymentIdentifier=stable_name(stable.settings), modelArn=model(two.two)
    )
    assert stable.seen()["updateDetails"]["updateStatus"] == "Updating"
    assert lags(stable.settings, stable.storage)
    waited = []

    def noted(*arguments: Any, **more: Any) -> Any:
        monkeypatch.setattr(embedded, "now", now)
        waited.append(arguments[1])
        return wait(*arguments, **more)

    monkeypatch.setattr(tasks.stable, "wait", noted)
    stable.follow()
    assert waited == ["DeploymentUpdated"] * 2
    assert stable.serves == model(two.one)


def test_an_update_that_fails_leaves_the_model_before_and_is_tried_again(
    stable: Stable, two: Two
) -> None:
    stable.promote(two.one)
    stable.point(two.two)
    with (
        fault(stable.place.aws, "failed-jobs", operations=[UPDATE]),
        pytest.raises(StageError, match=r"could not be updated to .* it goes on with") as error,
    ):
        stable.follow()
    assert "The release pointer is at two: run the promote stage again" in str(error.value)
    assert stable.seen()["updateDetails"]["updateStatus"] == "UpdateFailed"
    assert stable.serves == model(two.one)
    stable.follow()
    assert stable.serves == model(two.two)


def test_an_update_that_never_ends_is_said_to_be_updating(stable: Stable, two: Two) -> None:
    stable.promote(two.one)
    stable.point(two.two)
    hasty = stable.place.settings(deploy__mode="stable", deploy__max_minutes=0.005)
    with (
        fault(stable.place.aws, "stuck-jobs", operations=[UPDATE]),
        pytest.raises(StageError, match=r"the update of deployment .* is still Updating"),
    ):
        follow_pointer(hasty, stable.storage, ask_directly(hasty))
    assert stable.serves == model(two.one)


def test_a_model_that_answers_badly_is_taken_back_to_the_one_before(
    stable: Stable, two: Two
) -> None:
    stable.promote(two.one)
    stable.point(two.two)
    with (
        fault(stable.place.aws, "model-answers", style="prose"),
        pytest.raises(StageError, match=r"smoke test of .* 0 of 3 answers are valid") as error,
    ):
        stable.follow()
    assert f"was returned to {model(two.one)}" in str(error.value)
    assert (stable.version, stable.serves) == ("two", model(two.one))
    mark = read_mark(stable.storage)
    assert mark is not None
    assert mark.version == "one"
    assert lags(stable.settings, stable.storage)
    stable.follow()
    assert stable.serves == model(two.two)


def test_killed_between_update_and_smoke_test_the_way_back_is_still_known(
    stable: Stable, two: Two
) -> None:
    stable.promote(two.one)
    stable.point(two.two)

    def killed(release: Release, arn: str) -> Any:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        follow_pointer(stable.settings, stable.storage, killed)
    assert stable.serves == model(two.two)
    assert lags(stable.settings, stable.storage)
    with (
        fault(stable.place.aws, "model-answers", style="prose"),
        pytest.raises(StageError, match="was returned to"),
    ):
        stable.follow()
    assert stable.serves == model(two.one)


def test_without_a_model_before_it_a_bad_one_is_said_to_be_bad(stable: Stable, two: Two) -> None:
    stable.point(two.one)
    with (
        fault(stable.place.aws, "model-answers", style="prose"),
        pytest.raises(StageError, match="No model before it is known"),
    ):
        stable.follow()
    assert read_mark(stable.storage) is None


def test_a_deployment_that_never_came_to_life_is_made_anew(stable: Stable, two: Two) -> None:
    stable.point(two.one)
    with (
        fault(stable.place.aws, "failed-jobs", operations=[CREATE]),
        pytest.raises(StageError, match="ended as Failed"),
    ):
        stable.follow()
    stable.follow()
    assert (stable.seen()["status"], stable.serves) == ("Active", model(two.one))


def test_a_release_without_bedrock_leaves_it_alone(
    stable: Stable, two: Two, calls: CallsSince
) -> None:
    stable.promote(two.one)
    local = LocalModel(
        fingerprint="0" * 64, files=(ModelFile(name="model", sha256="0" * 64, bytes=1),)
    )
    more = {"version": "local-1", "router": "local", "bedrock": None, "local": local}
    stable.point(two.one.model_copy(update=more))
    assert stable.follow() is None
    assert not lags(stable.settings, stable.storage)
    assert stable.serves == model(two.one)
    assert calls.count(UPDATE) == 0


def test_a_record_of_promote_holds_only_while_the_deployment_follows(
    stable: Stable, two: Two
) -> None:
    stable.promote(two.one)
    done = record(stable.place.run(), "promote", resources={"current_release": "one"})
    assert release_still_there(stable.settings, done)
    stable.place.aws.client("bedrock").delete_custom_model_deployment(
        customModelDeploymentIdentifier=stable_name(stable.settings)
    )
    assert not release_still_there(stable.settings, done)
    assert release_still_there(stable.place.settings(), done)  # a profile without one


@pytest.mark.usefixtures("prefect_server")
def test_a_stage_counts_and_stores_its_smoke_answers(
    stable: Stable, two: Two, calls: CallsSince
) -> None:
    stable.point(two.one)
    stage = stable.place.stage("promote", settings=stable.settings)
    followed = follow_release(stage)
    assert followed is not None
    assert stage.meter.cost.calls == stable.settings.deploy.smoke_queries
    stable.storage.delete(["deployments/stable.json"])
    again = stable.place.stage("promote", settings=stable.settings)
    assert follow_release(again) == followed  # the same attempt, killed before its mark
    assert calls.asked(followed.deployment_arn) == stable.settings.deploy.smoke_queries
    assert again.meter.cost == stage.meter.cost


def test_no_request_fails_while_releases_are_promoted_and_rolled_back(
    stable: Stable, two: Two
) -> None:
    for each in (two.one, two.two):
        stable.promote(each)
    one, other = two.answers
    arn = stable.seen()["customModelDeploymentArn"]
    asks_the_arn = router_of(stable.settings, two.two, arn)
    with (
        follower(stable.settings, stable.storage) as follows,
        Traffic(lambda: answer_of(follows), 50) as pointer,
        Traffic(lambda: answer_of(asks_the_arn), 50) as stays,
    ):
        for move in (stable.roll_back, lambda: stable.promote(two.two), stable.roll_back):
            pointer.more(10)
            stays.more(10)
            move()
        for traffic in (pointer, stays):
            before = traffic.answers[one]
            assert traffic.until(lambda t=traffic, n=before: t.answers[one] > n + 10)  # type: ignore[misc]
    for traffic in (pointer, stays):
        assert traffic.failures == {}
        assert set(traffic.answers) == {one, other}
        assert traffic.requests >= 50
