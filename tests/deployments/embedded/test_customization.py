"""Customization jobs: names, tokens, data sets, training, stopping."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import botocore.exceptions
import pytest

from deployments.embedded.aws import EmbeddedAws
from deployments.embedded.faults import FAILED_JOBS, STUCK_JOBS

Put = Callable[[str, list[str]], str]


def without_answer(line: str) -> str:
    record = json.loads(line)
    record["messages"] = record["messages"][:1]
    return json.dumps(record)


def test_a_job_trains_a_model_from_the_uploaded_file(trained: dict[str, Any], s3: Any) -> None:
    assert trained["status"] == "Completed"
    assert ":custom-model/embedded.light-student-v1:0/" in trained["outputModelArn"]
    assert trained["outputModelName"] == "model-trained"
    assert trained["endTime"] >= trained["creationTime"]
    steps = {name: step["status"] for name, step in trained["statusDetails"].items()}
    assert set(steps.values()) == {"Completed"}
    assert trained["trainingMetrics"]["trainingLoss"] < 0.02
    job_id = trained["jobArn"].rsplit("/", 1)[-1]
    key = f"jobs/model-customization-job-{job_id}/training_artifacts/step_wise_training_metrics.csv"
    text = s3.get_object(Bucket="embedded-tests", Key=key)["Body"].read().decode()
    assert text.startswith("step_number,epoch_number,training_loss")


def test_the_same_token_is_the_same_job(
    bedrock: Any, jobs: SimpleNamespace, put: Put, training_lines: list[str]
) -> None:
    uri = put("data/token.jsonl", training_lines[:120])
    request = jobs.request("token", uri, clientRequestToken="token-1")
    first = bedrock.create_model_customization_job(**request)["jobArn"]
    assert bedrock.create_model_customization_job(**request)["jobArn"] == first
    assert jobs.wait(first)["status"] == "Completed"
    listed = bedrock.list_model_customization_jobs(nameContains="token")
    assert len(listed["modelCustomizationJobSummaries"]) == 1


def test_a_failed_jobs_names_are_used_up(bedrock: Any, jobs: SimpleNamespace) -> None:
    uri = "s3://embedded-tests/data/nothing.jsonl"
    failed = jobs.run("used-up", uri)
    assert failed["status"] == "Failed"
    assert failed["failureMessage"] == f"The object {uri} does not exist."
    assert "outputModelArn" not in failed
    with pytest.raises(botocore.exceptions.ClientError, match="job name 'used-up' is taken"):
        bedrock.create_model_customization_job(**jobs.request("used-up", uri))
    again = jobs.request("used-up-2", uri, customModelName="model-used-up")
    with pytest.raises(botocore.exceptions.ClientError, match="'model-used-up' is taken"):
        bedrock.create_model_customization_job(**again)


@pytest.mark.parametrize(
    ("name", "key", "change", "problem"),
    [
        ("few", "few.jsonl", lambda lines: lines[:99], "has 99 valid records, at least 100"),
        ("many", "many.jsonl", lambda lines: lines[:1] * 15_001, "at most 15,000"),
        ("txt", "data.txt", lambda lines: lines[:120], "does not have the extension .jsonl"),
        (
            "broken",
            "broken.jsonl",
            lambda lines: [*lines[:99], '{"schemaVersion": "1"}'],
            "1 were dropped",
        ),
        (
            "prose",
            "prose.jsonl",
            lambda lines: [line.replace("reasoning", "thoughts") for line in lines[:120]],
            "0 records have an answer that can be learnt from",
        ),
    ],
)
def test_an_unusable_data_set_fails_the_job_with_the_reason(
    jobs: SimpleNamespace,
    put: Put,
    training_lines: list[str],
    name: str,
    key: str,
    change: Callable[[list[str]], list[str]],
    problem: str,
) -> None:
    job = jobs.run(f"bad-{name}", put(f"data/{key}", change(training_lines)))
    assert job["status"] == "Failed"
    assert problem in job["failureMessage"]
    assert job["statusDetails"]["trainingDetails"]["status"] == "NotStarted"


def test_bad_records_are_dropped_while_enough_good_ones_are_left(
    jobs: SimpleNamespace, put: Put, training_lines: list[str]
) -> None:
    lines = [*training_lines[:110], "not json", '{"messages": []}']
    assert jobs.run("drops", put("data/drops.jsonl", lines))["status"] == "Completed"


def test_the_teacher_answers_records_without_an_answer(
    jobs: SimpleNamespace, put: Put, training_lines: list[str]
) -> None:
    labelled = jobs.run("labelled", put("data/labelled.jsonl", training_lines[:150]))
    lines = [without_answer(line) for line in training_lines[:150]]
    asked = jobs.run("unlabelled", put("data/unlabelled.jsonl", lines))
    assert asked["status"] == "Completed"
    assert asked["trainingMetrics"] == labelled["trainingMetrics"]


def test_fine_tuning_needs_every_answer(
    jobs: SimpleNamespace, put: Put, training_lines: list[str]
) -> None:
    tuning = {"customizationType": "FINE_TUNING"}
    uri = put("data/tuning.jsonl", training_lines[:120])
    request = jobs.request("tuning", uri, **tuning)
    del request["customizationConfig"]
    assert jobs.wait(jobs.create(request))["status"] == "Completed"
    lines = [without_answer(line) for line in training_lines[:120]]
    request = jobs.request("tuning-2", put("data/tuning-2.jsonl", lines), **tuning)
    del request["customizationConfig"]
    failed = jobs.wait(jobs.create(request))
    assert "fine-tuning needs an assistant turn" in failed["failureMessage"]


def test_a_stopped_job_leaves_no_model(
    bedrock: Any, jobs: SimpleNamespace, put: Put, training_lines: list[str]
) -> None:
    uri = put("data/stopped.jsonl", training_lines)
    arn = bedrock.create_model_customization_job(**jobs.request("stopped", uri))["jobArn"]
    bedrock.stop_model_customization_job(jobIdentifier=arn)
    assert jobs.wait(arn)["status"] == "Stopped"
    assert not bedrock.list_custom_models(nameContains="model-stopped")["modelSummaries"]
    with pytest.raises(botocore.exceptions.ClientError, match="is Stopped"):
        bedrock.stop_model_customization_job(jobIdentifier=arn)


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        ({"baseModelIdentifier": "amazon.nova-micro-v1:0:128k"}, "model identifier .* is invalid"),
        ({"baseModelIdentifier": "embedded.teacher-v1:0"}, "does not support DISTILLATION"),
        ({"customizationType": "FINE_TUNING"}, "does not belong into a job of the type"),
        ({"jobName": "under_score"}, "at 'jobName' failed to satisfy constraint"),
        ({"customModelName": "x" * 64}, "length less than or equal to 63"),
        ({"roleArn": "reelroute"}, "at 'roleArn' failed to satisfy constraint"),
        ({"jobTags": [{"key": "run", "value": "a*b"}]}, "at 'jobTags.1.member.value'"),
    ],
)
@pytest.mark.off_model
def test_a_wrong_request_is_refused_before_a_job_starts(
    bedrock: Any, jobs: SimpleNamespace, more: dict[str, Any], problem: str
) -> None:
    request = jobs.request("wrong", "s3://embedded-tests/data/x.jsonl", **more)
    with pytest.raises(botocore.exceptions.ClientError, match=problem) as caught:
        bedrock.create_model_customization_job(**request)
    assert caught.value.response["Error"]["Code"] == "ValidationException"


def test_jobs_are_listed_by_name_and_status_in_pages(bedrock: Any, jobs: SimpleNamespace) -> None:
    for number in range(3):
        jobs.run(f"listed-{number}", "s3://embedded-tests/data/none.jsonl")
    pages = bedrock.get_paginator("list_model_customization_jobs").paginate(
        nameContains="listed-", statusEquals="Failed", maxResults=2, sortOrder="Ascending"
    )
    names = [[s["jobName"] for s in page["modelCustomizationJobSummaries"]] for page in pages]
    assert names == [["listed-0", "listed-1"], ["listed-2"]]
    completed = bedrock.list_model_customization_jobs(
        nameContains="listed-", statusEquals="Completed"
    )
    assert completed["modelCustomizationJobSummaries"] == []


def test_a_custom_model_is_found_by_arn_and_name(bedrock: Any, trained: dict[str, Any]) -> None:
    by_arn = bedrock.get_custom_model(modelIdentifier=trained["outputModelArn"])
    by_name = bedrock.get_custom_model(modelIdentifier="model-trained")
    assert by_arn["modelArn"] == by_name["modelArn"] == trained["outputModelArn"]
    assert by_arn["jobArn"] == trained["jobArn"]
    assert by_arn["modelStatus"] == "Active"
    listed = bedrock.list_custom_models(nameContains="model-trained")["modelSummaries"]
    assert [model["modelArn"] for model in listed] == [trained["outputModelArn"]]


def test_tags_lie_on_job_and_model(
    bedrock: Any, jobs: SimpleNamespace, put: Put, training_lines: list[str]
) -> None:
    job = jobs.run(
        "tagged",
        put("data/tagged.jsonl", training_lines[:120]),
        jobTags=[{"key": "run", "value": "r1"}],
        customModelTags=[{"key": "of", "value": "model"}],
    )
    tags = bedrock.list_tags_for_resource(resourceARN=job["jobArn"])["tags"]
    assert tags == [{"key": "run", "value": "r1"}]
    model = job["outputModelArn"]
    bedrock.tag_resource(resourceARN=model, tags=[{"key": "more", "value": "x"}])
    bedrock.untag_resource(resourceARN=model, tagKeys=["of"])
    assert bedrock.list_tags_for_resource(resourceARN=model)["tags"] == [
        {"key": "more", "value": "x"}
    ]


def test_a_foundation_model_shows_its_life_cycle(bedrock: Any) -> None:
    details = bedrock.get_foundation_model(modelIdentifier="embedded.light-student-v1:0")
    assert details["modelDetails"]["modelLifecycle"]["status"] == "ACTIVE"
    assert details["modelDetails"]["customizationsSupported"] == ["DISTILLATION", "FINE_TUNING"]
    students = bedrock.list_foundation_models(byCustomizationType="DISTILLATION")
    assert [m["modelId"] for m in students["modelSummaries"]] == ["embedded.light-student-v1:0"]
    offered = bedrock.list_foundation_models()["modelSummaries"]
    active = [m["modelId"] for m in offered if m["modelLifecycle"]["status"] == "ACTIVE"]
    assert len(active) == 4


@pytest.mark.parametrize(("which", "ended"), [("legacy", False), ("retired", True)])
def test_a_model_that_is_not_to_be_used_any_more_shows_its_dates(
    which: str, ended: bool, bedrock: Any
) -> None:
    answer = bedrock.get_foundation_model(modelIdentifier=f"embedded.{which}-teacher-v1:0")
    life = answer["modelDetails"]["modelLifecycle"]
    assert life["status"] == "LEGACY"
    assert life["legacyTime"] < datetime.now(UTC)
    assert (life["endOfLifeTime"] < datetime.now(UTC)) is ended


def test_an_inference_profile_stands_for_a_model_in_its_regions(bedrock: Any) -> None:
    model = "embedded.teacher-v1:0"
    found = bedrock.get_inference_profile(inferenceProfileIdentifier=f"us.{model}")
    regions = [entry["modelArn"].split(":")[3] for entry in found["models"]]
    assert regions == ["us-east-1", "us-west-2"]
    with pytest.raises(botocore.exceptions.ClientError, match="inference profile"):
        bedrock.get_inference_profile(inferenceProfileIdentifier="us.embedded.nobody-v1:0")
    with pytest.raises(botocore.exceptions.ClientError, match="ResourceNotFoundException"):
        bedrock.get_foundation_model(modelIdentifier="amazon.nova-pro-v1:0")


def test_a_job_that_is_made_to_fail_ends_as_failed_with_a_reason(
    aws: EmbeddedAws, jobs: SimpleNamespace, put: Put, training_lines: list[str]
) -> None:
    aws.faults.set(FAILED_JOBS)
    failed = jobs.run("made-to-fail", put("data/fails.jsonl", training_lines[:120]))
    assert failed["status"] == "Failed"
    assert "injected fault" in failed["failureMessage"]
    assert FAILED_JOBS in {call.fault for call in aws.calls()}


def test_a_stuck_job_goes_on_until_it_is_stopped(
    aws: EmbeddedAws, bedrock: Any, jobs: SimpleNamespace, put: Put, training_lines: list[str]
) -> None:
    aws.faults.set(STUCK_JOBS)
    uri = put("data/stuck.jsonl", training_lines[:120])
    arn = jobs.create(jobs.request("stuck", uri))
    aws.faults.clear()
    assert jobs.run("beside-it", uri)["status"] == "Completed"
    job = bedrock.get_model_customization_job(jobIdentifier=arn)
    assert (job["status"], job["statusDetails"]["trainingDetails"]["status"]) == (
        "InProgress",
        "NotStarted",
    )
    bedrock.stop_model_customization_job(jobIdentifier=arn)
    assert jobs.wait(arn)["status"] == "Stopped"
