"""Deploy: one deployment for an attempt, waited for, and asked before anybody relies on it."""

from __future__ import annotations

import pytest

from deployments.embedded.bedrock import provisioned
from reelroute.errors import AwsError, BudgetExceeded, ConfigError, StageError
from tasks.base import StageContext
from tasks.deploy import (
    buy_provisioned,
    create_deployment,
    deployment_status,
    deployment_still_active,
    find_deployment,
    find_provisioned,
    smoke_test,
    wait_until_active,
)
from tasks.stable import stable_name
from tests.conftest import Finished
from tests.support import CallsSince, Place, fault, record

pytestmark = pytest.mark.usefixtures("prefect_server")

CREATE = "CreateCustomModelDeployment"
NOWHERE = "arn:aws:bedrock:us-east-1:123456789012:custom-model-deployment/abcdefabcdef"
NO_MODEL = (
    "arn:aws:bedrock:us-east-1:123456789012:custom-model/embedded.light-student-v1:0/000000000000"
)


def deploying(place: Place, **more: object) -> StageContext:
    return place.stage("deploy", **more)  # type: ignore[arg-type]


def model_of(finished: Finished) -> str:
    return finished.run.completed("distill").resources["model_arn"]


def deploying_there(finished: Finished, **more: object) -> StageContext:
    """Deploying in the bucket of the finished pipeline."""
    return finished.place.stage("deploy", run=finished.run, **more)  # type: ignore[arg-type]


def deployment_of(finished: Finished) -> str:
    return finished.run.completed("deploy").resources["deployment_arn"]


def test_an_attempt_finds_its_deployment_again_and_waits_until_it_is_active(
    finished: Finished, place: Place, calls: CallsSince
) -> None:
    stage, model = deploying(place), model_of(finished)
    arn = create_deployment(stage, model)
    assert create_deployment(deploying(place), model) == arn
    assert create_deployment(deploying(place, attempt=2), model) == arn
    assert calls.count(CREATE) == 1
    wait_until_active(stage, arn)
    assert deployment_status(stage.settings, arn) == "Active"
    place.aws.client("bedrock").delete_custom_model_deployment(customModelDeploymentIdentifier=arn)
    assert deployment_status(stage.settings, arn) == "gone"


def test_a_forced_attempt_makes_a_deployment_of_its_own(
    finished: Finished, place: Place, calls: CallsSince
) -> None:
    first = create_deployment(deploying(place), model_of(finished))
    forced = create_deployment(deploying(place, attempt=2, forced=True), model_of(finished))
    assert forced != first
    assert calls.count(CREATE) == 2
    for arn in (first, forced):
        place.aws.client("bedrock").delete_custom_model_deployment(
            customModelDeploymentIdentifier=arn
        )


def test_an_active_deployment_of_exactly_this_model_is_found(finished: Finished) -> None:
    stage = deploying_there(finished)
    assert find_deployment(stage, model_of(finished)) == deployment_of(finished)
    assert find_deployment(stage, NO_MODEL) is None


def test_the_stable_deployment_is_never_a_runs_own(finished: Finished, place: Place) -> None:
    stage = deploying(place)
    bedrock = place.aws.client("bedrock")
    made = bedrock.create_custom_model_deployment(
        modelDeploymentName=stable_name(stage.settings), modelArn=model_of(finished)
    )["customModelDeploymentArn"]
    wait_until_active(stage, made)
    assert find_deployment(stage, model_of(finished)) is None
    bedrock.delete_custom_model_deployment(customModelDeploymentIdentifier=made)


def test_another_environments_deployment_is_left_to_it(finished: Finished, place: Place) -> None:
    production = finished.place.settings(environment="production")
    other = deploying_there(finished, settings=production)
    assert find_deployment(other, model_of(finished)) is None
    assert find_deployment(deploying(place), model_of(finished)) is None  # another bucket


def test_a_deployment_that_failed_speaks_with_the_services_words(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    import deployments.embedded.bedrock.deployments as embedded

    monkeypatch.setattr(embedded, "SECONDS_TO_ACTIVE", 0)
    stage = deploying(place)
    arn = create_deployment(stage, NO_MODEL)
    with pytest.raises(StageError, match=r"ended as Failed: The custom model .* does not exist"):
        wait_until_active(stage, arn)
    assert create_deployment(deploying(place, attempt=2), NO_MODEL) != arn


def test_the_smoke_test_asks_real_queries_through_the_deployment(
    finished: Finished, place: Place, calls: CallsSince
) -> None:
    stage = deploying(place, settings=place.settings(deploy__smoke_queries=5))
    assert smoke_test(stage, deployment_of(finished)) == 5
    assert calls.asked(deployment_of(finished)) == 5
    assert stage.meter.cost.calls == 5


def test_smoke_answers_are_stored_before_use_and_counted_after_a_kill(
    finished: Finished, place: Place, calls: CallsSince
) -> None:
    deployment = deployment_of(finished)
    killed = deploying(place, settings=place.settings(deploy__smoke_queries=2))
    smoke_test(killed, deployment)
    again = deploying(place, settings=place.settings(deploy__smoke_queries=5))
    assert smoke_test(again, deployment) == 5
    assert calls.asked(deployment) == 5
    assert again.meter.cost.calls == 5
    assert again.meter.cost.usd > killed.meter.cost.usd > 0
    smoke_test(deploying(place, attempt=2), deployment)
    assert calls.asked(deployment) == 5 + place.settings().deploy.smoke_queries


def test_a_deployment_that_answers_in_prose_fails_its_smoke_test_and_is_quoted(
    place: Place,
) -> None:
    settings = place.settings(deploy__smoke_queries=20, deploy__smoke_valid_min=1)
    base = settings.models.student.id
    with pytest.raises(StageError, match=r"smoke test of .*: \d+ of 20 answers are valid") as error:
        smoke_test(deploying(place, settings=settings), base)
    assert "was answered by 'Sure!" in str(error.value)
    assert "100% are wanted" in str(error.value)


def test_just_enough_valid_smoke_answers_are_enough(place: Place) -> None:
    settings = place.settings(deploy__smoke_queries=20, deploy__smoke_valid_min=0.3)
    valid = smoke_test(deploying(place, settings=settings), settings.models.student.id)
    assert 6 <= valid < 20


def test_a_records_deployment_is_still_there_only_while_it_is_active(
    finished: Finished, place: Place
) -> None:
    done = finished.run.completed("deploy")
    assert deployment_still_active(place.settings(), done)
    gone = record(finished.run, "deploy", resources={"deployment_arn": NOWHERE})
    assert not deployment_still_active(place.settings(), gone)


def test_an_error_while_looking_is_not_taken_for_gone(place: Place) -> None:
    with fault(place.aws, "wrong-credentials"), pytest.raises(AwsError, match="credentials"):
        deployment_status(place.settings(), NOWHERE)


PROVISIONED = {
    "deploy__mode": "provisioned",
    "deploy__provisioned": {"units": 1, "confirm_usd_per_hour": 20},
}
BUY = "CreateProvisionedModelThroughput"


def test_provisioned_throughput_is_bought_once_waited_for_and_answers(
    finished: Finished, place: Place, calls: CallsSince, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provisioned, "SECONDS_TO_SERVICE", 0.1)
    settings = place.settings(**PROVISIONED)
    stage, model = deploying(place, settings=settings), model_of(finished)
    arn = buy_provisioned(stage, model)
    assert (stage.meter.cost.usd, stage.meter.cost.simulated) == (20, True)
    again = deploying(place, settings=settings)
    assert buy_provisioned(again, model) == arn
    assert again.meter.cost == stage.meter.cost
    later = deploying(place, settings=settings, attempt=2)
    assert buy_provisioned(later, model) == arn
    assert later.meter.cost.usd == 0  # the first attempt's record counts it
    assert calls.count(BUY) == 1
    wait_until_active(stage, arn)
    assert deployment_status(settings, arn) == "InService"
    assert deployment_still_active(
        settings, record(stage.run, "deploy", resources={"deployment_arn": arn})
    )
    assert find_provisioned(stage, model) == arn
    more = {**PROVISIONED, "deploy__provisioned": {"units": 2, "confirm_usd_per_hour": 40}}
    assert find_provisioned(deploying(place, settings=place.settings(**more)), model) is None
    assert smoke_test(stage, arn) == 3
    place.aws.client("bedrock").delete_provisioned_model_throughput(provisionedModelId=arn)
    assert deployment_status(settings, arn) == "gone"


def test_what_is_not_confirmed_or_past_the_budget_is_not_bought(
    place: Place, calls: CallsSince
) -> None:
    wanted = {"units": 2, "commitment": "six_months", "confirm_usd_per_hour": 23.99}
    settings = place.settings(deploy__mode="provisioned", deploy__provisioned=wanted)
    with pytest.raises(ConfigError) as error:
        buy_provisioned(deploying(place, settings=settings), NO_MODEL)
    assert "costs $24.00 an hour, idle or not, $105,120.00 at least over the commitment" in str(
        error.value
    )
    assert "set `deploy.provisioned.confirm_usd_per_hour: 24` to buy it" in str(error.value)
    with pytest.raises(BudgetExceeded, match="the first hour of Provisioned Throughput"):
        buy_provisioned(deploying(place, settings=place.settings(**PROVISIONED), budget=19), "m")
    assert calls.count(BUY) == 0


def test_provisioned_throughput_that_failed_speaks_with_the_services_words(
    finished: Finished, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provisioned, "SECONDS_TO_SERVICE", 0)
    stage = deploying(place, settings=place.settings(**PROVISIONED))
    with fault(place.aws, "failed-jobs"):
        arn = buy_provisioned(stage, model_of(finished))
    with pytest.raises(StageError, match=r"Throughput .* ended as Failed: .*injected fault"):
        wait_until_active(stage, arn)
    place.aws.client("bedrock").delete_provisioned_model_throughput(provisionedModelId=arn)
