"""The log of calls."""

import hashlib
import json
import urllib.request
from collections.abc import Callable
from typing import Any

from deployments.embedded.aws import EmbeddedAws


def control(aws: EmbeddedAws, place: str) -> Any:
    with urllib.request.urlopen(f"{aws.endpoint_url}/_embedded/{place}") as response:
        return json.load(response)


def test_a_question_is_logged_with_its_model_and_the_hash_of_its_text(
    aws: EmbeddedAws, ask: Callable[..., str]
) -> None:
    ask("dog barking loudly")
    call = aws.calls()[-1]
    assert (call.service, call.operation) == ("bedrock-runtime", "Converse")
    assert (call.model_id, call.status, call.fault) == ("embedded.teacher-v1:0", 200, "")
    assert call.text_sha256 == hashlib.sha256(b"dog barking loudly").hexdigest()


def test_s3_calls_are_named_by_operation(aws: EmbeddedAws) -> None:
    s3 = aws.client("s3")
    s3.put_object(Bucket=aws.bucket, Key="a/b", Body=b"x")
    s3.get_object(Bucket=aws.bucket, Key="a/b")["Body"].read()
    s3.list_objects_v2(Bucket=aws.bucket)
    s3.head_object(Bucket=aws.bucket, Key="a/b")
    names = [call.operation for call in aws.calls()[-4:]]
    assert names == ["PutObject", "GetObject", "ListObjectsV2", "HeadObject"]


def test_the_log_is_served_whole_and_summed_up(aws: EmbeddedAws, ask: Callable[..., str]) -> None:
    before = len(aws.calls())
    ask("one")
    ask("two")
    served = control(aws, "calls")
    assert len(served) == before + 2
    assert [call["sequence"] for call in served] == list(range(1, len(served) + 1))
    summary = control(aws, "calls/summary")
    assert summary["calls"] == before + 2
    rows = {(r["operation"], r["model_id"]): r["calls"] for r in summary["by_operation"]}
    assert rows["Converse", "embedded.teacher-v1:0"] >= 2


def test_health_names_the_process(aws: EmbeddedAws) -> None:
    import os

    assert control(aws, "health") == {"status": "ok", "pid": os.getpid()}
