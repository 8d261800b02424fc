"""Promote: the pointer moves when the gate lets it, once, and can be moved back."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

import tasks.promote
from data_contracts.runs import StageRecord
from reelroute.errors import ReleaseError, StageError
from reelroute.release import BedrockModel, Prompt, Release, ReleasePointer
from tasks.gate import GateCheck, GateDecision
from tasks.promote import (
    announce_refusal,
    build_release,
    decide_all,
    promote_release,
    release_still_there,
    roll_back,
    show_decision,
)
from tasks.releases import (
    POINTER_KEY,
    CurrentPointer,
    current_pointer,
    move_pointer,
    write_release,
)
from tests.conftest import Finished
from tests.support import Place, record
from tests.tasks.reporting import factory

pytestmark = pytest.mark.usefixtures("prefect_server")

YES = GateDecision(
    "distilled-student", (GateCheck("valid rate", True, "100.0%", "at least 98.0%"),)
)
NO = GateDecision("distilled-student", (GateCheck("valid rate", False, "9.0%", "at least 98.0%"),))
GONE = "arn:aws:bedrock:us-east-1:123456789012:custom-model-deployment/000000000000"


def release(version: str, arn: str = GONE, model: str | None = None) -> Release:
    return Release(
        version=version,
        run_id=version.partition("-")[0],
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
        router="bedrock",
        prompt=Prompt.of("prompt"),
        bedrock=BedrockModel(
            deployment_arn=arn,
            model_arn=model or version,
            fingerprint=model or version,
            region="us-east-1",
            max_tokens=300,
        ),
    )


def pointer(place: Place) -> ReleasePointer:
    found = current_pointer(place.storage())
    assert found is not None
    return found.pointer


def test_a_refusal_is_an_event_with_its_reasons(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[dict[str, Any]] = []
    monkeypatch.setattr(tasks.promote, "emit_event", lambda **event: events.append(event))
    stage = place.stage("promote")
    outcome = promote_release(stage, release("a-1"), NO)
    announce_refusal(stage, NO, outcome)
    (event,) = events
    assert event["event"] == "reelroute.gate.refused"
    assert event["resource"]["prefect.resource.id"] == "reelroute.environment.local"
    assert event["payload"]["failed"] == ["valid rate"]
    assert event["payload"]["message"].startswith("run run-1: refused: there is no release yet")


def test_the_first_release_makes_the_pointer(place: Place) -> None:
    outcome = promote_release(place.stage("promote"), release("a-1"), YES)
    assert (outcome.action, outcome.version) == ("promoted", "a-1")
    assert (pointer(place).version, pointer(place).serial) == ("a-1", 1)


def test_a_better_release_takes_the_place_of_the_current_one(place: Place) -> None:
    stage = place.stage("promote")
    promote_release(stage, release("a-1"), YES)
    outcome = promote_release(stage, release("b-1"), YES)
    assert outcome.sentence() == "promoted: b-1 is the release (serial 2, before it a-1)"
    assert pointer(place).version == "b-1"


def test_what_the_gate_refuses_leaves_the_pointer_and_says_why(place: Place) -> None:
    stage = place.stage("promote")
    outcome = promote_release(stage, release("a-1"), NO)
    assert (outcome.action, outcome.version) == ("refused", None)
    assert current_pointer(place.storage()) is None
    promote_release(stage, release("a-1"), YES)
    before = place.storage().get(POINTER_KEY)
    outcome = promote_release(stage, release("b-1"), NO)
    assert outcome.version == "a-1"
    assert "valid rate: 9.0%, required at least 98.0%" in outcome.sentence()
    assert place.storage().get(POINTER_KEY) == before
    assert place.storage().get("releases/b-1.json") is None


def test_an_identical_model_leaves_the_pointer_with_success(place: Place) -> None:
    stage = place.stage("promote")
    promote_release(stage, release("a-1", model="m"), YES)
    before = place.storage().get(POINTER_KEY)
    for decision in (YES, NO):
        outcome = promote_release(stage, release("b-1", model="m"), decision)
        assert (outcome.action, outcome.version) == ("identical", "a-1")
    assert place.storage().get(POINTER_KEY) == before


def test_the_same_model_behind_a_new_deployment_is_not_identical(place: Place) -> None:
    stage = place.stage("promote")
    promote_release(stage, release("a-1", model="m"), YES)
    outcome = promote_release(stage, release("b-1", arn=GONE[:-1] + "1", model="m"), YES)
    assert outcome.action == "promoted"


def test_killed_after_the_pointer_moved_it_says_promoted_all_the_same(place: Place) -> None:
    promote_release(place.stage("promote"), release("a-1"), YES)
    before = place.storage().get(POINTER_KEY)
    outcome = promote_release(place.stage("promote"), release("a-1"), YES)
    assert (outcome.action, outcome.version) == ("promoted", "a-1")
    assert place.storage().get(POINTER_KEY) == before


def test_killed_between_release_and_pointer_it_goes_on(place: Place) -> None:
    write_release(place.storage(), release("a-1"))
    outcome = promote_release(place.stage("promote"), release("a-1"), YES)
    assert outcome.action == "promoted"
    assert pointer(place).serial == 1


def test_a_lost_race_raises_and_changes_nothing(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = place.storage()
    move_pointer(storage, None, write_release(storage, release("a-1")), "promote")

    def somebody_else_is_faster(*arguments: Any) -> CurrentPointer | None:
        seen = current_pointer(storage)
        move_pointer(storage, seen, write_release(storage, release("b-1")), "promote")
        return seen

    monkeypatch.setattr(tasks.promote, "current_pointer", somebody_else_is_faster)
    with pytest.raises(ReleaseError, match="moved by somebody else meanwhile; nothing was changed"):
        promote_release(place.stage("promote"), release("c-1"), YES)
    assert (pointer(place).version, pointer(place).serial) == ("b-1", 2)


def test_the_decision_is_shown_with_every_condition(place: Place) -> None:
    stage = place.stage("promote")
    outcome = promote_release(stage, release("a-1"), NO)
    files = show_decision(stage, [NO], NO, outcome)
    shown = stage.storage.read(files["gate"]).decode()
    assert shown.startswith("# Refused\n\nrefused: there is no release yet")
    assert "## distilled-student does not pass — chosen" in shown
    assert "| ❌ | valid rate | 9.0% | at least 98.0% |" in shown


def two_releases(finished: Finished, place: Place, first: Release) -> None:
    storage = place.storage()
    second = release("b-1", arn=deployment_of(finished))
    for each in (first, second):
        move_pointer(storage, current_pointer(storage), write_release(storage, each), "promote")


def deployment_of(finished: Finished) -> str:
    return finished.run.completed("deploy").resources["deployment_arn"]


def test_rollback_moves_back_and_counts_on(finished: Finished, place: Place) -> None:
    two_releases(finished, place, release("a-1", arn=deployment_of(finished)))
    left, now = roll_back(place.settings(), place.storage())
    assert left == "b-1"
    assert (now.version, now.serial, now.action, now.history) == ("a-1", 3, "rollback", ())
    assert pointer(place) == now
    with pytest.raises(ReleaseError, match="a-1 is the first release, none is before it"):
        roll_back(place.settings(), place.storage())


def test_rollback_to_a_deployment_that_is_gone_leaves_the_pointer(
    finished: Finished, place: Place
) -> None:
    two_releases(finished, place, release("a-1", arn=GONE))
    with pytest.raises(ReleaseError, match=r"a-1's deployment .* is gone; the pointer stays"):
        roll_back(place.settings(), place.storage())
    assert (pointer(place).version, pointer(place).serial) == ("b-1", 2)


def test_without_a_release_there_is_nothing_to_roll_back(place: Place) -> None:
    with pytest.raises(ReleaseError, match="there is no release to roll back"):
        roll_back(place.settings(), place.storage())


def test_a_record_holds_while_the_pointer_is_where_it_left_it(place: Place) -> None:
    stage = place.stage("promote")

    def left(version: str) -> StageRecord:
        return record(stage.run, "promote", resources={"current_release": version})

    assert release_still_there(stage.settings, left(""))
    promote_release(stage, release("a-1"), YES)
    assert release_still_there(stage.settings, left("a-1"))
    assert not release_still_there(stage.settings, left(""))


def test_the_same_run_and_evaluation_give_the_same_release(place: Place) -> None:
    run = place.run()

    def stage() -> Any:
        evaluated = record(run, "evaluate")
        return place.stage(
            "promote",
            run=run,
            upstream={
                "distill": record(run, "distill", resources={"model_arn": "m", "fingerprint": "f"}),
                "deploy": record(run, "deploy", resources={"deployment_arn": GONE}),
                "evaluate": evaluated,
            },
        )

    summary = factory.summary()
    built = build_release(stage(), summary, "distilled-student")
    assert built == build_release(stage(), summary, "distilled-student")
    assert built.version.startswith("run-1-")
    assert built.prompt == place.settings().prompt("router")
    assert built.evaluation["name"] == "distilled-student"
    other = factory.summary(judged=False)
    assert build_release(stage(), other, "distilled-student").version != built.version


def test_a_run_without_any_candidate_that_may_be_promoted_says_what_to_correct(
    place: Place,
) -> None:
    stage = place.stage("promote", settings=place.settings(promote__candidates=["cascade"]))
    with pytest.raises(StageError, match=r"none of the candidates cascade: .*distill\.students"):
        decide_all(stage, factory.summary())


def test_only_candidates_that_the_profile_allows_are_judged(place: Place) -> None:
    settings = place.settings(promote__candidates=["distilled-student", "cascade"])
    summary = factory.summary(("base-student", "local-student", "distilled-student"))
    decisions = decide_all(place.stage("promote", settings=settings), summary)
    assert [decision.candidate for decision in decisions] == ["distilled-student"]
