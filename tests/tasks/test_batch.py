"""Batch inference: all accounted for, nothing asked twice, whatever becomes of the jobs."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from botocore.exceptions import ClientError

from deployments.embedded.models.corpus import recorded_answers
from reelroute.errors import AwsError, BudgetExceeded, ConfigError, StageError
from tasks import batch
from tasks.answers import Answer, AnswerStore
from tasks.base import StageContext
from tasks.batch import Collected, note_batch, open_batches, start_batch, weigh_in_batches
from tasks.label import Labelled, Teacher, WrittenQuery, weigh_queries, weights_key
from tests.support import TEACHER, CallsSince, Place, corpus_rows, fault, hits_of, rounded

pytestmark = pytest.mark.usefixtures("prefect_server")

ROLE = "arn:aws:iam::123456789012:role/reelroute-bedrock"
CREATE = "CreateModelInvocationJob"
BATCH: dict[str, Any] = {
    "label__batch_from": 100,
    "label__batch_file_records": 150,
    "label__batch_role_arn": ROLE,
    "label__batch_poll_seconds": 0.02,
}


def texts(n: int, start: int = 0) -> list[str]:
    return [row.query for row in corpus_rows(n, start)]


def stage_of(place: Place, run_id: str = "run-1", attempt: int = 1, **more: Any) -> StageContext:
    budget = more.pop("budget", None)
    settings = place.settings(**{**BATCH, **more})
    run = place.run(run_id, settings=settings)
    return place.stage("label", settings=settings, run=run, attempt=attempt, budget=budget)


def label(stage: StageContext, queries: Sequence[str]) -> tuple[list[Collected], Labelled]:
    """What the stage does with its queries."""
    teacher = Teacher(stage)
    collected = weigh_in_batches(stage, teacher, queries)
    return collected, weigh_queries(stage, teacher, [WrittenQuery(text) for text in queries])


def outputs(place: Place) -> list[dict[str, Any]]:
    """All lines that jobs have left in the place's bucket."""
    storage, lines = place.storage(), []
    for key in storage.keys("runs/"):
        if key.endswith(".jsonl.out"):
            stored = storage.get(key)
            assert stored is not None
            lines += [json.loads(line) for line in stored.data.splitlines()]
    return lines


def answered_by_jobs(place: Place) -> Counter[str]:
    """How often jobs have answered each record."""
    return Counter(line["recordId"] for line in outputs(place) if "modelOutput" in line)


def notes(place: Place) -> list[str]:
    return [key for key in place.storage().keys("label-store/") if "/batches-" in key]


# --- a whole batch -----------------------------------------------------------------------------


def test_queries_are_weighed_by_jobs_as_they_are_on_demand(place: Place, calls: CallsSince) -> None:
    queries = texts(300)
    collected, labelled = label(stage_of(place), queries)
    assert [(job.status, job.records, job.answered) for job in collected] == [
        ("Completed", 150, 150),
        ("Completed", 150, 150),
    ]
    assert [row.query for row in labelled.accepted] == queries
    recorded = {answer.query: answer.weights for answer in recorded_answers()}
    for row in labelled.accepted:
        assert row.weights.values() == pytest.approx(recorded[row.query].values())
        assert row.labelled_by == TEACHER
    assert (labelled.from_batches, labelled.from_store) == (300, 0)
    assert calls.asked() == 0
    assert notes(place) == []


def test_a_job_asks_what_on_demand_asks(place: Place) -> None:
    stage = stage_of(place)
    teacher, asked = Teacher(stage), []

    class Recorder:
        def converse(self, **request: Any) -> dict[str, Any]:
            asked.append(request)
            answer: dict[str, Any] = on_demand.converse(**request)
            return answer

    on_demand = teacher.model.client
    teacher.model = dataclasses.replace(teacher.model, client=Recorder())
    teacher.weigh(texts(1)[0])
    note = note_batch(stage, teacher, texts(100), 1)
    line = json.loads(stage.storage.read(note.file).splitlines()[0])
    assert line == {
        "recordId": weights_key(texts(1)[0]),
        "modelInput": {name: value for name, value in asked[0].items() if name != "modelId"},
    }


def test_answers_of_a_job_cost_half_and_are_counted_by_their_tokens(place: Place) -> None:
    stage = stage_of(place)
    label(stage, texts(120))
    price = stage.settings.price(stage.settings.models.teacher)
    usage = [line["modelOutput"]["usage"] for line in outputs(place)]
    inputs = sum(one["inputTokens"] for one in usage)
    outs = sum(one["outputTokens"] for one in usage)
    cost = Teacher(stage).bought()
    assert (cost.calls, cost.input_tokens, cost.output_tokens) == (120, inputs, outs)
    assert cost.usd == pytest.approx(0.5 * price.usd(inputs, outs))
    assert rounded(stage.meter.cost) == rounded(cost)
    assert stage.meter.left_usd == pytest.approx(stage.settings.budget.usd_per_run - cost.usd)


def test_below_the_threshold_and_without_one_everything_is_asked_on_demand(
    place: Place, calls: CallsSince
) -> None:
    assert label(stage_of(place), texts(99))[0] == []
    assert label(stage_of(place, label__batch_from=None), texts(120))[0] == []
    assert (calls.count(CREATE), calls.asked()) == (0, 120)


def test_only_queries_without_an_answer_are_sent_and_a_small_rest_goes_on_demand(
    place: Place, calls: CallsSince
) -> None:
    label(stage_of(place), texts(60))
    collected, labelled = label(stage_of(place, "run-2"), texts(350))
    assert [job.records for job in collected] == [150, 140]
    assert (labelled.from_store, labelled.from_batches) == (60, 290)
    collected, labelled = label(stage_of(place, "run-3"), texts(530))
    assert [job.records for job in collected] == [150]
    assert (labelled.from_store, labelled.from_batches) == (350, 150)
    assert calls.asked() == 60 + 30
    assert set(answered_by_jobs(place).values()) == {1}


# --- jobs that don't go well -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("style", "status"), [("halfway", "PartiallyCompleted"), ("unbegun", "Expired")]
)
def test_a_job_that_times_out_is_resumed_with_only_what_is_missing(
    style: str, status: str, place: Place, calls: CallsSince
) -> None:
    seed = next(s for s in range(99) if hits_of("unfinished-jobs", s, calls=3) == [0, 1, 0])
    with fault(place.aws, "unfinished-jobs", rate=0.5, seed=seed, style=style):
        collected, labelled = label(stage_of(place), texts(350))
    assert [(job.status, job.records) for job in collected][:2] == [
        ("Completed", 150),
        (status, 150),
    ]
    left = 75 if style == "halfway" else 150
    assert collected[1].unanswered == left
    assert len(labelled.accepted) == 350
    assert set(answered_by_jobs(place).values()) == {1}
    asked = [call for call in calls.all() if call.operation == "Converse"]
    assert len(answered_by_jobs(place)) + len(asked) == 350
    assert len({call.text_sha256 for call in asked}) == len(asked)


def test_when_no_job_brings_anything_the_stage_says_what_to_change(place: Place) -> None:
    stage = stage_of(place)
    with (
        fault(place.aws, "unfinished-jobs", style="unbegun"),
        pytest.raises(StageError, match=r"ended as Expired.*label\.batch_timeout_hours"),
    ):
        label(stage, texts(120))
    assert Teacher(stage).bought().usd == 0


def test_a_failed_job_speaks_with_the_services_words_and_the_others_answers_stay(
    place: Place, calls: CallsSince
) -> None:
    queries = texts(300)
    seed = next(s for s in range(99) if hits_of("failed-jobs", s) == [1, 0])
    with (
        fault(place.aws, "failed-jobs", rate=0.5, seed=seed),
        pytest.raises(StageError, match=r"ended as Failed: Internal error.*0 of its 150 queries"),
    ):
        label(stage_of(place), queries)
    collected, labelled = label(stage_of(place, attempt=2), queries)
    assert [job.records for job in collected] == [150]
    assert (labelled.from_store, labelled.from_batches) == (150, 150)
    assert calls.count(CREATE) == 3
    assert set(answered_by_jobs(place).values()) == {1}
    assert notes(place) == []


def test_a_job_that_takes_too_long_is_waited_on_by_the_next_attempt(
    place: Place, calls: CallsSince
) -> None:
    queries, bedrock = texts(120), place.aws.client("bedrock")
    with (
        fault(place.aws, "stuck-jobs"),
        pytest.raises(StageError, match=r"is still Submitted after .* run the stage again"),
    ):
        label(stage_of(place, label__batch_wait_hours=0.1 / 3600), queries)
    (job,) = bedrock.list_model_invocation_jobs(nameContains=name_of(place))[
        "invocationJobSummaries"
    ]
    bedrock.stop_model_invocation_job(jobIdentifier=job["jobArn"])
    collected, labelled = label(stage_of(place, attempt=2), queries)
    assert [(job.status, job.unanswered) for job in collected] == [
        ("Stopped", 120),
        ("Completed", 0),
    ]
    assert len(labelled.accepted) == 120
    assert calls.count(CREATE) == 2


def name_of(place: Place) -> str:
    return stage_of(place).name_prefix


def test_records_with_an_error_of_their_own_go_to_quarantine_and_a_later_attempt_asks_again(
    place: Place, calls: CallsSince
) -> None:
    queries = texts(150)
    with fault(place.aws, "record-errors", rate=0.05, seed=1):
        (job,), labelled = label(stage_of(place), queries)
    failed = sum("error" in line for line in outputs(place))
    assert job.refused == len(labelled.quarantined) == failed > 0
    assert (job.answered, len(labelled.accepted)) == (150 - failed, 150 - failed)
    reason = "the batch job has an error in the answer's place: 400: The record could not"
    assert all(lost.reason.startswith(reason) and not lost.raw for lost in labelled.quarantined)
    assert label(stage_of(place), queries)[1].quarantined == labelled.quarantined
    assert calls.asked() == 0
    assert len(label(stage_of(place, attempt=2), queries)[1].accepted) == 150
    assert calls.asked() == failed


def test_records_that_the_service_failed_on_are_asked_again(
    place: Place, calls: CallsSince
) -> None:
    with fault(place.aws, "record-errors", rate=0.05, seed=1, style="internal"):
        (job,), labelled = label(stage_of(place), texts(150))
    assert job.unanswered == calls.asked() > 0
    assert len(labelled.accepted) == 150


def test_answers_that_are_not_usable_are_repaired_on_demand_once(
    place: Place, calls: CallsSince
) -> None:
    stage, queries = stage_of(place), texts(150)
    with fault(place.aws, "teacher-answers", rate=0.05, seed=5, style="prose"):
        (job,), labelled = label(stage, queries)
    spoilt = [a for a in Teacher(stage).labels.values() if a.calls == 2]
    assert job.repaired == calls.asked() == len(spoilt) > 0
    assert len(labelled.accepted) + len(labelled.quarantined) == 150
    price = stage.settings.price(stage.settings.models.teacher)
    bought = sum(
        price.usd(a.input_tokens - a.batch_input_tokens, a.output_tokens - a.batch_output_tokens)
        + 0.5 * price.usd(a.batch_input_tokens, a.batch_output_tokens)
        for a in Teacher(stage).labels.values()
    )
    assert Teacher(stage).bought().usd == pytest.approx(bought)
    assert rounded(stage.meter.cost) == rounded(Teacher(stage).bought())


# --- kills -------------------------------------------------------------------------------------


class Killed(BaseException):
    """The process is gone."""


def killed_at(monkeypatch: pytest.MonkeyPatch, name: str, stage: StageContext, n: int) -> None:
    """A start that is killed where it would call one of the module's functions."""

    def kill(*args: Any, **kwargs: Any) -> Any:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(batch, name, kill)
        with pytest.raises(Killed):
            weigh_in_batches(stage, Teacher(stage), texts(n))


@pytest.mark.parametrize("point", ["start_batch", "collect_batch", "finish_batch"])
def test_a_start_after_a_kill_makes_no_second_job_and_asks_nothing_twice(
    point: str, place: Place, calls: CallsSince, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed_at(monkeypatch, point, stage_of(place), 300)
    assert calls.count(CREATE) == {"start_batch": 0}.get(point, 2)
    stage = stage_of(place)
    _, labelled = label(stage, texts(300))
    assert calls.count(CREATE) == 2
    assert calls.asked() == 0
    assert set(answered_by_jobs(place).values()) == {1}
    assert (len(labelled.accepted), labelled.from_batches) == (300, 300)
    assert stage.meter.cost.calls == 300
    assert notes(place) == []


def test_another_run_collects_what_a_run_that_is_gone_has_asked_for(
    place: Place, calls: CallsSince, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed_at(monkeypatch, "collect_batch", stage_of(place), 150)
    collected, labelled = label(stage_of(place, "run-2"), texts(140))
    assert [(job.records, job.answered) for job in collected] == [(150, 150)]
    assert (len(labelled.accepted), calls.count(CREATE), calls.asked()) == (140, 1, 0)
    _, labelled = label(stage_of(place, "run-3"), texts(150))
    assert (labelled.from_store, calls.asked()) == (150, 0)


def test_what_a_run_that_is_gone_noted_and_never_sent_is_asked_anew(
    place: Place, calls: CallsSince, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed_at(monkeypatch, "start_batch", stage_of(place), 150)
    assert len(notes(place)) == 1
    collected, _ = label(stage_of(place, "run-2"), texts(150))
    assert [job.answered for job in collected] == [150]
    assert calls.count(CREATE) == 1
    assert notes(place) == []


def test_a_job_of_queries_that_nobody_wants_is_left_alone(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = stage_of(place)
    killed_at(monkeypatch, "collect_batch", stage, 120)
    assert open_batches(stage, Teacher(stage), texts(10, start=500)) == []
    assert len(open_batches(stage, Teacher(stage), texts(10))) == 1


def test_a_kill_while_answers_are_stored_asks_nothing_twice(
    place: Place, calls: CallsSince, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, stored = AnswerStore.put_all, list[Answer]()

    def once(self: AnswerStore, answers: Sequence[Answer]) -> None:
        if stored:
            raise Killed
        stored.extend(answers)
        store(self, answers)

    stage = stage_of(place)
    with monkeypatch.context() as patch:
        patch.setattr(batch, "_STORED_TOGETHER", 40)
        patch.setattr(AnswerStore, "put_all", once)
        with pytest.raises(Killed):
            weigh_in_batches(stage, Teacher(stage), texts(120))
    assert len(stored) == 40
    stage = stage_of(place)
    (job,), labelled = label(stage, texts(120))
    assert (job.answered, labelled.from_batches) == (120, 120)
    assert (calls.count(CREATE), calls.asked(), stage.meter.cost.calls) == (1, 0, 120)


@pytest.mark.parametrize("kind", ["server-error-after", "dropped-after", "broken-json"])
def test_a_job_whose_making_was_not_heard_of_is_made_once(
    kind: str, place: Place, calls: CallsSince
) -> None:
    stage = stage_of(place, aws__max_attempts=3)
    note = note_batch(stage, Teacher(stage), texts(100), 1)
    seed = next(s for s in range(99) if hits_of(kind, s, calls=3) == [1, 0, 0])
    with fault(place.aws, kind, rate=0.5, seed=seed, operations=[CREATE]):
        assert start_batch(stage, note) is not None
    bedrock = place.aws.client("bedrock")
    made = bedrock.list_model_invocation_jobs(nameContains=note.job_name)
    assert calls.count(CREATE) == 2
    assert len(made["invocationJobSummaries"]) == 1


def test_a_job_is_made_once_however_often_it_is_started(place: Place, calls: CallsSince) -> None:
    stage = stage_of(place)
    note = note_batch(stage, Teacher(stage), texts(100), 1)
    assert start_batch(stage, note) == start_batch(stage_of(place), note)
    assert calls.count(CREATE) == 1
    arn = start_batch(stage, note)
    tags = place.aws.client("bedrock").list_tags_for_resource(resourceARN=arn)["tags"]
    assert tags == stage.tags()


# --- money -------------------------------------------------------------------------------------


def test_a_job_that_could_pass_the_budget_is_not_made(place: Place, calls: CallsSince) -> None:
    with pytest.raises(BudgetExceeded, match=r"budget\.usd_per_run"):
        label(stage_of(place, budget=0.1), texts(150))
    assert calls.count(CREATE) == calls.asked() == 0
    assert notes(place) == []


def test_where_the_budget_holds_one_job_at_a_time_they_go_one_after_the_other(
    place: Place, calls: CallsSince
) -> None:
    stage = stage_of(place, budget=0.6)
    collected, labelled = label(stage, texts(300))
    assert [job.answered for job in collected] == [150, 150]
    assert len(labelled.accepted) == 300
    assert Teacher(stage).bought().usd < 0.6


@pytest.mark.parametrize("made", [1, 0])
def test_jobs_beyond_the_accounts_quota_are_made_when_others_have_ended(
    made: int, place: Place, calls: CallsSince, monkeypatch: pytest.MonkeyPatch
) -> None:
    quota = AwsError("creating a batch inference job: too many of them are in progress")
    quota.__cause__ = ClientError({"Error": {"Code": "ServiceQuotaExceededException"}}, CREATE)
    asked = []

    def start(stage: StageContext, note: batch.OpenBatch) -> str | None:
        asked.append(note)
        if len(asked) == made + 1:
            raise quota
        return start_batch(stage, note)

    monkeypatch.setattr(batch, "start_batch", start)
    if made:
        collected, _ = label(stage_of(place), texts(300))
        assert [job.answered for job in collected] == [150, 150]
        assert calls.count(CREATE) == 2
        assert set(answered_by_jobs(place).values()) == {1}
    else:
        with pytest.raises(AwsError, match="too many of them"):
            label(stage_of(place), texts(300))
        assert calls.count(CREATE) == 0
    assert notes(place) == []


def test_a_teacher_without_a_batch_price_is_refused_before_anything_is_asked(
    place: Place, calls: CallsSince
) -> None:
    stage = stage_of(place, models__teacher__id="embedded.light-student-v1:0")
    with pytest.raises(ConfigError, match=r"no `batch` price for 'embedded\.light-student"):
        weigh_in_batches(stage, Teacher(stage), texts(120))
    assert calls.count(CREATE) == 0


# --- odd output --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        b"{",
        b"[]",
        b"[" * 100_000,
        b'{"recordId": "a"}',
        b'{"recordId": "a", "modelOutput": {}}',
        b'{"recordId": "a", "modelOutput": {"output": null, "usage": {}}}',
        b'{"recordId": "a", "error": "no object"}',
    ],
)
def test_a_line_that_says_nothing_is_no_answer(line: bytes) -> None:
    assert batch._read_line(line) is None


@pytest.mark.parametrize(
    ("code", "passing"),
    [
        (400, False),
        (403, False),
        (424, True),
        (429, True),
        (500, True),
        ("503", True),
        ("ThrottlingException", True),
        ("ValidationException", False),
        (None, False),
    ],
)
def test_errors_of_the_service_pass_and_those_of_the_record_stay(code: Any, passing: bool) -> None:
    line = json.dumps({"recordId": "a", "error": {"errorCode": code, "errorMessage": "why"}})
    read = batch._read_line(line.encode())
    assert read is not None
    assert read[0] == "a"
    assert isinstance(read[1], batch.RecordError)
    assert (read[1].passing, "why" in read[1].text) == (passing, True)


def test_lines_of_other_records_and_repeated_ones_are_left_out(place: Place) -> None:
    stage = stage_of(place)
    teacher = Teacher(stage)
    note = note_batch(stage, teacher, texts(100), 1)
    job = batch.Job(note, "arn/x", lambda: None)
    output = [
        {"recordId": key, "error": {"errorCode": code, "errorMessage": "why"}}
        for key, code in [(note.record_ids[0], 400), (note.record_ids[0], 500), ("other", 400)]
    ]
    key = f"{note.output}x/001-001.jsonl.out"
    stage.storage.put(key, "\n".join(map(json.dumps, output)).encode())
    assert batch._read_output(stage, job, "Completed") == {
        note.record_ids[0]: batch.RecordError("400: why", passing=False)
    }


def test_a_completed_job_without_output_is_an_error_of_its_own_attempt(place: Place) -> None:
    stage = stage_of(place)
    job = batch.Job(note_batch(stage, Teacher(stage), texts(100), 1), "arn/x", lambda: None)
    with pytest.raises(
        StageError, match=r"is Completed, but s3://.*001-001\.jsonl\.out isn't there"
    ):
        batch._read_output(stage, job, "Completed")
    assert batch._read_output(stage_of(place, attempt=2), job, "Completed") == {}


def test_a_note_that_is_none_names_its_file(place: Place) -> None:
    stage = stage_of(place)
    teacher = Teacher(stage)
    stage.storage.put(f"{teacher.open_batches}x.json", b"{}")
    with pytest.raises(StageError, match=r"batches-.*/x\.json is not the note of a batch"):
        weigh_in_batches(stage, teacher, texts(1))
