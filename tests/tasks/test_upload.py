"""Upload: every line as the service wants it, once for each content, read back."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest

import tasks.upload
from data_contracts.conversation import parse_line
from data_contracts.queries import LabelledQuery, UnlabelledQuery
from reelroute.errors import AwsError, StageError
from reelroute.parsing import parse_strict
from reelroute.weights import RoutingWeights
from tasks.base import StageContext
from tasks.upload import build_training_file, upload_training_file
from tests.support import CallsSince, Place, corpus_rows, fault, jsonl, record

pytestmark = pytest.mark.usefixtures("prefect_server")


def uploading(place: Place, rows: list[LabelledQuery], run_id: str = "run-1") -> StageContext:
    run = place.run(run_id)
    file = run.put_text("dataset/train.jsonl", jsonl(rows))
    return place.stage(
        "upload", run=run, upstream={"validate": record(run, "validate", files={"train": file})}
    )


def test_every_line_is_a_conversation_record_with_the_routers_prompt(place: Place) -> None:
    rows = list(corpus_rows(20))
    stage = uploading(place, rows)
    lines = build_training_file(stage).decode().splitlines()
    assert len(lines) == 20
    for line, row in zip(lines, rows, strict=True):
        found = parse_line(line)
        assert found.system is not None
        assert found.system[0].text == stage.settings.prompt("router").text
        assert found.user_text == row.query
        weights = parse_strict(found.assistant_text or "")
        assert weights.values() == pytest.approx(row.weights.values())
        assert weights.reasoning == row.reasoning


def test_line_separators_inside_a_query_do_not_break_its_line(place: Place) -> None:
    weights = RoutingWeights(visual=1, audio=0, transcription=0, metadata=0, reasoning="a\u2028b")
    odd = 'say "hi" \u2028 \u0085 \\ ☀'
    row = LabelledQuery.from_weights(odd, weights, labelled_by="me")
    (line,) = build_training_file(uploading(place, [row])).decode().split("\n")[:-1]
    assert parse_line(line).user_text == odd


def test_the_same_rows_give_the_same_bytes(place: Place) -> None:
    rows = list(corpus_rows(5))
    one, two = uploading(place, rows), uploading(place, rows, "run-2")
    assert build_training_file(one) == build_training_file(two)


def test_a_file_that_is_too_large_is_refused(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks.upload, "MAX_FILE_BYTES", 100)
    with pytest.raises(StageError, match=r"the service takes 100: lower `label\.size`"):
        build_training_file(uploading(place, list(corpus_rows(1))))


def test_the_file_lies_under_its_own_hash_encrypted(place: Place) -> None:
    stage = uploading(place, [])
    file, known = upload_training_file(stage, b"one\n")
    digest = hashlib.sha256(b"one\n").hexdigest()
    assert (file.key, file.sha256, file.bytes) == (f"datasets/{digest}/train.jsonl", digest, 4)
    assert not known
    head = place.aws.client("s3").head_object(Bucket=place.bucket, Key=file.key)
    assert head["ServerSideEncryption"] == "AES256"


def test_the_same_content_is_uploaded_once_for_all_runs(place: Place, calls: CallsSince) -> None:
    one, two = uploading(place, []), uploading(place, [], "run-2")
    before = calls.count("PutObject")
    first, _ = upload_training_file(one, b"one\n")
    assert calls.count("PutObject") == before + 1
    second, known = upload_training_file(two, b"one\n")
    assert calls.count("PutObject") == before + 1
    assert (first, known) == (second, True)


def test_a_half_written_upload_is_replaced(place: Place) -> None:
    stage = uploading(place, [])
    digest = hashlib.sha256(b"one\n").hexdigest()
    stage.storage.put(f"datasets/{digest}/train.jsonl", b"on")
    file, known = upload_training_file(stage, b"one\n")
    assert not known
    assert stage.storage.read(file) == b"one\n"


def test_an_upload_that_is_refused_is_an_error_and_not_a_file(place: Place) -> None:
    stage = uploading(place, [])
    with fault(place.aws, "wrong-credentials"), pytest.raises(AwsError):
        upload_training_file(stage, b"one\n")
    assert list(stage.storage.keys("datasets/")) == []


def test_prompts_follow_the_labelled_rows_without_an_answer(place: Place) -> None:
    rows, prompts = list(corpus_rows(2)), ["a dog barks", 'say "hi" \u2028 ☀']
    stage = uploading(place, rows)
    text = "".join(UnlabelledQuery(query=query).model_dump_json() + "\n" for query in prompts)
    validate = stage.upstream["validate"]
    files = {**validate.files, "prompts": stage.run.put_text("dataset/prompts.jsonl", text)}
    stage = replace(stage, upstream={"validate": validate.model_copy(update={"files": files})})
    found = [parse_line(line) for line in build_training_file(stage).decode().split("\n")[:-1]]
    assert [record.user_text for record in found] == [*(row.query for row in rows), *prompts]
    assert [record.assistant_text is None for record in found] == [False, False, True, True]
    assert {record.system[0].text for record in found if record.system} == {
        stage.settings.prompt("router").text
    }
