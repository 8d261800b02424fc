"""An embedded AWS for each module of this room, with a trained and deployed student."""

import json
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from data_contracts.conversation import ConversationRecord
from deployments.embedded.aws import EmbeddedAws
from deployments.embedded.models.answers import bare_json_of
from deployments.embedded.models.corpus import recorded_answers
from deployments.embedded.models.large_baseline import without_held_out

ROLE = "arn:aws:iam::123456789012:role/reelroute"
BUCKET = "embedded-tests"
TEACHER = "embedded.teacher-v1:0"
STUDENT = "embedded.light-student-v1:0"
JUDGE = "embedded.rubric-judge-v1:0"


def poll(ask: Callable[[], Any], done: Callable[[Any], bool], seconds: float = 30) -> Any:
    """Ask until the answer is final; fail after so many seconds."""
    deadline = time.monotonic() + seconds
    while not done(answer := ask()):
        assert time.monotonic() < deadline, f"still {answer} after {seconds} s"
        time.sleep(0.02)
    return answer


@pytest.fixture(scope="module")
def _aws() -> Iterator[EmbeddedAws]:
    with EmbeddedAws(bucket=BUCKET) as aws:
        yield aws


@pytest.fixture
def aws(_aws: EmbeddedAws) -> Iterator[EmbeddedAws]:
    yield _aws
    _aws.faults.clear()


@pytest.fixture(scope="module")
def bedrock(_aws: EmbeddedAws) -> Any:
    return _aws.client("bedrock")


@pytest.fixture(scope="module")
def runtime(_aws: EmbeddedAws) -> Any:
    return _aws.client("bedrock-runtime")


@pytest.fixture(scope="module")
def s3(_aws: EmbeddedAws) -> Any:
    return _aws.client("s3")


@pytest.fixture(scope="module")
def ask(runtime: Any) -> Callable[..., str]:
    """The text that a model answers to one user turn."""

    def converse(text: str, model_id: str = TEACHER, **more: Any) -> str:
        turn = {"role": "user", "content": [{"text": text}]}
        answer = runtime.converse(modelId=model_id, messages=[turn], **more)
        return str(answer["output"]["message"]["content"][0]["text"])

    return converse


@pytest.fixture(scope="module")
def training_lines() -> list[str]:
    """Labelled records of a training file: 600 of the corpus, none held out."""
    answers = without_held_out(recorded_answers()[:650])[:600]
    return [ConversationRecord.of("s", a.query, bare_json_of(a.weights)).to_line() for a in answers]


@pytest.fixture(scope="module")
def put(s3: Any) -> Callable[[str, list[str]], str]:
    """Upload lines and say where."""

    def upload(key: str, lines: list[str]) -> str:
        s3.put_object(Bucket=BUCKET, Key=key, Body="\n".join(lines).encode())
        return f"s3://{BUCKET}/{key}"

    return upload


@pytest.fixture(scope="module")
def jobs(bedrock: Any) -> SimpleNamespace:
    """Start customization jobs and wait for their end."""

    def request(name: str, uri: str, **more: Any) -> dict[str, Any]:
        distillation = {"teacherModelConfig": {"teacherModelIdentifier": TEACHER}}
        return {
            "jobName": name,
            "customModelName": f"model-{name}",
            "roleArn": ROLE,
            "baseModelIdentifier": STUDENT,
            "customizationType": "DISTILLATION",
            "trainingDataConfig": {"s3Uri": uri},
            "outputDataConfig": {"s3Uri": f"s3://{BUCKET}/jobs/"},
            "customizationConfig": {"distillationConfig": distillation},
            **more,
        }

    def wait(identifier: str) -> dict[str, Any]:
        return poll(
            lambda: bedrock.get_model_customization_job(jobIdentifier=identifier),
            lambda job: job["status"] not in ("InProgress", "Stopping"),
        )

    def run(name: str, uri: str, **more: Any) -> dict[str, Any]:
        wanted = request(name, uri, **more)
        return wait(bedrock.create_model_customization_job(**wanted)["jobArn"])

    def create(wanted: dict[str, Any]) -> str:
        return str(bedrock.create_model_customization_job(**wanted)["jobArn"])

    return SimpleNamespace(request=request, create=create, wait=wait, run=run)


@pytest.fixture(scope="module")
def trained(
    jobs: SimpleNamespace, put: Callable[[str, list[str]], str], training_lines: list[str]
) -> dict[str, Any]:
    """A completed job."""
    return jobs.run("trained", put("data/trained.jsonl", training_lines))


@pytest.fixture(scope="module")
def deployed(bedrock: Any, trained: dict[str, Any]) -> str:
    """The ARN of an active deployment of the trained student."""
    arn = bedrock.create_custom_model_deployment(
        modelDeploymentName="deployed", modelArn=trained["outputModelArn"]
    )["customModelDeploymentArn"]
    wait_active(bedrock, arn)
    return arn


def wait_active(bedrock: Any, arn: str) -> dict[str, Any]:
    """The deployment once it is no longer Creating."""
    return poll(
        lambda: bedrock.get_custom_model_deployment(customModelDeploymentIdentifier=arn),
        lambda deployment: deployment["status"] != "Creating",
    )


@pytest.fixture(scope="module")
def helpers() -> SimpleNamespace:
    """What tests share that is no fixture."""
    return SimpleNamespace(
        poll=poll,
        wait_active=wait_active,
        loads=json.loads,
        BUCKET=BUCKET,
        ROLE=ROLE,
        TEACHER=TEACHER,
        STUDENT=STUDENT,
        JUDGE=JUDGE,
    )
