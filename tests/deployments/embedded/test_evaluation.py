"""Evaluation jobs: own responses in, one judged line a prompt out."""

import json
from collections.abc import Callable
from typing import Any

import botocore.exceptions
import pytest

from deployments.embedded.models.answers import bare_json, bare_json_of
from deployments.embedded.models.corpus import recorded_answers

Put = Callable[[str, list[str]], str]
Start = Callable[..., str]
INSTRUCTIONS = "Judge {{prediction}} for {{prompt}} by {{ground_truth}}."


@pytest.fixture
def start(bedrock: Any) -> Start:
    """Start a job and give its ARN."""

    def create(
        name: str,
        uri: str,
        *,
        instructions: str = INSTRUCTIONS,
        source: str = "distilled",
        judge: str = "embedded.rubric-judge-v1:0",
        task: str = "General",
        scale: tuple[int, ...] = (1, 2, 3, 4, 5),
        metrics: tuple[str, ...] = ("Routing",),
        **more: Any,
    ) -> str:
        evaluator = {"bedrockEvaluatorModels": [{"modelIdentifier": judge}]}
        definition = {
            "name": "Routing",
            "instructions": instructions,
            "ratingScale": [
                {"definition": str(step), "value": {"floatValue": step}} for step in scale
            ],
        }
        dataset = {"name": "bench", "datasetLocation": {"s3Uri": uri}}
        request = {
            "jobName": name,
            "roleArn": "arn:aws:iam::123456789012:role/reelroute",
            "applicationType": "ModelEvaluation",
            "evaluationConfig": {
                "automated": {
                    "datasetMetricConfigs": [
                        {"taskType": task, "dataset": dataset, "metricNames": list(metrics)}
                    ],
                    "evaluatorModelConfig": evaluator,
                    "customMetricConfig": {
                        "customMetrics": [{"customMetricDefinition": definition}],
                        "evaluatorModelConfig": evaluator,
                    },
                }
            },
            "inferenceConfig": {
                "models": [{"precomputedInferenceSource": {"inferenceSourceIdentifier": source}}]
            },
            "outputDataConfig": {"s3Uri": "s3://embedded-tests/judged/"},
            **more,
        }
        return str(bedrock.create_evaluation_job(**request)["jobArn"])

    return create


@pytest.fixture
def wait(bedrock: Any, helpers: Any) -> Callable[[str], dict[str, Any]]:
    def ended(arn: str) -> dict[str, Any]:
        job: dict[str, Any] = helpers.poll(
            lambda: bedrock.get_evaluation_job(jobIdentifier=arn),
            lambda job: job["status"] not in ("InProgress", "Stopping"),
        )
        return job

    return ended


def own(prompt: str, reference: str | None, response: str, model: str = "distilled") -> str:
    record: dict[str, Any] = {
        "prompt": prompt,
        "modelResponses": [{"response": response, "modelIdentifier": model}],
    }
    if reference is not None:
        record["referenceResponse"] = reference
    return json.dumps(record)


def recorded(count: int) -> list[str]:
    return [
        own(answer.query, bare_json_of(answer.weights), bare_json_of(answer.weights))
        for answer in recorded_answers()[:count]
    ]


def test_the_output_lies_and_reads_as_the_service_writes_it(
    start: Start, wait: Callable[[str], dict[str, Any]], put: Put, s3: Any
) -> None:
    reference = {"visual": 0.3, "audio": 0.6, "transcription": 0.0, "metadata": 0.1}
    far = {"visual": 0.9, "audio": 0.0, "transcription": 0.0, "metadata": 0.1}
    good = "Barking is a sound, and a dog may be seen."
    truth = bare_json(reference, good)
    lines = [
        own("dog barking loudly", truth, truth),
        own("dog barking", truth, bare_json(reference, "")),
        own("dog barks", truth, bare_json(far, "The dog is seen more than it is heard.")),
        own("a dog", truth, "I would look at the sound."),
        own("dogs", "no weights here", bare_json(reference, "Dogs are heard and seen.")),
    ]
    arn = start("output", put("eval/output.jsonl", lines))
    job = wait(arn)
    assert (job["status"], job["jobType"]) == ("Completed", "Automated")
    folder = f"judged/output/{arn.rsplit('/', 1)[-1]}/models/distilled/taskTypes/General/datasets"
    listed = s3.list_objects_v2(Bucket="embedded-tests", Prefix=f"{folder}/bench/")["Contents"]
    assert len(listed) == 1
    assert listed[0]["Key"].endswith("_output.jsonl")
    text = s3.get_object(Bucket="embedded-tests", Key=listed[0]["Key"])["Body"].read().decode()
    judged = [json.loads(line) for line in text.splitlines()]
    scores = [line["automatedEvaluationResult"]["scores"][0] for line in judged]
    assert [score["result"] for score in scores] == [5.0, 4.0, 2.0, 1.0, None]
    assert judged[0]["inputRecord"] == {"prompt": "dog barking loudly", "referenceResponse": truth}
    assert judged[0]["modelResponses"] == [{"response": truth, "modelIdentifier": "distilled"}]
    assert scores[0]["metricName"] == "Routing"
    details = scores[0]["evaluatorDetails"][0]
    assert details["modelIdentifier"] == "embedded.rubric-judge-v1:0"
    assert details["explanation"]


@pytest.mark.parametrize(
    ("name", "lines", "problem"),
    [
        ("slug", [own("q", "r", "a", "other")], "'other' is not the job's"),
        ("truth", [own("q", None, "a")], "the referenceResponse is empty"),
        ("keys", [own("q", "r", "a").replace('"prompt"', '"extra": 1, "prompt"')], "extra"),
        ("none", ['{"prompt": "q", "modelResponses": []}'], "at least 1 item"),
        ("json", ["prompt"], "Line 1"),
        ("many", [own("q", "r", "a")] * 1_001, "1,001 prompts"),
    ],
)
def test_a_wrong_data_set_fails_the_job_with_its_line(
    start: Start,
    wait: Callable[[str], dict[str, Any]],
    put: Put,
    name: str,
    lines: list[str],
    problem: str,
) -> None:
    job = wait(start(f"bad-{name}", put(f"eval/{name}.jsonl", lines)))
    assert job["status"] == "Failed"
    assert problem in job["failureMessages"][0]


def test_a_missing_data_set_fails_the_job(
    start: Start, wait: Callable[[str], dict[str, Any]]
) -> None:
    job = wait(start("missing", "s3://embedded-tests/eval/missing.jsonl"))
    assert job["failureMessages"] == [
        "The object s3://embedded-tests/eval/missing.jsonl does not exist."
    ]


def test_a_score_that_is_not_on_the_scale_is_null(
    start: Start, wait: Callable[[str], dict[str, Any]], put: Put, s3: Any
) -> None:
    wait(start("scale", put("eval/scale.jsonl", recorded(3)), scale=(0, 1)))
    (listed,) = s3.list_objects_v2(Bucket="embedded-tests", Prefix="judged/scale/")["Contents"]
    text = s3.get_object(Bucket="embedded-tests", Key=listed["Key"])["Body"].read().decode()
    results = [
        json.loads(line)["automatedEvaluationResult"]["scores"][0]["result"]
        for line in text.splitlines()
    ]
    assert results == [None] * 3


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"name": "Upper-Case"}, "at 'jobName' failed to satisfy constraint"),
        ({"instructions": "Judge {{prompt}}."}, r"lack \{\{prediction\}\}"),
        ({"instructions": "x" * 5_001}, "length less than or equal to 5000"),
        ({"source": "a:b"}, "at 'inferenceConfig.models.1.member.precomputedInferenceSource"),
        ({"judge": "embedded.teacher-v1:0"}, "evaluator model .* is not supported"),
        ({"task": "Routing"}, "Member must satisfy enum value set"),
        ({"metrics": ("Builtin.Correctness",)}, "'Builtin.Correctness' is not defined"),
        ({"scale": tuple(range(11))}, "length less than or equal to 10"),
        (
            {
                "inferenceConfig": {
                    "models": [{"bedrockModel": {"modelIdentifier": "amazon.nova-pro-v1:0"}}]
                }
            },
            "reads own responses",
        ),
    ],
)
@pytest.mark.off_model
def test_a_wrong_request_is_refused(start: Start, change: dict[str, Any], problem: str) -> None:
    arguments = {"name": "wrong", "uri": "s3://embedded-tests/eval/x.jsonl", **change}
    with pytest.raises(botocore.exceptions.ClientError, match=problem) as caught:
        start(**arguments)
    assert caught.value.response["Error"]["Code"] == "ValidationException"


def test_the_same_token_is_the_same_job_and_a_name_is_taken_once(
    start: Start, wait: Callable[[str], dict[str, Any]], put: Put
) -> None:
    uri = put("eval/token.jsonl", recorded(5))
    first = start("token", uri, clientRequestToken="judge-1")
    assert start("token", uri, clientRequestToken="judge-1") == first
    with pytest.raises(botocore.exceptions.ClientError, match="ConflictException"):
        start("token", uri, clientRequestToken="judge-2")
    wait(first)


def test_jobs_are_listed_in_pages_of_five_at_most_and_an_empty_listing_has_no_member(
    start: Start, wait: Callable[[str], dict[str, Any]], put: Put, bedrock: Any
) -> None:
    uri = put("eval/paged.jsonl", recorded(2))
    arns = {start(f"paged-{n}", uri) for n in range(6)}
    for arn in arns:
        wait(arn)
    pages = list(bedrock.get_paginator("list_evaluation_jobs").paginate(nameContains="paged"))
    assert [len(page["jobSummaries"]) for page in pages] == [5, 1]
    assert {job["jobArn"] for page in pages for job in page["jobSummaries"]} == arns
    assert "jobSummaries" not in bedrock.list_evaluation_jobs(nameContains="nobody")


def test_ended_jobs_are_listed_and_deleted(
    start: Start, wait: Callable[[str], dict[str, Any]], put: Put, bedrock: Any
) -> None:
    arn = start("listed", put("eval/listed.jsonl", recorded(5)))
    wait(arn)
    (summary,) = bedrock.list_evaluation_jobs(nameContains="listed", statusEquals="Completed")[
        "jobSummaries"
    ]
    assert summary["jobArn"] == arn
    with pytest.raises(botocore.exceptions.ClientError, match="is Completed"):
        bedrock.stop_evaluation_job(jobIdentifier=arn)
    unknown = f"{arn[:-12]}{'0' * 12}"
    answer = bedrock.batch_delete_evaluation_job(jobIdentifiers=[arn, unknown])
    assert answer["evaluationJobs"] == [{"jobIdentifier": arn, "jobStatus": "Deleting"}]
    assert [error["jobIdentifier"] for error in answer["errors"]] == [unknown]
    with pytest.raises(botocore.exceptions.ClientError, match="ResourceNotFoundException"):
        bedrock.get_evaluation_job(jobIdentifier=arn)
