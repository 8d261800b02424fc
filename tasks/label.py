"""Label: the teacher writes queries until the plan is filled, then weighs each of them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed, wait
from dataclasses import dataclass, field, replace
from itertools import chain
from threading import BoundedSemaphore
from typing import Any, Literal

from pydantic import ValidationError

from configs.settings import PlanCell
from data_contracts.conversation import MIN_RECORDS
from data_contracts.heldout import NearIndex, in_fresh_share, is_held_out, near_benchmark
from data_contracts.monitoring import PRODUCTION_DOMAIN, ProductionQuery
from data_contracts.queries import (
    MAX_QUERY_CHARACTERS,
    UNKNOWN,
    LabelledQuery,
    QuarantinedQuery,
    UnlabelledQuery,
    query_problem,
)
from data_contracts.runs import Cost, StoredFile
from reelroute.errors import AnswerError, StageError
from reelroute.parsing import parse_strict
from reelroute.problems import first_problem
from reelroute.weights import RoutingWeights
from tasks.answers import Answer, AnswerStore, request_key
from tasks.base import Progress, StageContext, logger, stage_task
from tasks.cost import CostMeter
from tasks.mapped import map_task
from tasks.models import Buyer, Model, Reply, storable
from tasks.pacing import pacer_of
from tasks.runs import PRODUCTION_QUERIES
from tasks.spool import Spool
from tasks.storage import aws_access


@dataclass(frozen=True, slots=True)
class WrittenQuery:
    """A query to label and where it comes from."""

    text: str
    difficulty: str = UNKNOWN
    domain: str = UNKNOWN


@dataclass
class Queries:
    """The queries to label, and what became of the others; the counts add up.

    Attributes:
        asked: the queries that the teacher returned, or the lines of the user's file.
    """

    asked: int = 0
    accepted: list[WrittenQuery] | Spool[WrittenQuery] = field(
        default_factory=lambda: Spool(WrittenQuery)
    )
    duplicates: list[str] = field(default_factory=list)
    quarantined: list[QuarantinedQuery] = field(default_factory=list)


@dataclass
class Labelled:
    """What the teacher's weights made of the queries: a shard's in memory, a run's on the disk."""

    accepted: list[LabelledQuery] | Spool[LabelledQuery] = field(default_factory=list)
    quarantined: list[QuarantinedQuery] | Spool[QuarantinedQuery] = field(default_factory=list)
    from_store: int = 0
    from_batches: int = 0

    def __iadd__(self, other: Labelled) -> Labelled:
        self.accepted.extend(other.accepted)
        self.quarantined.extend(other.quarantined)
        self.from_store += other.from_store
        self.from_batches += other.from_batches
        return self


class Teacher:
    """The labelling teacher with the store of its answers, which all runs share.

    The store is keyed by teacher, prompt and request. An answer that went to quarantine is
    final for the attempt that asked for it, and asked again by a later one.
    """

    def __init__(self, stage: StageContext, *, purse: bool = False) -> None:
        """Open the store.

        Args:
            stage: the stage that asks.
            purse: its meter is a part of the budget, for what is bought from here on alone.
        """
        settings = stage.settings
        model = settings.models.teacher
        self._stage = stage
        self._repair = settings.prompt("repair").text
        self.model = Model(
            client=aws_access(settings).client("bedrock-runtime"),
            model_id=model.id,
            settings=model,
            price=settings.price(model),
            meter=stage.meter,
            pacer=pacer_of(settings, model.id),
        )
        self.router_prompt = settings.prompt("router")
        self.write_prompt = settings.prompt("write_queries")
        teacher = re.sub(r"[^a-z0-9]+", "-", model.id.lower())
        router = self.router_prompt.sha256[:16]
        self.labels = AnswerStore(stage.storage, f"label-store/{teacher}/weights-{router}")
        #: Where batches are noted whose answers are not in the store yet.
        self.open_batches = f"label-store/{teacher}/batches-{router}/"
        self.writing = AnswerStore(
            stage.storage, f"label-store/{teacher}/writing-{self.write_prompt.sha256[:16]}"
        )
        self.buyer = Buyer(stage.run.run_id, stage.attempt)
        self._in_flight = BoundedSemaphore(settings.label.concurrency)
        if not purse:
            # What a killed start of this attempt has bought.
            stage.meter.add(self.bought(), once="answers of the teacher")

    def stored(self, store: AnswerStore, key: str) -> Answer | None:
        """An answer that holds for this attempt, or None where it must be asked."""
        answer = store.get(key)
        if answer is None or answer.status == "usable":
            return answer
        return answer if self.buyer.is_of(answer) else None

    def ask(
        self,
        store: AnswerStore,
        key: str,
        system: str,
        request: str,
        check: Callable[[str], object],
        first: Reply | None = None,
        **inference: Any,
    ) -> Answer:
        """Ask, once more with the problem named if the answer is not usable, and store it.

        Args:
            check: raises AnswerError for an answer that is not usable.
            first: the first answer, where a batch job has brought it.
        """
        texts: list[str] = []
        turns, reason = [request], ""
        status: Literal["usable", "quarantined"] = "quarantined"
        inputs = outputs = 0
        latency_ms = 0.0
        for turn in range(2):
            if first and not turn:
                reply = first
            else:
                with self._in_flight:
                    reply = self.model.ask(system, turns, **inference)
            texts.append(reply.text)
            inputs, outputs = inputs + reply.input_tokens, outputs + reply.output_tokens
            latency_ms = reply.latency_ms
            try:
                check(reply.text)
                status = "usable"
                break
            except AnswerError as problem:
                reason = str(problem)
                repair = self._repair.replace("{problem}", reason)
                # The service takes no blank turn.
                turns = [*turns, reply.text if reply.text.strip() else "(no answer)", repair]
        answer = Answer(
            key=key,
            status=status,
            texts=tuple(texts),
            reason=reason if status == "quarantined" else "",
            input_tokens=inputs,
            output_tokens=outputs,
            batch_input_tokens=first.input_tokens if first else 0,
            batch_output_tokens=first.output_tokens if first else 0,
            calls=len(texts),
            latency_ms=latency_ms,
            run_id=self.buyer.run_id,
            attempt=self.buyer.attempt,
        )
        store.put(answer)
        return answer

    def write(self, cell: PlanCell, batch: int, count: int, told: Sequence[str]) -> Answer:
        """Up to `count` further queries of a cell; the answer's text is read by `read_queries`."""
        settings = self._stage.settings.label
        cell_key = (cell.channel, cell.difficulty, cell.domain)
        key = request_key("write", settings.round, *cell_key, str(batch), str(count))
        request = {
            "task": "write_queries",
            "channel": cell.channel,
            "difficulty": cell.difficulty,
            "domain": cell.domain,
            "count": count,
            "round": settings.round,
            "already_written": list(told),
        }
        return self.stored(self.writing, key) or self.ask(
            self.writing,
            key,
            self.write_prompt.text,
            json.dumps(request, ensure_ascii=False),
            read_queries,
            max_tokens=settings.write_max_tokens,
            temperature=settings.write_temperature,
        )

    def weigh(self, query: str, first: Reply | None = None) -> tuple[Answer, bool]:
        """The teacher's weights of a query, and whether they were in the store before.

        Args:
            first: its first answer, where a batch job has brought it.
        """
        key = weights_key(query)
        stored = self.stored(self.labels, key)
        if stored:
            return stored, not self.is_batched(stored)
        prompt = self.router_prompt.text
        return self.ask(self.labels, key, prompt, query, parse_strict, first), False

    def is_batched(self, answer: Answer) -> bool:
        """Whether a batch job has brought the answer to this attempt."""
        return answer.by_batch and self.buyer.is_of(answer)

    def unanswered(self, queries: Iterable[str]) -> list[str]:
        """Those of the queries whose weights must be asked for."""
        return [query for query in queries if not self.stored(self.labels, weights_key(query))]

    def recount(self) -> None:
        """Count what other processes have bought for this attempt."""
        self.labels.refresh()
        self._stage.meter.recount(self.bought())

    def bought(self) -> Cost:
        """What this attempt has bought of the teacher, also before a kill."""
        answers = chain(self.labels.values(), self.writing.values())
        return self.buyer.bought(answers, self.model.price)


def weights_key(query: str) -> str:
    """The key of a query's weights in the label store."""
    return request_key("weights", query)


def read_queries(text: str) -> list[str]:
    """The queries of the teacher's writing answer.

    Raises:
        AnswerError: not bare JSON with the one key `queries` and a list of texts.
    """
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise AnswerError(f"not bare JSON: {error}") from None
    if not isinstance(record, dict) or set(record) != {"queries"}:
        raise AnswerError("not a JSON object with the one key 'queries'")
    queries = record["queries"]
    if not isinstance(queries, list) or not all(isinstance(query, str) for query in queries):
        raise AnswerError("'queries' is not a list of texts")
    return queries


@dataclass
class _Cell:
    """A cell of the plan while it is being filled."""

    plan: PlanCell
    kept: list[str] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    fresh: list[str] = field(default_factory=list)
    batch: int = 0
    empty: int = 0

    @property
    def missing(self) -> int:
        return self.plan.queries - len(self.kept)


@stage_task
def write_queries(stage: StageContext, teacher: Teacher) -> Queries:
    """Have the teacher write queries until every cell of the plan is filled.

    Cells are written side by side, pass after pass. Between two passes duplicates are removed
    in the plan's order, so that the same answers give the same set, however they arrive.

    Raises:
        StageError: a cell can't be filled; the message names it and what came.
    """
    settings = stage.settings.label
    cells = [_Cell(cell) for cell in stage.settings.plan()]
    total = sum(cell.plan.queries for cell in cells)
    found = Queries()
    index = NearIndex()
    progress = Progress("label-writing", f"the teacher writes {total} queries", total)
    with ThreadPoolExecutor(settings.concurrency) as pool:
        while unfilled := [cell for cell in cells if cell.missing > 0]:
            for done in _unordered(pool, lambda cell: _write_batch(stage, teacher, cell), unfilled):
                progress.show(len(found.accepted) + done)
            for cell in unfilled:
                _take(cell, found, index, settings.near_duplicate)
                if cell.missing > 0 and cell.empty >= settings.max_empty_batches:
                    raise StageError(_unsatisfiable(cell))
            progress.show(len(found.accepted))
    logger().info(
        "the teacher returned %d queries: %d kept, %d duplicates, %d quarantined",
        found.asked,
        len(found.accepted),
        len(found.duplicates),
        len(found.quarantined),
    )
    return found


def _write_batch(stage: StageContext, teacher: Teacher, cell: _Cell) -> None:
    settings = stage.settings.label
    count = min(settings.batch_size, cell.missing)
    told = cell.told[len(cell.told) - min(len(cell.told), settings.told_before) :]
    answer = teacher.write(cell.plan, cell.batch, count, told)
    cell.batch += 1
    cell.fresh = read_queries(answer.texts[-1]) if answer.status == "usable" else []


def _take(cell: _Cell, found: Queries, index: NearIndex, near_duplicate: float) -> None:
    """Sort what a cell's batch brought into accepted, duplicates and quarantined."""
    before = len(cell.kept)
    origin: dict[str, Any] = {"difficulty": cell.plan.difficulty, "domain": cell.plan.domain}
    for raw in map(storable, cell.fresh):
        found.asked += 1
        text = " ".join(raw.split())
        cell.told.append(text[:MAX_QUERY_CHARACTERS])
        problem = query_problem(text)
        if problem is None and cell.missing <= 0:
            problem = "more queries than were asked for"
        if problem:
            found.quarantined.append(QuarantinedQuery(query=raw, reason=problem, **origin))
        elif _is_duplicate(text, index, near_duplicate):
            found.duplicates.append(text)
        else:
            cell.kept.append(text)
            found.accepted.append(WrittenQuery(text, **origin))
    cell.fresh = []
    cell.empty = 0 if len(cell.kept) > before else cell.empty + 1


def _is_duplicate(text: str, index: NearIndex, threshold: float) -> bool:
    """Whether the text equals or is near an earlier one; otherwise it becomes one."""
    if index.near(text, threshold) is not None:
        return True
    index.add(text)
    return False


def _unsatisfiable(cell: _Cell) -> str:
    plan = cell.plan
    return (
        f"the label plan can't be filled: cell {plan.channel}/{plan.difficulty}/{plan.domain} "
        f"wants {plan.queries} queries, the teacher brought {len(cell.kept)} different ones and "
        f"nothing new in {cell.empty} answers in a row. Lower the cell in the plan or "
        "`label.size`, or set another `label.round`"
    )


@stage_task
def read_own_queries(stage: StageContext, file: StoredFile) -> Queries:
    """The user's own queries, a line each, in place of written ones.

    Raises:
        StageError: fewer usable queries than a customization job needs, before anything is
            bought.
    """
    settings = stage.settings.label
    found = Queries()
    index = NearIndex()
    for match in re.finditer(rb"[^\r\n]+", stage.storage.read(file)):
        line = match[0]
        if not line.strip():
            continue
        found.asked += 1
        try:
            text = " ".join(line.decode("utf-8-sig").split())
            problem = query_problem(text)
        except UnicodeDecodeError as error:
            text = line.decode("utf-8", errors="backslashreplace").strip()
            problem = f"not UTF-8: {error.reason} at byte {error.start}"
        if problem:
            found.quarantined.append(QuarantinedQuery(query=text, reason=problem))
        elif _is_duplicate(text, index, settings.near_duplicate):
            found.duplicates.append(text)
        else:
            found.accepted.append(WrittenQuery(text))
    training = sum(
        not is_held_out(query.text) and near_benchmark(query.text) is None
        for query in found.accepted
    )
    if training < MIN_RECORDS:
        raise StageError(
            f"own queries: of {found.asked} lines {len(found.accepted)} are usable queries "
            f"({len(found.duplicates)} duplicates, {len(found.quarantined)} in quarantine), and "
            f"{training} of them may be trained on (the others are held out). A customization "
            f"job needs at least {MIN_RECORDS}: add queries and run again; nothing was bought"
        )
    return found


def is_from_production(file: StoredFile) -> bool:
    """Whether a run's own queries are those that the monitor sampled."""
    return file.key.endswith(f"/{PRODUCTION_QUERIES}")


@stage_task
def read_production_queries(stage: StageContext, file: StoredFile, found: Queries) -> Queries:
    """What the monitor sampled from production, beside the queries that are there already."""
    index = NearIndex()
    near = stage.settings.label.near_duplicate
    for query in found.accepted:
        index.add(query.text)
    for line in stage.storage.read(file).splitlines():
        found.asked += 1
        try:
            text = ProductionQuery.model_validate_json(line).query
        except ValidationError as error:
            raw = line.decode("utf-8", errors="backslashreplace")
            reason = f"not a sampled query: {first_problem(error)}"
            found.quarantined.append(
                QuarantinedQuery(query=raw, reason=reason, domain=PRODUCTION_DOMAIN)
            )
            continue
        if _is_duplicate(text, index, near):
            found.duplicates.append(text)
        else:
            found.accepted.append(WrittenQuery(text, domain=PRODUCTION_DOMAIN))
    return found


def choose_examples(
    queries: Sequence[WrittenQuery], count: int
) -> tuple[list[WrittenQuery], list[WrittenQuery]]:
    """Which queries are labelled where the distillation job labels the others.

    Those that are freshly held out, which evaluation compares with, and of those to train on
    `count`, spread evenly over the plan.

    Returns:
        the queries to label, and the others; both in their order.
    """
    trainable = [
        query.text
        for query in queries
        if not is_held_out(query.text) and near_benchmark(query.text) is None
    ]
    count = min(count, len(trainable))
    chosen = {trainable[n * len(trainable) // count] for n in range(count)}
    examples: list[WrittenQuery] = []
    others: list[WrittenQuery] = []
    for query in queries:
        wanted = query.text in chosen or in_fresh_share(query.text)
        (examples if wanted else others).append(query)
    return examples, others


def shards(
    queries: Sequence[WrittenQuery] | Spool[WrittenQuery], size: int
) -> Iterator[Sequence[WrittenQuery]]:
    """The queries in shards, one a task."""
    for start in range(0, len(queries), size):
        yield queries[start : start + size]


def weigh_all(
    stage: StageContext, teacher: Teacher, queries: Sequence[WrittenQuery] | Spool[WrittenQuery]
) -> Labelled:
    """Have the teacher weigh the queries, shard by shard, where the profile has tasks run.

    Threads share the teacher, its store and its meter. On Dask each shard has a teacher of its
    own and an even part of what is left of the budget.

    Raises:
        StageError, AwsError: a shard ended with it; what was answered is stored and counted.
    """
    settings = stage.settings
    parts = -(-len(queries) // settings.label.shard_size)
    side_by_side = max(min(settings.task_runner.workers, parts), 1)
    shared = settings.task_runner.kind == "threads"
    progress = Progress("label-weights", f"the teacher weighs {len(queries)} queries", len(queries))
    if not shared and parts:
        stage = replace(stage, meter=CostMeter(stage.meter.left_usd / parts))
    labelled = Labelled(Spool(LabelledQuery), Spool(QuarantinedQuery))
    # Shards share the calls in flight, so that one's last calls leave no room unused.
    pool = ThreadPoolExecutor(settings.label.at_work) if shared else None
    try:
        for part in map_task(
            settings.task_runner,
            weigh_queries,
            "queries",
            shards(queries, settings.label.shard_size),
            stage=stage,
            teacher=teacher if shared else None,
            progress=progress if shared else None,
            pool=pool,
            concurrency=max(settings.label.concurrency // side_by_side, 1),
        ):
            labelled += part
            progress.show(max(progress.done, len(labelled.accepted) + len(labelled.quarantined)))
    finally:
        if pool:
            pool.shutdown()
        else:
            teacher.recount()
    return labelled


@stage_task
def weigh_queries(
    stage: StageContext,
    teacher: Teacher | None,
    queries: Sequence[WrittenQuery],
    progress: Progress | None = None,
    pool: ThreadPoolExecutor | None = None,
    concurrency: int | None = None,
) -> Labelled:
    """Have the teacher weigh a shard of queries; what it answered before is not asked again.

    Args:
        pool: makes the calls; without one the shard has one of its own.
        concurrency: its threads.
    """
    teacher = teacher or Teacher(stage, purse=True)
    labelled = Labelled()
    answers: dict[str, tuple[Answer, bool]] = {}

    def weigh(query: WrittenQuery) -> None:
        answers[query.text] = teacher.weigh(query.text)

    own = ThreadPoolExecutor(concurrency or stage.settings.label.concurrency)
    with own:  # starts no threads where it is not used
        for _ in _unordered(pool or own, weigh, queries):
            if progress:
                progress.advance()
    for query in queries:
        answer, known = answers[query.text]
        labelled.from_store += known
        origin: dict[str, Any] = {"difficulty": query.difficulty, "domain": query.domain}
        origin["labelled_by"] = teacher.model.model_id
        if answer.status == "usable":
            labelled.from_batches += teacher.is_batched(answer)
            weights: RoutingWeights = parse_strict(answer.texts[-1])
            labelled.accepted.append(
                LabelledQuery.from_weights(
                    query.text, weights, prompt_sha256=teacher.router_prompt.sha256, **origin
                )
            )
        else:
            labelled.quarantined.append(
                QuarantinedQuery(query=query.text, reason=answer.reason, raw=answer.texts, **origin)
            )
    return labelled


@stage_task
def compact_store(teacher: Teacher) -> None:
    """Join the label store's small files."""
    teacher.labels.compact()
    teacher.writing.compact()


@stage_task
def store_labels(stage: StageContext, found: Queries, labelled: Labelled) -> dict[str, StoredFile]:
    """Write labelled, duplicate and quarantined queries into the run's folder.

    Raises:
        StageError: more is in quarantine than the profile allows.
    """
    quarantined = Spool(QuarantinedQuery)
    quarantined.extend(found.quarantined)
    quarantined.extend(labelled.quarantined)
    run = stage.run
    files = {
        "labelled": run.put_lines("labelled/labelled.jsonl", _jsonl(labelled.accepted)),
        "duplicates": run.put_text(
            "labelled/duplicates.jsonl",
            "".join(
                json.dumps({"query": text}, ensure_ascii=False) + "\n" for text in found.duplicates
            ),
        ),
        "quarantine": run.put_lines("quarantine/label.jsonl", _jsonl(quarantined)),
    }
    share = len(quarantined) / max(found.asked, 1)
    if share > stage.settings.label.max_quarantined:
        raise StageError(
            f"{len(quarantined)} of {found.asked} queries went to quarantine ({share:.1%}, allowed "
            f"are {stage.settings.label.max_quarantined:.1%}); the first: "
            f"{next(iter(quarantined)).reason}. All with their raw answers: "
            f"{run.storage.uri(files['quarantine'].key)}. Mend the teacher or its prompt, or "
            "raise `label.max_quarantined`, and run the stage again"
        )
    return files


@stage_task
def store_prompts(stage: StageContext, prompts: Sequence[WrittenQuery]) -> StoredFile:
    """Write the queries that the distillation job labels into the run's folder."""
    records = (
        UnlabelledQuery.model_validate(
            {"query": prompt.text, "difficulty": prompt.difficulty, "domain": prompt.domain}
        )
        for prompt in prompts
    )
    return stage.run.put_lines("labelled/prompts.jsonl", _jsonl(records))


def _unordered(
    pool: ThreadPoolExecutor, work: Callable[[Any], object], items: Iterable[Any]
) -> Iterator[int]:
    """Work on the items side by side; yields how many are done. The first error ends it."""
    futures = [pool.submit(work, item) for item in items]
    try:
        for count, future in enumerate(as_completed(futures), start=1):
            future.result()
            yield count
    except BaseException:
        for future in futures:
            future.cancel()
        wait(futures)  # what is in flight is stored
        raise


def _jsonl(
    records: Iterable[LabelledQuery | QuarantinedQuery | UnlabelledQuery],
) -> Iterator[bytes]:
    if isinstance(records, Spool):
        yield from records.lines()
    else:
        yield from (record.model_dump_json().encode() + b"\n" for record in records)
