"""Distill: one job for an attempt, found again, and an identical model is not trained twice."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from typing import Any

import pytest

from data_contracts.conversation import ConversationRecord
from reelroute.aws import AwsAccess
from reelroute.errors import BudgetExceeded, StageError
from tasks.answer_text import answer_text
from tasks.base import StageContext
from tasks.distill import (
    find_identical_model,
    fingerprint,
    model_exists,
    models_still_there,
    start_job,
    training_cost,
    wait_for_model,
)
from tests.conftest import Finished
from tests.support import CallsSince, Place, corpus_rows, record

pytestmark = pytest.mark.usefixtures("prefect_server")

CREATE = "CreateModelCustomizationJob"


def distilling(
    place: Place,
    run_id: str = "run-1",
    *,
    rows: int = 120,
    start: int = 0,
    uri: str | None = None,
    **more: Any,
) -> StageContext:
    run = place.run(run_id)
    lines = [
        ConversationRecord.of("prompt", row.query, answer_text(row.weights)).to_line()
        for row in corpus_rows(rows, start)
    ]
    data = "".join(f"{line}\n" for line in lines).encode()
    file = run.storage.put_file(f"datasets/{rows}-{start}/train.jsonl", data, "text/plain")
    uri = uri or run.storage.uri(file.key)
    upload = record(run, "upload", files={"training": file}, resources={"training_uri": uri})
    return place.stage("distill", run=run, upstream={"upload": upload}, **more)


def job(place: Place, arn: str) -> dict[str, Any]:
    found: dict[str, Any] = place.aws.client("bedrock").get_model_customization_job(
        jobIdentifier=arn
    )
    return found


def test_an_attempt_finds_its_job_again_instead_of_starting_a_second(
    place: Place, calls: CallsSince
) -> None:
    arn = start_job(distilling(place))
    assert start_job(distilling(place)) == arn
    assert calls.count(CREATE) == 1
    stage = distilling(place)
    assert job(place, arn)["jobName"] == stage.name()
    assert job(place, arn)["clientRequestToken"] == stage.token()
    assert job(place, arn)["customizationType"] == "DISTILLATION"
    model = wait_for_model(stage, arn)
    assert model_exists(stage.settings, model.model_arn)
    assert not model.reused
    done = record(stage.run, "distill", resources={"model_arn": model.model_arn})
    assert models_still_there(stage.settings, done)
    assert start_job(distilling(place)) == arn
    assert calls.count(CREATE) == 1


def test_a_later_attempt_takes_up_the_job_that_an_earlier_one_started(
    place: Place, calls: CallsSince
) -> None:
    arn = start_job(distilling(place, rows=121))
    assert start_job(distilling(place, rows=121, attempt=2)) == arn
    assert calls.count(CREATE) == 1


def test_a_forced_attempt_starts_a_job_of_its_own(place: Place, calls: CallsSince) -> None:
    first = start_job(distilling(place, rows=122))
    forced = start_job(distilling(place, rows=122, attempt=2, forced=True))
    assert forced != first
    assert job(place, forced)["jobName"].endswith("-a2")
    assert calls.count(CREATE) == 2


def test_a_failed_job_speaks_with_the_services_words_and_the_next_attempt_has_a_new_name(
    place: Place, calls: CallsSince
) -> None:
    gone = f"s3://{place.bucket}/nothing.jsonl"
    first = distilling(place, uri=gone)
    arn = start_job(first)
    with pytest.raises(StageError) as error:
        wait_for_model(first, arn)
    assert "ended as Failed" in str(error.value)
    assert job(place, arn)["failureMessage"] in str(error.value)
    assert start_job(distilling(place, uri=gone)) == arn  # the attempt's own, failed as it is
    second = distilling(place, uri=gone, attempt=2)
    again = start_job(second)
    assert again != arn
    assert calls.count(CREATE) == 2
    assert job(place, again)["jobName"] == second.name() != first.name()
    assert job(place, again)["clientRequestToken"] == second.token() != first.token()


def test_too_few_records_fail_the_job_with_their_number(place: Place) -> None:
    stage = distilling(place, rows=20)
    with pytest.raises(StageError, match="20 valid records"):
        wait_for_model(stage, start_job(stage))


def test_an_identical_model_of_another_run_is_reused(place: Place, calls: CallsSince) -> None:
    first, second = distilling(place, rows=123), distilling(place, "run-2", rows=123)
    assert find_identical_model(first) is None
    model = wait_for_model(first, start_job(first))
    found = find_identical_model(second)
    assert found is not None
    assert (found.model_arn, found.reused) == (model.model_arn, True)
    assert calls.count(CREATE) == 1
    assert find_identical_model(distilling(place, "run-3", rows=124)) is None
    place.aws.client("bedrock").delete_custom_model(modelIdentifier=model.model_arn)
    assert find_identical_model(second) is None
    assert not model_exists(second.settings, model.model_arn)


def test_the_fingerprint_follows_data_teacher_student_and_settings(place: Place) -> None:
    base = fingerprint(distilling(place))
    assert base == fingerprint(distilling(place, "run-2", attempt=3))
    assert base != fingerprint(distilling(place, rows=130))
    for change in (
        {"distill__hyperparameters": {"epochCount": "3"}},
        {"distill__max_response_tokens": 299},
        {"models__distillation_teacher": "another"},
        {"models__student__customization_id": "another"},
    ):
        assert base != fingerprint(distilling(place, settings=place.settings(**change)))


def test_a_job_that_the_budget_does_not_allow_is_not_created(
    place: Place, calls: CallsSince
) -> None:
    with pytest.raises(
        BudgetExceeded, match=r"customization job reelroute-local-[0-9a-f]{6}-run-1"
    ):
        start_job(distilling(place, budget=0.0001))
    assert calls.count(CREATE) == 0


def test_the_estimate_counts_the_files_tokens_at_the_training_price(place: Place) -> None:
    stage = distilling(place)
    size = stage.upstream["upload"].files["training"].bytes
    cost = training_cost(stage)
    assert cost.input_tokens * 3 >= size > (cost.input_tokens - 1) * 3
    assert cost.usd == pytest.approx(cost.input_tokens * 0.001 / 1000)
    assert cost.simulated


def test_the_pipelines_model_is_there(finished: Finished) -> None:
    assert models_still_there(finished.place.settings(), finished.run.completed("distill"))


def asked_for(stage: StageContext, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What a job is asked for, with a client that only notes it."""
    noted: dict[str, Any] = {}

    class Bedrock:
        def get_paginator(self, _: str) -> Bedrock:
            return self

        def paginate(self, **_: str) -> list[dict[str, Any]]:
            return []

        def create_model_customization_job(self, **request: Any) -> dict[str, str]:
            noted.update(request)
            return {"jobArn": "arn"}

    monkeypatch.setattr(AwsAccess, "client", lambda self, service: Bedrock())
    start_job(stage)
    return noted


def test_fine_tuning_names_no_teacher_and_ends_in_a_model(place: Place) -> None:
    settings = place.settings(distill__customization="fine_tuning", models__distillation_teacher="")
    stage = distilling(place, rows=125, settings=settings)
    arn = start_job(stage)
    shown = job(place, arn)
    assert shown["customizationType"] == "FINE_TUNING"
    assert "customizationConfig" not in shown
    tuned = wait_for_model(stage, arn)
    assert model_exists(settings, tuned.model_arn)
    assert tuned.fingerprint != fingerprint(distilling(place, rows=125))
    assert find_identical_model(distilling(place, "run-2", rows=125)) is None


def test_key_and_network_pass_through_to_the_job(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = "arn:aws:kms:us-east-1:123456789012:alias/reelroute"
    stage = distilling(
        place,
        settings=place.settings(
            distill__kms_key_id=key,
            distill__vpc={"subnets": ["subnet-1", "subnet-2"], "security_groups": ["sg-1"]},
        ),
    )
    assert fingerprint(stage) != fingerprint(distilling(place))
    request = asked_for(stage, monkeypatch)
    assert request["customModelKmsKeyId"] == key
    assert request["vpcConfig"] == {
        "subnetIds": ["subnet-1", "subnet-2"],
        "securityGroupIds": ["sg-1"],
    }


@pytest.mark.parametrize(
    ("filters", "match", "asked"),
    [
        (None, "all", {"equals": {"reelroute": "production"}}),
        (
            [{"equals": {"a": "1"}}, {"not_equals": {"b": "2"}}],
            "all",
            {"andAll": [{"equals": {"a": "1"}}, {"notEquals": {"b": "2"}}]},
        ),
        (
            [{"equals": {"a": "1"}}, {"equals": {"b": "2"}}],
            "any",
            {"orAll": [{"equals": {"a": "1"}}, {"equals": {"b": "2"}}]},
        ),
        ([], "all", None),
    ],
)
def test_invocation_logs_are_named_with_their_filters(
    place: Place,
    filters: list[dict[str, Any]] | None,
    match: str,
    asked: dict[str, Any] | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    logs: dict[str, Any] = {
        "uri": "s3://the-logs/AWSLogs/",
        "match": match,
        "expected_records": 200,
    }
    if filters is not None:
        logs["filters"] = filters
    settings = place.settings(
        distill__training_data="invocation_logs", distill__invocation_logs=logs
    )
    request = asked_for(distilling(place, settings=settings), monkeypatch)
    config = request["trainingDataConfig"]["invocationLogsConfig"]
    assert config["invocationLogSource"] == {"s3Uri": "s3://the-logs/AWSLogs/"}
    assert config["usePromptResponse"] is False
    assert config.get("requestMetadataFilters") == asked
    assert set(request["trainingDataConfig"]) == {"invocationLogsConfig"}


def test_a_student_learns_from_production_and_each_runs_logs_are_new(place: Place) -> None:
    calls = [
        json.dumps(
            {
                "schemaType": "ModelInvocationLog",
                "modelId": "arn:student",
                "requestMetadata": {"reelroute": "production"},
                "input": {
                    "inputBodyJson": {
                        "system": [{"text": "prompt"}],
                        "messages": [{"role": "user", "content": [{"text": row.query}]}],
                    }
                },
            }
        )
        for row in corpus_rows(110, start=500)
    ]
    place.storage().put("logs/1.json.gz", gzip.compress("\n".join(calls).encode()))
    settings = place.settings(
        distill__training_data="invocation_logs",
        distill__invocation_logs={"uri": f"s3://{place.bucket}/logs/", "expected_records": 110},
    )
    stage = distilling(place, settings=settings)
    model = wait_for_model(stage, start_job(stage))
    assert model_exists(settings, model.model_arn)
    assert find_identical_model(stage) is not None  # after a kill, the same run
    assert find_identical_model(distilling(place, "run-2", settings=settings)) is None
    cost = training_cost(stage)
    assert cost.output_tokens == 110 * 300
    assert cost.usd > training_cost(distilling(place)).usd


def test_answers_that_the_service_buys_are_in_the_estimate(place: Place) -> None:
    prompts = place.settings(distill__training_data="prompts", distill__students=["bedrock"])
    stage = distilling(place, settings=prompts)
    upload = stage.upstream["upload"].model_copy(update={"metrics": {"prompts": 50}})
    stage = replace(stage, upstream={"upload": upload})
    labelled = training_cost(distilling(place))
    cost = training_cost(stage)
    assert cost.output_tokens == 50 * 300
    teacher = 0.0025 * cost.input_tokens / 1000 + 0.0125 * cost.output_tokens / 1000
    training = 0.001 * cost.output_tokens / 1000
    assert cost.usd == pytest.approx(labelled.usd + teacher + training)
