"""Provisioned Throughput of custom models."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import botocore.exceptions
import pytest

from deployments.embedded.aws import EmbeddedAws
from deployments.embedded.bedrock import provisioned
from deployments.embedded.faults import FAILED_JOBS, STUCK_JOBS

Put = Callable[[str, list[str]], str]


def buy(bedrock: Any, name: str, model: str, **more: Any) -> str:
    answer = bedrock.create_provisioned_model_throughput(
        provisionedModelName=name, modelId=model, modelUnits=1, **more
    )
    return str(answer["provisionedModelArn"])


def get(bedrock: Any, arn: str) -> dict[str, Any]:
    answer: dict[str, Any] = bedrock.get_provisioned_model_throughput(provisionedModelId=arn)
    return answer


def test_it_is_creating_before_it_is_in_service_and_answers(
    bedrock: Any, trained: dict[str, Any], ask: Callable[..., str], helpers: SimpleNamespace
) -> None:
    model = trained["outputModelArn"]
    arn = buy(bedrock, "fresh", model)
    assert get(bedrock, arn)["status"] == "Creating"
    with pytest.raises(botocore.exceptions.ClientError, match="ModelNotReadyException"):
        ask("sunset", arn)
    shown = helpers.poll(lambda: get(bedrock, arn), lambda p: p["status"] != "Creating")
    assert (shown["status"], shown["modelArn"], shown["modelUnits"]) == ("InService", model, 1)
    assert "commitmentExpirationTime" not in shown
    assert ask("sunset", arn).startswith("{")
    with pytest.raises(botocore.exceptions.ClientError, match=r"ConflictException.*'fresh'"):
        bedrock.delete_custom_model(modelIdentifier=model)
    bedrock.delete_provisioned_model_throughput(provisionedModelId=arn)
    with pytest.raises(botocore.exceptions.ClientError, match="ResourceNotFoundException"):
        get(bedrock, arn)
    with pytest.raises(botocore.exceptions.ClientError, match="ResourceNotFoundException"):
        ask("sunset", arn)


def test_the_same_token_buys_once_and_a_name_is_taken_while_it_is_there(
    bedrock: Any, trained: dict[str, Any]
) -> None:
    model = trained["outputModelArn"]
    first = buy(bedrock, "twice", model, clientRequestToken="buy-1")
    assert buy(bedrock, "twice", model, clientRequestToken="buy-1") == first
    with pytest.raises(botocore.exceptions.ClientError, match=r"ValidationException.*'twice'"):
        buy(bedrock, "twice", model)
    listed = bedrock.list_provisioned_model_throughputs(nameContains="twice", modelArnEquals=model)
    assert [p["provisionedModelArn"] for p in listed["provisionedModelSummaries"]] == [first]
    bedrock.delete_provisioned_model_throughput(provisionedModelId="twice")


def test_a_commitment_binds_until_its_end(
    bedrock: Any, trained: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    arn = buy(bedrock, "bound", trained["outputModelArn"], commitmentDuration="OneMonth")
    assert get(bedrock, arn)["commitmentDuration"] == "OneMonth"
    with pytest.raises(botocore.exceptions.ClientError, match=r"ConflictException.*committed"):
        bedrock.delete_provisioned_model_throughput(provisionedModelId=arn)
    later = datetime.now(UTC) + timedelta(days=31)
    monkeypatch.setattr(provisioned, "now", lambda: later)
    bedrock.delete_provisioned_model_throughput(provisionedModelId=arn)


def test_its_model_can_be_changed_and_the_one_before_answers_meanwhile(
    bedrock: Any,
    jobs: SimpleNamespace,
    put: Put,
    training_lines: list[str],
    trained: dict[str, Any],
    helpers: SimpleNamespace,
) -> None:
    second = jobs.run("pt-2", put("data/pt-2.jsonl", training_lines[:120]))["outputModelArn"]
    arn = buy(bedrock, "changed", trained["outputModelArn"])
    helpers.poll(lambda: get(bedrock, arn), lambda p: p["status"] == "InService")
    bedrock.update_provisioned_model_throughput(provisionedModelId=arn, desiredModelId=second)
    shown = helpers.poll(lambda: get(bedrock, arn), lambda p: p["status"] == "InService")
    assert shown["modelArn"] == shown["desiredModelArn"] == second
    bedrock.delete_provisioned_model_throughput(provisionedModelId=arn)


def test_only_a_custom_model_that_is_there_is_sold(bedrock: Any) -> None:
    with pytest.raises(botocore.exceptions.ClientError, match="ResourceNotFoundException"):
        buy(bedrock, "nothing", "embedded.teacher-v1:0")


@pytest.mark.parametrize(("kind", "status"), [(FAILED_JOBS, "Failed"), (STUCK_JOBS, "Creating")])
def test_it_can_be_made_to_fail_or_to_stay_creating(
    kind: str,
    status: str,
    aws: EmbeddedAws,
    bedrock: Any,
    trained: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(provisioned, "SECONDS_TO_SERVICE", 0)
    aws.faults.set(kind)
    arn = buy(bedrock, f"made-{kind}", trained["outputModelArn"])
    shown = get(bedrock, arn)
    assert shown["status"] == status
    assert ("injected fault" in shown.get("failureMessage", "")) is (status == "Failed")
    bedrock.delete_provisioned_model_throughput(provisionedModelId=arn)
