"""Customization jobs that learn from invocation logs."""

import gzip
import json
from types import SimpleNamespace
from typing import Any

import botocore.exceptions
import pytest

from deployments.embedded.bedrock.invocation_logs import passes

BUCKET = "embedded-tests"
TEACHER = "embedded.teacher-v1:0"
PRODUCTION = {"reelroute": "production"}


def logged(line: str, model_id: str, metadata: dict[str, str] | None) -> str:
    """A training record as the call that would have led to it is logged."""
    record = json.loads(line)
    user, assistant = record["messages"]
    return json.dumps(
        {
            "schemaType": "ModelInvocationLog",
            "schemaVersion": "1.0",
            "timestamp": "2026-11-24T10:00:00Z",
            "requestId": "r",
            "operation": "Converse",
            "modelId": model_id,
            "input": {"inputBodyJson": {"system": record["system"], "messages": [user]}},
            "output": {"outputBodyJson": {"output": {"message": assistant}}},
            **({"requestMetadata": metadata} if metadata else {}),
        }
    )


@pytest.fixture
def logs(s3: Any, training_lines: list[str]) -> str:
    """Production's 110 calls of a student in two files, 30 of the teacher, and others."""
    student = [logged(line, "arn:student", PRODUCTION) for line in training_lines[:110]]
    teacher = [logged(line, TEACHER, PRODUCTION) for line in training_lines[110:140]]
    others = [logged(line, "arn:student", None) for line in training_lines[140:200]]
    broken = ["{", '{"schemaType": "ModelInvocationLog", "requestMetadata": null}', "[]"]
    files = {
        "logs/1.json.gz": gzip.compress("\n".join([*student[:60], *others, *broken]).encode()),
        "logs/2.jsonl": "\n".join([*student[60:], *teacher]).encode(),
        "logs/notes.txt": b"not a log",
    }
    for key, body in files.items():
        s3.put_object(Bucket=BUCKET, Key=key, Body=body)
    return f"s3://{BUCKET}/logs/"


def job(jobs: SimpleNamespace, name: str, uri: str, **config: Any) -> dict[str, Any]:
    source = {"invocationLogSource": {"s3Uri": uri}, **config}
    ended: dict[str, Any] = jobs.run(name, "", trainingDataConfig={"invocationLogsConfig": source})
    return ended


def records_of(s3: Any, ended: dict[str, Any]) -> int:
    job_id = ended["jobArn"].rsplit("/", 1)[-1]
    key = f"jobs/model-customization-job-{job_id}/training_artifacts/step_wise_training_metrics.csv"
    text = s3.get_object(Bucket=BUCKET, Key=key)["Body"].read().decode()
    return int(text.splitlines()[1].split(",")[3])


def test_the_prompts_of_the_calls_that_pass_the_filter_are_answered_by_the_teacher(
    jobs: SimpleNamespace, logs: str, s3: Any
) -> None:
    ended = job(jobs, "log-1", logs, requestMetadataFilters={"equals": PRODUCTION})
    assert ended["status"] == "Completed"
    assert records_of(s3, ended) == 140
    everything = job(jobs, "log-2", logs)
    assert records_of(s3, everything) == 200


def test_logged_answers_are_taken_from_the_teacher_alone(jobs: SimpleNamespace, logs: str) -> None:
    ended = job(jobs, "log-3", logs, usePromptResponse=True)
    assert ended["status"] == "Failed"
    assert "have 30 valid records that pass the filters, at least 100" in ended["failureMessage"]


def test_logs_without_a_bucket_fail_the_job(jobs: SimpleNamespace) -> None:
    ended = job(jobs, "log-4", "s3://not-there/logs/")
    assert ended["failureMessage"] == "The bucket of s3://not-there/logs/ does not exist."


def test_only_distillation_learns_from_logs(bedrock: Any, jobs: SimpleNamespace) -> None:
    source = {"invocationLogSource": {"s3Uri": f"s3://{BUCKET}/logs/"}}
    request = jobs.request(
        "log-5",
        "",
        trainingDataConfig={"invocationLogsConfig": source},
        customizationType="FINE_TUNING",
    )
    del request["customizationConfig"]
    with pytest.raises(botocore.exceptions.ClientError, match="does not learn from invocation"):
        bedrock.create_model_customization_job(**request)
    both = {"s3Uri": f"s3://{BUCKET}/x.jsonl", "invocationLogsConfig": source}
    with pytest.raises(botocore.exceptions.ClientError, match="needs either s3Uri or"):
        bedrock.create_model_customization_job(**jobs.request("log-6", "", trainingDataConfig=both))


@pytest.mark.parametrize(
    ("wanted", "metadata", "expected"),
    [
        ({"equals": {"a": "1"}}, {"a": "1", "b": "2"}, True),
        ({"equals": {"a": "1"}}, {"a": "2"}, False),
        ({"equals": {"a": "1"}}, {}, False),
        ({"notEquals": {"a": "1"}}, {"a": "2"}, True),
        ({"notEquals": {"a": "1"}}, {"a": "1"}, False),
        ({"andAll": [{"equals": {"a": "1"}}, {"notEquals": {"b": "2"}}]}, {"a": "1"}, True),
        ({"andAll": [{"equals": {"a": "1"}}, {"equals": {"b": "2"}}]}, {"a": "1"}, False),
        ({"orAll": [{"equals": {"a": "1"}}, {"equals": {"b": "2"}}]}, {"b": "2"}, True),
        ({"orAll": [{"equals": {"a": "1"}}, {"equals": {"b": "2"}}]}, {"b": "1"}, False),
    ],
)
def test_a_filter_passes_what_it_names(
    wanted: dict[str, Any], metadata: dict[str, str], expected: bool
) -> None:
    assert passes(wanted, metadata) is expected
