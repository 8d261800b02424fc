"""On-demand deployments of custom models."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import botocore.exceptions
import pytest

from deployments.embedded.aws import EmbeddedAws
from deployments.embedded.bedrock import deployments
from deployments.embedded.faults import FAILED_JOBS, STUCK_JOBS

Put = Callable[[str, list[str]], str]
NO_MODEL = (
    "arn:aws:bedrock:us-east-1:123456789012:custom-model/embedded.light-student-v1:0/000000000000"
)


def create(bedrock: Any, name: str, model_arn: str, **more: Any) -> str:
    answer = bedrock.create_custom_model_deployment(
        modelDeploymentName=name, modelArn=model_arn, **more
    )
    return str(answer["customModelDeploymentArn"])


def get(bedrock: Any, arn: str) -> dict[str, Any]:
    answer: dict[str, Any] = bedrock.get_custom_model_deployment(
        customModelDeploymentIdentifier=arn
    )
    return answer


def test_a_deployment_is_creating_before_it_is_active(
    bedrock: Any, trained: dict[str, Any], ask: Callable[..., str], helpers: SimpleNamespace
) -> None:
    arn = create(bedrock, "fresh", trained["outputModelArn"], description="of a test")
    assert get(bedrock, arn)["status"] == "Creating"
    with pytest.raises(botocore.exceptions.ClientError, match="ModelNotReadyException"):
        ask("sunset", arn)
    active = helpers.wait_active(bedrock, arn)
    assert (active["status"], active["description"]) == ("Active", "of a test")
    assert active["modelArn"] == trained["outputModelArn"]
    assert ask("sunset", arn).startswith("{")


def test_a_deployment_of_no_model_fails(
    bedrock: Any, ask: Callable[..., str], helpers: SimpleNamespace
) -> None:
    arn = create(bedrock, "of-nothing", NO_MODEL)
    failed = helpers.wait_active(bedrock, arn)
    assert failed["status"] == "Failed"
    assert NO_MODEL in failed["failureMessage"]
    with pytest.raises(botocore.exceptions.ClientError, match="ResourceNotFoundException"):
        ask("sunset", arn)


def test_the_same_token_is_the_same_deployment(bedrock: Any, trained: dict[str, Any]) -> None:
    model = trained["outputModelArn"]
    first = create(bedrock, "twice", model, clientRequestToken="deploy-1")
    assert create(bedrock, "twice", model, clientRequestToken="deploy-1") == first
    with pytest.raises(botocore.exceptions.ClientError, match=r"ValidationException.*'twice'"):
        create(bedrock, "twice", model, clientRequestToken="deploy-2")


def test_deployments_are_listed_by_name_status_and_model(
    bedrock: Any, deployed: str, trained: dict[str, Any]
) -> None:
    def names(**filters: Any) -> list[str]:
        listed = bedrock.list_custom_model_deployments(**filters)["modelDeploymentSummaries"]
        return [entry["customModelDeploymentName"] for entry in listed]

    assert names(nameContains="deployed", statusEquals="Active") == ["deployed"]
    assert names(nameContains="deployed", statusEquals="Failed") == []
    assert "deployed" in names(modelArnEquals=trained["outputModelArn"])
    assert "deployed" not in names(modelArnEquals=NO_MODEL)


def test_an_update_swaps_the_model_behind_the_same_arn(
    bedrock: Any,
    jobs: SimpleNamespace,
    put: Put,
    training_lines: list[str],
    trained: dict[str, Any],
    helpers: SimpleNamespace,
) -> None:
    second = jobs.run("second", put("data/second.jsonl", training_lines[:120]))["outputModelArn"]
    arn = create(bedrock, "updated", trained["outputModelArn"])
    helpers.wait_active(bedrock, arn)

    def update(model_arn: str) -> dict[str, Any]:
        bedrock.update_custom_model_deployment(
            customModelDeploymentIdentifier=arn, modelArn=model_arn
        )
        updating = get(bedrock, arn)
        assert updating["updateDetails"]["updateStatus"] == "Updating"
        assert updating["status"] == "Active"
        ended: dict[str, Any] = helpers.poll(
            lambda: get(bedrock, arn), lambda d: d["updateDetails"]["updateStatus"] != "Updating"
        )
        return ended

    done = update(second)
    assert done["updateDetails"] == {"modelArn": second, "updateStatus": "UpdateCompleted"}
    assert done["modelArn"] == second
    failed = update(NO_MODEL)
    assert failed["updateDetails"]["updateStatus"] == "UpdateFailed"
    assert failed["modelArn"] == second


def test_a_deployed_model_can_not_be_deleted(
    bedrock: Any, jobs: SimpleNamespace, put: Put, training_lines: list[str]
) -> None:
    model = jobs.run("deleted", put("data/deleted.jsonl", training_lines[:120]))["outputModelArn"]
    arn = create(bedrock, "holds-it", model)
    with pytest.raises(botocore.exceptions.ClientError, match=r"ConflictException.*'holds-it'"):
        bedrock.delete_custom_model(modelIdentifier=model)
    bedrock.delete_custom_model_deployment(customModelDeploymentIdentifier=arn)
    with pytest.raises(botocore.exceptions.ClientError, match="ResourceNotFoundException"):
        get(bedrock, arn)
    bedrock.delete_custom_model(modelIdentifier=model)
    with pytest.raises(botocore.exceptions.ClientError, match="ResourceNotFoundException"):
        bedrock.get_custom_model(modelIdentifier=model)


@pytest.mark.parametrize(("kind", "status"), [(FAILED_JOBS, "Failed"), (STUCK_JOBS, "Creating")])
def test_a_deployment_can_be_made_to_fail_or_to_stay_creating(
    kind: str,
    status: str,
    aws: EmbeddedAws,
    bedrock: Any,
    trained: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(deployments, "SECONDS_TO_ACTIVE", 0)
    aws.faults.set(kind)
    arn = bedrock.create_custom_model_deployment(
        modelDeploymentName=f"made-{kind}", modelArn=trained["outputModelArn"]
    )["customModelDeploymentArn"]
    shown = bedrock.get_custom_model_deployment(customModelDeploymentIdentifier=arn)
    assert shown["status"] == status
    assert ("injected fault" in shown.get("failureMessage", "")) is (status == "Failed")
    bedrock.delete_custom_model_deployment(customModelDeploymentIdentifier=arn)
