"""Batch inference jobs: records in, an answer or an error a record out, in no order."""

import json
from collections.abc import Callable
from typing import Any

import botocore.exceptions
import pytest

from deployments.embedded.aws import EmbeddedAws
from deployments.embedded.faults import RECORD_ERRORS, STUCK_JOBS, TEACHER_ANSWERS, UNFINISHED_JOBS
from deployments.embedded.models.answers import bare_json_of
from deployments.embedded.models.corpus import recorded_answers

Put = Callable[[str, list[str]], str]
Jobs = Callable[..., dict[str, Any]]
BUCKET = "embedded-tests"
TEACHER = "embedded.teacher-v1:0"


def record(number: int, text: str, **more: Any) -> str:
    turn = {"role": "user", "content": [{"text": text}]}
    body = {"messages": [turn], "system": [{"text": "Weigh."}], **more}
    return json.dumps({"recordId": f"r{number}", "modelInput": body})


def recorded(count: int = 100) -> list[str]:
    return [record(n, answer.query) for n, answer in enumerate(recorded_answers()[:count])]


def request(name: str, uri: str, **more: Any) -> dict[str, Any]:
    return {
        "jobName": name,
        "roleArn": "arn:aws:iam::123456789012:role/reelroute",
        "modelId": TEACHER,
        "modelInvocationType": "Converse",
        "inputDataConfig": {"s3InputDataConfig": {"s3Uri": uri}},
        "outputDataConfig": {"s3OutputDataConfig": {"s3Uri": f"s3://{BUCKET}/batch/"}},
        **more,
    }


@pytest.fixture
def run(bedrock: Any, helpers: Any) -> Jobs:
    """Start a job and wait for its end."""

    def ended(name: str, uri: str, **more: Any) -> dict[str, Any]:
        arn = bedrock.create_model_invocation_job(**request(name, uri, **more))["jobArn"]
        job: dict[str, Any] = helpers.poll(
            lambda: bedrock.get_model_invocation_job(jobIdentifier=arn),
            lambda job: "endTime" in job,
        )
        return job

    return ended


@pytest.fixture
def output(s3: Any) -> Callable[[dict[str, Any]], list[dict[str, Any]]]:
    """The lines that a job has left."""

    def lines(job: dict[str, Any]) -> list[dict[str, Any]]:
        name = job["inputDataConfig"]["s3InputDataConfig"]["s3Uri"].rpartition("/")[2]
        key = f"batch/{job['jobArn'].rpartition('/')[2]}/{name}.out"
        body = s3.get_object(Bucket=BUCKET, Key=key)["Body"].read()
        return [json.loads(line) for line in body.splitlines()]

    return lines


Output = Callable[[dict[str, Any]], list[dict[str, Any]]]


def test_every_record_has_its_answer_and_the_output_is_in_another_order(
    run: Jobs, output: Output, put: Put, s3: Any
) -> None:
    job = run("all", put("in/all.jsonl", recorded()), timeoutDurationInHours=48)
    assert job["status"] == "Completed"
    assert (job["jobExpirationTime"] - job["submitTime"]).total_seconds() == 48 * 3600
    lines = output(job)
    ids = [line["recordId"] for line in lines]
    assert sorted(ids) == sorted(f"r{n}" for n in range(100))
    assert ids != [f"r{n}" for n in range(100)]
    texts = {
        line["recordId"]: line["modelOutput"]["output"]["message"]["content"][0]["text"]
        for line in lines
    }
    for number, answer in enumerate(recorded_answers()[:100]):
        assert texts[f"r{number}"] == bare_json_of(answer.weights)
    key = f"batch/{job['jobArn'].rpartition('/')[2]}/manifest.json.out"
    manifest = json.loads(s3.get_object(Bucket=BUCKET, Key=key)["Body"].read())
    counts = {name: job[name] for name in manifest if name in job}
    assert counts == {
        "totalRecordCount": 100,
        "processedRecordCount": 100,
        "successRecordCount": 100,
        "errorRecordCount": 0,
    }
    used = [line["modelOutput"]["usage"] for line in lines]
    assert manifest["inputTokenCount"] == sum(usage["inputTokens"] for usage in used)
    assert manifest["outputTokenCount"] == sum(usage["outputTokens"] for usage in used)


def test_a_record_that_the_model_refuses_has_its_error_and_the_others_their_answers(
    run: Jobs, output: Output, put: Put
) -> None:
    bad = [record(100, " "), record(101, "dog", inferenceConfig={"maxTokens": 0})]
    job = run("refused", put("in/refused.jsonl", [*recorded(), *bad]))
    assert (job["status"], job["successRecordCount"], job["errorRecordCount"]) == (
        "Completed",
        100,
        2,
    )
    errors = {line["recordId"]: line["error"] for line in output(job) if "error" in line}
    assert {error["errorCode"] for error in errors.values()} == {400}
    assert "is blank" in errors["r100"]["errorMessage"]
    assert "inferenceConfig.maxTokens" in errors["r101"]["errorMessage"]


@pytest.mark.parametrize(
    ("name", "lines", "said"),
    [
        ("few.jsonl", recorded(99), "has 99 records, allowed are 100 to 50,000"),
        ("many.jsonl", ["{}"] * 50_001, "has 50,001 records, allowed are 100 to 50,000"),
        ("torn.jsonl", [*recorded(), "{"], "Line 101 of s3://embedded-tests/in/torn.jsonl is not"),
        ("other.jsonl", [*recorded(), '{"recordId": "a"}'], "has no recordId or no modelInput"),
        ("text.txt", recorded(), "is not a .jsonl file"),
    ],
)
def test_a_file_that_is_no_batch_fails_the_job_before_anything_is_asked(
    name: str, lines: list[str], said: str, run: Jobs, put: Put
) -> None:
    job = run(name.replace(".", "-"), put(f"in/{name}", lines))
    assert job["status"] == "Failed"
    assert said in job["message"]
    assert job["processedRecordCount"] == 0


@pytest.mark.off_model
@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"modelId": "embedded.nobody-v1:0"}, "model identifier is invalid"),
        ({"modelInvocationType": "InvokeModel"}, "Converse only"),
        ({"timeoutDurationInHours": 169}, "less than or equal to 168"),
        ({"jobName": "a_b"}, "regular expression pattern"),
    ],
)
def test_an_impossible_job_is_refused(more: dict[str, Any], said: str, bedrock: Any) -> None:
    with pytest.raises(botocore.exceptions.ClientError, match="ValidationException") as error:
        bedrock.create_model_invocation_job(
            **{**request("no", f"s3://{BUCKET}/in/x.jsonl"), **more}
        )
    assert said in str(error.value)


def test_a_repeated_token_makes_no_second_job_and_a_name_is_taken_once(
    bedrock: Any, put: Put
) -> None:
    uri = put("in/once.jsonl", recorded())
    first = bedrock.create_model_invocation_job(**request("once", uri, clientRequestToken="t1"))
    again = bedrock.create_model_invocation_job(**request("once", uri, clientRequestToken="t1"))
    assert first["jobArn"] == again["jobArn"]
    with pytest.raises(botocore.exceptions.ClientError, match="ConflictException"):
        bedrock.create_model_invocation_job(**request("once", uri, clientRequestToken="t2"))
    listed = bedrock.list_model_invocation_jobs(nameContains="once")["invocationJobSummaries"]
    assert [job["jobName"] for job in listed] == ["once"]


def test_tags_can_be_read_from_a_job(bedrock: Any, run: Jobs, put: Put) -> None:
    tags = [{"key": "project", "value": "reelroute"}]
    job = run("tagged", put("in/tagged.jsonl", recorded()), tags=tags)
    assert bedrock.list_tags_for_resource(resourceARN=job["jobArn"])["tags"] == tags


def test_a_job_that_times_out_halfway_leaves_what_it_has(
    aws: EmbeddedAws, run: Jobs, output: Output, put: Put
) -> None:
    aws.faults.set(UNFINISHED_JOBS)
    job = run("halfway", put("in/halfway.jsonl", recorded()))
    assert (job["status"], job["totalRecordCount"]) == ("PartiallyCompleted", 100)
    assert job["processedRecordCount"] == len(output(job)) == 50


def test_a_job_that_times_out_before_it_begins_leaves_nothing(
    aws: EmbeddedAws, run: Jobs, put: Put, s3: Any
) -> None:
    aws.faults.set(UNFINISHED_JOBS, style="unbegun")
    job = run("unbegun", put("in/unbegun.jsonl", recorded()))
    assert (job["status"], job["processedRecordCount"]) == ("Expired", 0)
    prefix = f"batch/{job['jobArn'].rpartition('/')[2]}"
    assert "Contents" not in s3.list_objects_v2(Bucket=BUCKET, Prefix=prefix)


def test_a_stopped_job_ends_as_stopped_and_an_ended_one_cannot_be_stopped(
    aws: EmbeddedAws, bedrock: Any, helpers: Any, put: Put
) -> None:
    aws.faults.set(STUCK_JOBS)
    uri = put("in/stopped.jsonl", recorded())
    arn = bedrock.create_model_invocation_job(**request("stopped", uri))["jobArn"]
    bedrock.stop_model_invocation_job(jobIdentifier=arn)
    job = helpers.poll(
        lambda: bedrock.get_model_invocation_job(jobIdentifier=arn), lambda job: "endTime" in job
    )
    assert (job["status"], job["processedRecordCount"]) == ("Stopped", 0)
    with pytest.raises(botocore.exceptions.ClientError, match="ConflictException"):
        bedrock.stop_model_invocation_job(jobIdentifier=arn)


@pytest.mark.parametrize(("style", "code"), [("bad-request", 400), ("internal", 500)])
def test_a_share_of_the_records_errs(
    style: str, code: int, aws: EmbeddedAws, run: Jobs, output: Output, put: Put
) -> None:
    aws.faults.set(RECORD_ERRORS, rate=0.1, seed=1, style=style)
    job = run(f"errs-{code}", put("in/errs.jsonl", recorded()))
    errors = [line["error"] for line in output(job) if "error" in line]
    assert job["status"] == "Completed"
    assert len(errors) == job["errorRecordCount"] > 0
    assert {error["errorCode"] for error in errors} == {code}


def test_the_teachers_answers_can_be_spoilt_in_a_batch_too(
    aws: EmbeddedAws, run: Jobs, output: Output, put: Put
) -> None:
    aws.faults.set(TEACHER_ANSWERS, style="empty")
    job = run("spoilt", put("in/spoilt.jsonl", recorded()))
    texts = {line["modelOutput"]["output"]["message"]["content"][0]["text"] for line in output(job)}
    assert texts == {""}
