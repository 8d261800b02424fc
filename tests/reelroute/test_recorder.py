"""The recorder between boto3 and the wire, and the walk over the API model that it does."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import boto3
import botocore.exceptions
import pytest

from configs.settings import ROOT
from reelroute.api_model import request_violations, response_violations, unknown_members
from reelroute.aws import AwsAccess
from reelroute.recorder import VARIABLE, Tally, recorded, tally
from tests.support import Place


def operation(name: str, service: str = "bedrock") -> Any:
    client = boto3.client(
        service, region_name="us-east-1", aws_access_key_id="a", aws_secret_access_key="b"
    )
    return client.meta.service_model.operation_model(name)


JOB = {
    "jobName": "a-job",
    "customModelName": "a-model",
    "roleArn": "arn:aws:iam::123456789012:role/r",
    "baseModelIdentifier": "amazon.nova-micro-v1:0:128k",
    "trainingDataConfig": {"s3Uri": "s3://bucket/key"},
    "outputDataConfig": {"s3Uri": "s3://bucket/out/"},
}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"jobName": "under_score"}, "at 'jobName' failed .* pattern"),
        ({"jobName": "x" * 64}, "at 'jobName' failed .* length less than or equal to 63"),
        ({"roleArn": None}, "'roleArn' failed .* must not be null"),
        ({"customizationType": "GUESSING"}, "at 'customizationType' failed .* enum value set"),
        ({"hyperParameters": {"epochCount": 2}}, "hyperParameters.epochCount.value' .* string"),
        ({"jobTags": [{"key": "k", "value": "a*b"}]}, r"at 'jobTags\.1\.member\.value'"),
    ],
)
def test_a_request_that_the_service_would_refuse_is_named_by_its_member(
    change: dict[str, Any], said: str
) -> None:
    model = operation("CreateModelCustomizationJob")
    assert request_violations(model, JOB) == []
    found = request_violations(model, {**JOB, **change})
    assert re.search(said, "; ".join(found)), found


def test_the_one_exception_is_the_task_type_of_judge_jobs() -> None:
    model = operation("CreateEvaluationJob")

    def judged(task_type: str) -> list[str]:
        dataset = {"taskType": task_type, "dataset": {"name": "d"}, "metricNames": ["m"]}
        config = {"automated": {"datasetMetricConfigs": [dataset]}}
        found = request_violations(model, {"evaluationConfig": config})
        return [violation for violation in found if "taskType" in violation]

    assert judged("General") == []
    assert len(judged("Routing")) == 1


def test_an_answer_must_have_the_services_shape() -> None:
    model = operation("GetCustomModelDeployment")
    good = {
        "customModelDeploymentArn": "arn:aws:bedrock:us-east-1:123456789012:"
        "custom-model-deployment/0123456789ab",
        "modelDeploymentName": "d",
        "modelArn": "arn:aws:bedrock:us-east-1:123456789012:custom-model/imported/0123456789ab",
        "createdAt": datetime(2026, 1, 1),
        "status": "Active",
        "lastUpdatedAt": datetime(2026, 1, 1),
    }
    assert response_violations(model, good) == []
    assert "enum value set" in response_violations(model, {**good, "status": "InService"})[0]
    assert "must not be null" in response_violations(model, {**good, "status": None})[0]


def test_members_that_boto3_would_drop_from_an_answer_are_named() -> None:
    model = operation("ListCustomModelDeployments")
    body = {"nextToken": "t", "modelDeploymentSummaries": [{"status": "Active", "state": "x"}]}
    assert unknown_members(model, body) == [
        "The API model has no member at 'modelDeploymentSummaries.1.member.state'"
    ]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "calls"))
    return tmp_path / "calls"


def access(place: Place) -> AwsAccess:
    aws = place.aws
    return AwsAccess(
        aws.region, aws.endpoint_url, aws.credentials_file, aws.profile, max_attempts=1
    )


@pytest.fixture
def uncached(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client of the test's own, not the session's."""
    monkeypatch.setattr(AwsAccess, "client", AwsAccess.client.__wrapped__)  # type: ignore[attr-defined]


@pytest.mark.usefixtures("uncached")
def test_requests_and_answers_are_recorded_with_what_breaks_the_model(
    place: Place, folder: Path
) -> None:
    bedrock = access(place).client("bedrock")
    bedrock.list_custom_models()
    with pytest.raises(botocore.exceptions.ClientError, match="ValidationException"):
        bedrock.list_custom_models(nameContains="a b")
    seen = list(recorded(folder))
    assert [(one.kind, one.operation) for one in seen] == [
        ("request", "ListCustomModels"),
        ("answer", "ListCustomModels"),
        ("request", "ListCustomModels"),
        ("error", "ListCustomModels"),
    ]
    assert [bool(one.violations) for one in seen] == [False, False, True, False]
    assert {one.test for one in seen} == {os.environ["PYTEST_CURRENT_TEST"].rpartition(" ")[0]}
    counts = tally(folder)
    assert str(counts).startswith("2 requests of 1 operations and 2 answers")
    assert str(counts).endswith("1 violations")


@pytest.mark.usefixtures("uncached")
def test_an_error_that_the_operation_does_not_have_breaks_the_model(
    place: Place, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from deployments.embedded.bedrock import api, errors

    def refuses(*_: Any) -> dict[str, Any]:
        raise errors.ServiceError("ModelNotReadyException", "not an error of a listing")

    monkeypatch.setitem(api.HANDLERS, "ListCustomModels", refuses)
    with pytest.raises(botocore.exceptions.ClientError, match="ModelNotReady"):
        access(place).client("bedrock").list_custom_models()
    (broken,) = tally(folder).broken
    assert "no error 'ModelNotReadyException' of ListCustomModels" in broken.violations[0]


@pytest.mark.usefixtures("uncached")
def test_nothing_is_recorded_unasked(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE)
    written: list[Any] = []
    monkeypatch.setattr("reelroute.recorder._append", lambda *line: written.append(line))
    access(place).client("bedrock").list_custom_models()
    assert written == []


def test_other_processes_record_beside_this_one(place: Place, folder: Path) -> None:
    program = (
        "from reelroute.aws import AwsAccess; from pathlib import Path; import sys;"
        "AwsAccess('us-east-1', sys.argv[1], Path(sys.argv[2]), 'embedded').client('s3')"
        ".list_buckets()"
    )
    arguments = [place.aws.endpoint_url, str(place.aws.credentials_file)]
    for _ in range(2):
        subprocess.run([sys.executable, "-c", program, *arguments], cwd=ROOT, check=True)
    assert len(list(folder.glob("calls-*.jsonl"))) == 2
    assert tally(folder).requests == {"s3: ListBuckets": 2}


def test_an_empty_folder_holds_no_calls(tmp_path: Path) -> None:
    assert tally(tmp_path) == Tally()
