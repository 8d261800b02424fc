"""Batch inference: many queries weighed by one job, at about half the price on demand.

A batch is noted beside the label store before its job is made, and the note goes when the job's
answers are stored. So whoever labels next, after a kill or in another run, collects what was
asked for before it asks for anything: nothing is asked twice. What a job leaves unanswered goes
into the next batch, or on demand where too little is left for one.

What becomes of a record:

| in the job's output | |
|---|---|
| a usable answer | is stored |
| an answer that isn't usable | is repaired on demand, once, as any other |
| an error of the service's (5xx, throttled, timed out) | is asked again |
| an error of its own | goes to quarantine with that error; a later attempt asks again |
| nothing: the job timed out, was stopped, failed | is asked again |
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

from prefect.artifacts import create_table_artifact
from pydantic import ValidationError

from data_contracts.conversation import MAX_FILE_BYTES
from data_contracts.queries import Frozen
from data_contracts.runs import StoredFile
from reelroute.aws import RETRYABLE_CODES, error_code, speaking
from reelroute.errors import AnswerError, AwsError, BudgetExceeded, ConfigError, StageError
from reelroute.parsing import parse_strict
from reelroute.problems import first_problem
from tasks.answers import Answer
from tasks.base import Progress, StageContext, logger, stage_task
from tasks.cost import estimate_tokens
from tasks.jobs import wait
from tasks.label import Teacher, weights_key
from tasks.models import Reply, storable
from tasks.reporting.text import inert
from tasks.storage import aws_access

#: Records that a job takes at least, by the service's default quota.
MIN_RECORDS: Final = 100
#: Answers that are stored in one object.
_STORED_TOGETHER: Final = 1_000
#: HTTP statuses of a record's error that a later try may mend, besides 5xx.
_PASSING: Final = frozenset({408, 424, 429})
#: A job that ended so was ended by somebody, or can't do its work at all.
_ENDED_BADLY: Final = ("Failed", "Stopped")
_LONGEST_ERROR: Final = 300
_TOO_MANY_JOBS: Final = "ServiceQuotaExceededException"


class OpenBatch(Frozen):
    """A batch whose answers are not all stored yet.

    Attributes:
        job_name: of its job, used once.
        token: the job's idempotency token.
        run_id, attempt: which run's attempt asks.
        file: its records in the bucket.
        output: where the job writes, a key's prefix.
        record_ids: the keys of its queries in the label store.
        usd: the most that it can cost, in US dollars.
    """

    job_name: str
    token: str
    run_id: str
    attempt: int
    file: StoredFile
    output: str
    record_ids: tuple[str, ...]
    usd: float


@dataclass(frozen=True, slots=True)
class Job:
    """A batch with its job, and what lets go of the money that is held back for it."""

    batch: OpenBatch
    arn: str
    let_go: Callable[[], None]


@dataclass(frozen=True, slots=True)
class RecordError:
    """What stands in an answer's place."""

    text: str
    passing: bool


@dataclass(frozen=True, slots=True)
class Ended:
    """A job whose usable answers are stored.

    Attributes:
        spoilt: queries with the answer that must be repaired.
        refused: how many records have an error of their own.
        problem: why it ended badly, in the service's words, or empty.
    """

    status: str
    spoilt: tuple[tuple[str, Reply], ...]
    refused: int
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Collected:
    """What became of a job's records.

    Attributes:
        answered: records with an answer that is in the store now, repaired ones included.
        repaired: those whose answer was not usable, and was asked for again on demand (what isn't
            usable then is in quarantine).
        refused: those with an error of their own: they are in quarantine.
        unanswered: those that must be asked again.
        problem: that of the job.
    """

    job_name: str
    status: str
    records: int
    answered: int
    repaired: int
    refused: int
    unanswered: int
    problem: str = ""


def weigh_in_batches(
    stage: StageContext, teacher: Teacher, queries: Sequence[str]
) -> list[Collected]:
    """Bring the weights of the queries into the label store, as far as jobs are worth it.

    First what was asked for before is collected. Then the rest is asked for, in jobs side by
    side, while at least `label.batch_from` queries are left.

    Raises:
        BudgetExceeded: not even one job fits into what is left of the run's budget.
        ConfigError: the teacher has no price for batch inference.
        StageError: a job failed, was stopped or takes too long, or none has brought anything.
        AwsError: the service or the bucket refused.
    """
    enough = stage.settings.label.batch_from
    wanted = {weights_key(query): query for query in queries}
    collected = _collect(stage, teacher, _take_up(stage, teacher, queries), wanted, [])
    while enough is not None and len(left := teacher.unanswered(queries)) >= enough:
        found = _collect(stage, teacher, _ask(stage, teacher, left), wanted, collected)
        collected += found
        if all(job.unanswered == job.records for job in found):
            raise StageError(
                f"no batch inference job has answered anything: {found[0].job_name} ended as "
                f"{found[0].status}. Run the stage again, with a higher "
                "`label.batch_timeout_hours`, or with `label.batch_from` null to ask on demand"
            )
    return collected


def _take_up(stage: StageContext, teacher: Teacher, queries: Sequence[str]) -> list[Job]:
    """The jobs of earlier starts, attempts and runs that were asked for some of the queries."""
    jobs = []
    for batch in open_batches(stage, teacher, queries):
        arn = start_batch(stage, batch)
        if arn is None:
            stage.storage.delete([_note_key(teacher, batch)])
        else:
            jobs.append(Job(batch, arn, stage.meter.hold(batch.usd)))
    return jobs


def _ask(stage: StageContext, teacher: Teacher, queries: Sequence[str]) -> list[Job]:
    """Start as many jobs as budget and quota allow; a rest that is too small for one is left."""
    if teacher.model.price.batch is None:
        raise ConfigError(
            f"configs/prices.yaml has no `batch` price for {teacher.model.settings.price_id!r}: "
            "add it, or set `label.batch_from` to null"
        )
    size = stage.settings.label.batch_file_records
    jobs: list[Job] = []
    for start in range(0, len(queries), size):
        part = queries[start : start + size]
        if len(part) < MIN_RECORDS:
            break
        try:
            stage.meter.check(_most(teacher, part), "the next batch inference job")
        except BudgetExceeded:
            if not jobs:
                raise
            break  # asked for when these are paid
        number = next_number(stage)
        batch = note_batch(stage, teacher, part, number)
        try:
            arn = start_batch(stage, batch)
        except AwsError as error:
            if error_code(error.__cause__) != _TOO_MANY_JOBS:
                raise
            stage.storage.delete([_note_key(teacher, batch)])
            if not jobs:
                raise
            break  # asked for when these have ended
        assert arn is not None
        jobs.append(Job(batch, arn, stage.meter.hold(batch.usd)))
    return jobs


def _most(teacher: Teacher, queries: Sequence[str]) -> float:
    """The most that a job with these queries can cost, in US dollars."""
    prompt, limit = len(teacher.router_prompt.text), teacher.model.settings.max_tokens
    tokens = sum(estimate_tokens(prompt + len(query)) for query in queries)
    return teacher.model.price.batch_usd(tokens, limit * len(queries))


def _collect(
    stage: StageContext,
    teacher: Teacher,
    jobs: Sequence[Job],
    wanted: Mapping[str, str],
    before: Sequence[Collected],
) -> list[Collected]:
    """Wait for jobs that run side by side, store what they have answered, and show it.

    Args:
        before: what is shown with them.

    Raises:
        StageError: one that this attempt started has failed or was stopped; what the others
            have answered is stored.
    """
    if not jobs:
        return []
    total = sum(len(job.batch.record_ids) for job in jobs)
    progress = Progress("label-batches", f"{len(jobs)} batch inference jobs", total)
    # All that is held back for jobs is let go of before repairs are paid.
    ended = [collect_batch(stage, teacher, job, wanted, progress) for job in jobs]
    collected = [
        finish_batch(stage, teacher, job.batch, one) for job, one in zip(jobs, ended, strict=True)
    ]
    show_batches([*before, *collected])
    for job, done in zip(jobs, collected, strict=True):
        if done.problem and _is_ours(stage, job.batch):
            raise StageError(
                f"batch inference job {done.job_name} ended as {done.status}: {done.problem}. "
                f"{done.answered} of its {done.records} queries are answered and stored; run the "
                "stage again to ask for the others"
            )
    return collected


def _is_ours(stage: StageContext, batch: OpenBatch) -> bool:
    return (batch.run_id, batch.attempt) == (stage.run.run_id, stage.attempt)


@stage_task
def open_batches(stage: StageContext, teacher: Teacher, queries: Sequence[str]) -> list[OpenBatch]:
    """The noted batches with at least one of these queries that has no answer yet.

    The notes of those that are answered altogether go.
    """
    unanswered = {weights_key(query) for query in teacher.unanswered(queries)}
    found = []
    for key in sorted(stage.storage.keys(teacher.open_batches)):
        stored = stage.storage.get(key)
        if stored is None:
            continue
        try:
            batch = OpenBatch.model_validate_json(stored.data)
        except ValidationError as error:
            raise StageError(
                f"{stage.storage.uri(key)} is not the note of a batch: {first_problem(error)}. "
                "Move it away to ask for its queries again"
            ) from None
        if not unanswered.isdisjoint(batch.record_ids):
            found.append(batch)
        elif all(teacher.labels.get(record_id) for record_id in batch.record_ids):
            stage.storage.delete([key])
    return found


@stage_task
def next_number(stage: StageContext) -> int:
    """The number of the attempt's next batch. Chosen once: a note that is tried again is one."""
    return sum(1 for _ in stage.storage.keys(_records_prefix(stage))) + 1


def _records_prefix(stage: StageContext) -> str:
    return f"{stage.run.key('batches/')}{stage.attempt:03d}-"


@stage_task
def note_batch(
    stage: StageContext, teacher: Teacher, queries: Sequence[str], number: int
) -> OpenBatch:
    """Write the records of a job into the run's folder and note that they are asked for.

    Args:
        number: the batch's in the attempt, from 1.
    """
    folder, name = stage.run.key("batches/"), f"b{number:03d}"
    data = b"".join(_record(teacher, query) for query in queries)
    if len(data) > MAX_FILE_BYTES:
        raise StageError(
            f"{len(queries)} queries make a batch of {len(data):,} bytes, the service takes "
            f"{MAX_FILE_BYTES:,}: lower `label.batch_file_records`"
        )
    batch = OpenBatch(
        job_name=stage.name(name),
        token=stage.token(name),
        run_id=stage.run.run_id,
        attempt=stage.attempt,
        file=stage.storage.put_file(
            f"{_records_prefix(stage)}{number:03d}.jsonl", data, "application/jsonl"
        ),
        output=f"{folder}out/",
        record_ids=tuple(map(weights_key, queries)),
        usd=_most(teacher, queries),
    )
    note = batch.model_dump_json().encode()
    stage.storage.put(_note_key(teacher, batch), note, "application/json")
    return batch


def _record(teacher: Teacher, query: str) -> bytes:
    body = teacher.model.body(teacher.router_prompt.text, [query])
    record = {"recordId": weights_key(query), "modelInput": body}
    return json.dumps(record, ensure_ascii=False).encode() + b"\n"


def _note_key(teacher: Teacher, batch: OpenBatch) -> str:
    return f"{teacher.open_batches}{batch.job_name}.json"


@stage_task
def start_batch(stage: StageContext, batch: OpenBatch) -> str | None:
    """The ARN of a batch's job, looked up first; made if there is none and this attempt's it is.

    None where another attempt or run has noted the batch and never made the job.

    Raises:
        BudgetExceeded: it could pass the run's budget.
    """
    settings, name = stage.settings, batch.job_name
    bedrock = aws_access(settings).client("bedrock")
    with speaking(f"looking for batch inference job {name}"):
        pages = bedrock.get_paginator("list_model_invocation_jobs").paginate(nameContains=name)
        for page in pages:
            for job in page.get("invocationJobSummaries", ()):
                if job["jobName"] == name:
                    logger().info(
                        "batch inference job %s is there already, %s", name, job["status"]
                    )
                    return str(job["jobArn"])
    if not _is_ours(stage, batch):
        return None
    stage.meter.check(batch.usd, f"batch inference job {name}")
    output: dict[str, str] = {"s3Uri": stage.storage.uri(batch.output)}
    if settings.storage.kms_key_id:
        output["s3EncryptionKeyId"] = settings.storage.kms_key_id
    with speaking(f"creating batch inference job {name}"):
        answer = bedrock.create_model_invocation_job(
            jobName=name,
            clientRequestToken=batch.token,
            roleArn=settings.label.batch_role_arn,
            modelId=settings.models.teacher.id,
            modelInvocationType="Converse",
            inputDataConfig={
                "s3InputDataConfig": {
                    "s3InputFormat": "JSONL",
                    "s3Uri": stage.storage.uri(batch.file.key),
                }
            },
            outputDataConfig={"s3OutputDataConfig": output},
            timeoutDurationInHours=settings.label.batch_timeout_hours,
            tags=stage.tags(),
        )
    logger().info("batch inference job %s started: %s", name, answer["jobArn"])
    return str(answer["jobArn"])


@stage_task
def collect_batch(
    stage: StageContext,
    teacher: Teacher,
    job: Job,
    wanted: Mapping[str, str],
    progress: Progress | None = None,
) -> Ended:
    """Wait for a job's end and store what it has answered.

    Args:
        wanted: the queries that are to be labelled, by key. Of others that the job has asked for
            the usable answers are stored, too: they are paid.
        progress: moves with the job's records.

    Raises:
        StageError: the job is still running after `label.batch_wait_hours`, or it is Completed
            and its output isn't there.
    """
    settings, batch = stage.settings.label, job.batch
    before = progress.done if progress else 0

    def show(answer: Mapping[str, Any]) -> None:
        if progress:
            words = f"batch inference job {batch.job_name}: {answer['status']}"
            progress.show(before + answer.get("processedRecordCount", 0), words)

    ended = wait(
        aws_access(stage.settings).client("bedrock"),
        "InvocationJobEnded",
        {"jobIdentifier": job.arn},
        what=f"batch inference job {batch.job_name}",
        poll_seconds=settings.batch_poll_seconds,
        max_seconds=settings.batch_wait_hours * 3600,
        on_poll=show,
    )
    if progress:
        progress.show(before + len(batch.record_ids))
    found = _read_output(stage, job, ended["status"])
    job.let_go()
    new = {key: one for key, one in found.items() if not teacher.stored(teacher.labels, key)}
    spoilt: list[tuple[str, Reply]] = []
    answers: list[Answer] = []
    for key, one in new.items():
        if isinstance(one, Reply) and _is_usable(one):
            answers.append(_answer(teacher, key, one))
        elif key in wanted and isinstance(one, Reply):
            spoilt.append((wanted[key], one))
        elif key in wanted and isinstance(one, RecordError) and not one.passing:
            answers.append(_answer(teacher, key, one))
    for start in range(0, len(answers), _STORED_TOGETHER):
        teacher.labels.put_all(answers[start : start + _STORED_TOGETHER])
    teacher.recount()
    return Ended(
        status=ended["status"],
        spoilt=tuple(spoilt),
        refused=sum(not answer.calls for answer in answers),
        problem=_problem(ended),
    )


@stage_task
def finish_batch(
    stage: StageContext, teacher: Teacher, batch: OpenBatch, ended: Ended
) -> Collected:
    """Repair on demand what isn't usable, and forget the batch.

    Raises:
        BudgetExceeded, AwsError: from a repair; the batch stays open, and what is stored stays.
    """
    try:
        with ThreadPoolExecutor(stage.settings.label.concurrency) as pool:
            list(pool.map(lambda one: teacher.weigh(*one), ended.spoilt))
    finally:
        teacher.recount()
    stage.storage.delete([_note_key(teacher, batch)])
    stored = sum(teacher.stored(teacher.labels, key) is not None for key in batch.record_ids)
    return Collected(
        job_name=batch.job_name,
        status=ended.status,
        records=len(batch.record_ids),
        answered=stored - ended.refused,
        repaired=len(ended.spoilt),
        refused=ended.refused,
        unanswered=len(batch.record_ids) - stored,
        problem=ended.problem,
    )


def _problem(ended: Mapping[str, Any]) -> str:
    if ended["status"] not in _ENDED_BADLY:
        return ""
    return ended.get("message") or "no reason given"


def _is_usable(reply: Reply) -> bool:
    try:
        parse_strict(reply.text)
    except AnswerError:
        return False
    return True


def _answer(teacher: Teacher, key: str, found: Reply | RecordError) -> Answer:
    buyer = {"run_id": teacher.buyer.run_id, "attempt": teacher.buyer.attempt}
    if isinstance(found, RecordError):
        reason = f"the batch job has an error in the answer's place: {found.text}"
        return Answer(key=key, status="quarantined", texts=(), reason=reason, calls=0, **buyer)
    return Answer(
        key=key,
        status="usable",
        texts=(found.text,),
        input_tokens=found.input_tokens,
        output_tokens=found.output_tokens,
        batch_input_tokens=found.input_tokens,
        batch_output_tokens=found.output_tokens,
        **buyer,
    )


def _read_output(stage: StageContext, job: Job, status: str) -> dict[str, Reply | RecordError]:
    """What a job has left for its records, by their ids: the order of its lines says nothing."""
    name = job.batch.file.key.rpartition("/")[2]
    key = f"{job.batch.output}{job.arn.rpartition('/')[2]}/{name}.out"
    stored = stage.storage.get(key)
    if stored is None and status == "Completed" and _is_ours(stage, job.batch):
        raise StageError(
            f"batch inference job {job.batch.job_name} is Completed, but {stage.storage.uri(key)} "
            "isn't there: look for its output, or run the stage again to ask for it again"
        )
    asked, found, odd = frozenset(job.batch.record_ids), dict[str, Reply | RecordError](), 0
    for line in io.BytesIO(stored.data) if stored else ():
        read = _read_line(line)
        if read is None or read[0] not in asked or read[0] in found:
            odd += 1
        else:
            found[read[0]] = read[1]
    if odd:
        logger().warning(
            "%s: %d lines are no answers to records of the job, and are left out",
            stage.storage.uri(key),
            odd,
        )
    return found


def _read_line(line: bytes) -> tuple[str, Reply | RecordError] | None:
    """A record's id and what became of it, or None where the line doesn't say."""
    try:
        record = json.loads(line)
        if "error" in record:
            return str(record["recordId"]), _record_error(record["error"])
        # The service measures no latency at the client.
        return str(record["recordId"]), Reply.of(record["modelOutput"], 0.0)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None


def _record_error(error: Mapping[str, Any]) -> RecordError:
    code = error.get("errorCode", "")
    text = storable(f"{code}: {error.get('errorMessage', 'no reason given')}")[:_LONGEST_ERROR]
    number = int(code) if str(code).isdecimal() else 0
    return RecordError(text, number >= 500 or number in _PASSING or str(code) in RETRYABLE_CODES)


@stage_task
def show_batches(collected: Sequence[Collected]) -> None:
    """A table of the jobs, in the UI."""
    create_table_artifact(
        key="label-batch-jobs",
        description="Batch inference jobs and what became of their records",
        table=[
            {
                "ended as": done.status,
                "records": done.records,
                "answered": done.answered,
                "of these repaired": done.repaired,
                "refused": done.refused,
                "asked again": done.unanswered,
                "job": done.job_name,
                "problem": inert(done.problem, 80),
            }
            for done in collected
        ],
    )
