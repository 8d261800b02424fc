"""Label: nothing asked twice, nothing lost, and the counts add up however badly it answers."""

from __future__ import annotations

import dataclasses
import itertools
import json
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from configs.settings import load_settings
from data_contracts.heldout import NearIndex, in_fresh_share, is_held_out, near_benchmark
from data_contracts.monitoring import ProductionQuery
from data_contracts.queries import LabelledQuery
from deployments.embedded.models.corpus import recorded_answers
from deployments.embedded.restyle import STYLES
from reelroute.errors import AnswerError, BudgetExceeded, StageError
from tasks.base import Progress, StageContext
from tasks.label import (
    Labelled,
    Queries,
    Teacher,
    WrittenQuery,
    _is_duplicate,
    choose_examples,
    compact_store,
    is_from_production,
    query_problem,
    read_own_queries,
    read_production_queries,
    read_queries,
    shards,
    store_labels,
    store_prompts,
    weigh_all,
    weigh_queries,
    write_queries,
)
from tasks.runs import Run
from tests.support import (
    TEACHER,
    CallsSince,
    Place,
    corpus_rows,
    fault,
    in_threads,
    read_jsonl,
    rounded,
)

pytestmark = pytest.mark.usefixtures("prefect_server")

TWO_CELLS = [("visual", "easy", "news", 12), ("audio", "easy", "news", 12)]


def written(n: int = 3, start: int = 0) -> list[WrittenQuery]:
    return [WrittenQuery(row.query, row.difficulty, row.domain) for row in corpus_rows(n, start)]


def weigh(
    stage: StageContext, queries: Sequence[WrittenQuery], teacher: Teacher | None = None
) -> Labelled:
    return weigh_queries(stage, teacher or Teacher(stage), queries, Progress("p", "p", 1))


def planned(place: Place, rows: Any = TWO_CELLS, **settings: Any) -> StageContext:
    """A label stage with a plan of its own."""
    overrides = {"label__plan": str(place.plan(rows)), "label__size": None, **settings}
    return place.stage("label", settings=place.settings(**overrides))


class Scripted:
    """The embedded teacher with other words: `change` gets the request's last user text."""

    def __init__(self, client: Any, change: Callable[[list[str], str], str]) -> None:
        self._client, self._change = client, change
        self.requests: list[list[str]] = []

    def converse(self, **request: Any) -> dict[str, Any]:
        turns = [message["content"][0]["text"] for message in request["messages"]]
        self.requests.append(turns)
        answer: dict[str, Any] = self._client.converse(**request)
        block = answer["output"]["message"]["content"][0]
        block["text"] = self._change(turns, block["text"])
        return answer


def scripted(
    stage: StageContext, change: Callable[[list[str], str], str]
) -> tuple[Teacher, Scripted]:
    teacher = Teacher(stage)
    client = Scripted(teacher.model.client, change)
    teacher.model = dataclasses.replace(teacher.model, client=client)
    return teacher, client


def task_of(turns: list[str]) -> dict[str, Any] | None:
    found = json.loads(turns[0]) if turns[0].startswith("{") else None
    return found if isinstance(found, dict) else None


# --- weights -----------------------------------------------------------------------------------


def test_labels_are_the_teachers_own_answers_in_the_queries_order(place: Place) -> None:
    stage = place.stage("label")
    queries = written(20)
    labelled = weigh(stage, queries)
    recorded = {answer.query: answer.weights for answer in recorded_answers()}
    assert [row.query for row in labelled.accepted] == [query.text for query in queries]
    for row in labelled.accepted:
        assert row.weights.values() == pytest.approx(recorded[row.query].values())
        assert row.labelled_by == TEACHER
        assert row.prompt_sha256 == stage.settings.prompt("router").sha256
    assert labelled.from_store == 0


@pytest.mark.parametrize("style", STYLES)
def test_counts_add_up_whatever_the_teacher_spoils(style: str, place: Place) -> None:
    settings = place.settings(label__concurrency=1)
    stage, queries = place.stage("label", settings=settings), written(24)
    with fault(place.aws, "teacher-answers", rate=0.5, seed=3, style=style):
        labelled = weigh(stage, queries)
    assert len(labelled.accepted) + len(labelled.quarantined) == len(queries)
    answers = Teacher(stage).labels.values()
    repaired = [a for a in answers if a.status == "usable" and a.calls == 2]
    assert repaired, "no answer was repaired"
    assert labelled.quarantined, "no answer failed twice"
    assert {q.query for q in labelled.quarantined}.isdisjoint(r.query for r in labelled.accepted)
    for lost in labelled.quarantined:
        assert lost.reason
        assert len(lost.raw) == 2
        assert all(lost.raw) or style == "empty"


@pytest.mark.parametrize(
    ("style", "reason"),
    [
        ("prose", "not bare JSON"),
        ("half-json", "not bare JSON"),
        ("sum-0.7", "the weights add up to 0.7"),
        ("nan", "NaN is not a JSON number"),
        ("negative", "outside 0 to 1"),
        ("five-channels", "unexpected key 'subtitles'"),
        ("fenced", "not bare JSON"),
    ],
)
def test_too_much_in_quarantine_fails_the_stage_with_the_first_reason(
    style: str, reason: str, place: Place
) -> None:
    stage, queries = place.stage("label"), written(3)
    with fault(place.aws, "teacher-answers", style=style):
        labelled = weigh(stage, queries)
    found = Queries(asked=3, accepted=queries)
    with pytest.raises(StageError, match=r"3 of 3 queries went to quarantine") as error:
        store_labels(stage, found, labelled)
    assert reason in str(error.value)
    assert "label.max_quarantined" in str(error.value)
    kept = stage.storage.get(stage.run.key("quarantine/label.jsonl"))
    assert kept is not None
    rows = read_jsonl(kept.data)
    assert [row["query"] for row in rows] == [query.text for query in queries]
    assert all(reason in row["reason"] and len(row["raw"]) == 2 for row in rows)


def test_the_repair_request_names_the_problem_and_quotes_the_answer(place: Place) -> None:
    stage = place.stage("label")
    teacher, client = scripted(stage, lambda turns, text: text if len(turns) > 1 else "Well …")
    labelled = weigh(stage, written(1), teacher)
    assert len(labelled.accepted) == 1
    question, first_answer, repair = client.requests[1]
    assert (question, first_answer) == (written(1)[0].text, "Well …")
    assert "not bare JSON" in repair


@pytest.mark.parametrize("blank", ["", "   \n"])
def test_a_blank_answer_is_repaired_like_any_other(blank: str, place: Place) -> None:
    stage = place.stage("label")
    teacher, client = scripted(stage, lambda turns, text: text if len(turns) > 1 else blank)
    assert len(weigh(stage, written(1), teacher).accepted) == 1
    assert client.requests[1][1] == "(no answer)"


def test_a_warm_label_store_is_asked_instead_of_the_teacher(
    place: Place, calls: CallsSince
) -> None:
    first = place.stage("label", run=place.run("run-1"))
    bought = weigh(first, written(8))
    assert calls.asked(TEACHER) == 8
    second = place.stage("label", run=place.run("run-2"))
    again = weigh(second, written(8))
    assert calls.asked(TEACHER) == 8
    assert (bought.from_store, again.from_store) == (0, 8)
    assert again.accepted == bought.accepted
    assert second.meter.cost.calls == 0


def test_another_prompt_or_teacher_has_a_store_of_its_own(place: Place) -> None:
    weigh(place.stage("label"), written(2))
    prefixes = {key.rpartition("/")[0] for key in place.storage().keys("label-store/")}
    (prefix,) = prefixes
    assert prefix.startswith("label-store/embedded-teacher-v1-0/weights-")
    other = place.settings(models__teacher__id="embedded.large-baseline-v1:0")
    assert len(Teacher(place.stage("label", settings=other)).labels) == 0


def test_a_quarantined_answer_is_final_for_its_attempt_and_asked_again_by_the_next(
    place: Place, calls: CallsSince
) -> None:
    run = place.run()
    with fault(place.aws, "teacher-answers", style="prose"):
        assert len(weigh(place.stage("label", run=run), written(2)).quarantined) == 2
    asked = calls.asked()
    assert len(weigh(place.stage("label", run=run), written(2)).quarantined) == 2
    assert calls.asked() == asked == 4
    later = weigh(place.stage("label", run=run, attempt=2), written(2))
    assert len(later.accepted) == 2
    assert calls.asked() == 6


def test_after_the_budget_stopped_it_a_richer_attempt_asks_nothing_twice(
    place: Place, calls: CallsSince
) -> None:
    run, queries = place.run(), written(30)
    poor = place.stage("label", run=run, budget=0.05)
    with pytest.raises(BudgetExceeded, match=r"budget\.usd_per_run"):
        weigh(poor, queries)
    first = calls.asked()
    assert 0 < first < 30
    assert poor.meter.cost.usd <= 0.05
    rich = place.stage("label", run=run, attempt=2)
    labelled = weigh(rich, queries)
    assert len(labelled.accepted) == 30
    assert labelled.from_store == first
    asked = Counter(call.text_sha256 for call in calls.all() if call.operation == "Converse")
    assert len(asked) == 30
    assert set(asked.values()) == {1}


def test_a_start_after_a_kill_counts_what_the_attempt_has_bought_already(place: Place) -> None:
    run = place.run()
    killed = place.stage("label", run=run)
    weigh(killed, written(3))
    again = place.stage("label", run=run)
    assert rounded(Teacher(again).bought()) == rounded(killed.meter.cost)
    assert rounded(again.meter.cost) == rounded(killed.meter.cost)
    assert again.meter.cost.calls == 3
    later = place.stage("label", run=run, attempt=2)
    assert Teacher(later).bought().calls == later.meter.cost.calls == 0


def test_compacting_the_store_keeps_every_answer(place: Place, calls: CallsSince) -> None:
    stage = place.stage("label")
    teacher = Teacher(stage)
    weigh(stage, written(6), teacher)
    compact_store(teacher)
    assert len(list(place.storage().keys("label-store/"))) == 1
    assert weigh(stage, written(6)).from_store == 6
    assert calls.asked() == 6


def test_shards_hold_all_queries_once() -> None:
    queries = written(7)
    cut = list(shards(queries, 3))
    assert [len(shard) for shard in cut] == [3, 3, 1]
    assert [query for shard in cut for query in shard] == queries


# --- writing -----------------------------------------------------------------------------------


def test_the_plan_is_filled_cell_by_cell(place: Place) -> None:
    stage = planned(place)
    found = write_queries(stage, Teacher(stage))
    assert len(found.accepted) == 24
    assert found.asked == len(found.accepted) + len(found.duplicates) + len(found.quarantined)
    cell = {answer.query: answer.channel for answer in recorded_answers()}
    assert Counter(cell[query.text] for query in found.accepted) == {"visual": 12, "audio": 12}
    assert {(q.difficulty, q.domain) for q in found.accepted} == {("easy", "news")}


def test_short_batches_are_refilled_and_the_teacher_is_told_what_it_has_written(
    place: Place,
) -> None:
    def short(turns: list[str], text: str) -> str:
        return json.dumps({"queries": json.loads(text)["queries"][:5]})

    stage = planned(place, [("visual", "easy", "news", 12)])
    teacher, client = scripted(stage, short)
    found = write_queries(stage, teacher)
    assert len(found.accepted) == found.asked == 12
    tasks = [task for turns in client.requests if (task := task_of(turns))]
    assert [task["count"] for task in tasks] == [12, 7, 2]
    assert [len(task["already_written"]) for task in tasks] == [0, 5, 10]
    assert tasks[2]["already_written"] == [query.text for query in found.accepted[:10]]


def test_only_the_newest_queries_of_a_long_cell_are_told(place: Place) -> None:
    stage = planned(
        place, [("visual", "easy", "news", 12)], label__batch_size=4, label__told_before=3
    )
    numbers = itertools.count()
    teacher, client = scripted(
        stage, lambda turns, text: json.dumps({"queries": [f"{next(numbers)}" for _ in range(4)]})
    )
    write_queries(stage, teacher)
    told = [task["already_written"] for turns in client.requests if (task := task_of(turns))]
    assert told == [[], ["1", "2", "3"], ["5", "6", "7"]]


def test_exact_and_near_duplicates_are_counted_and_refilled(place: Place) -> None:
    fresh = iter(
        [
            [
                "a red fox crosses the snowy road at dawn near the old farm",
                "A RED FOX crosses the snowy road, at dawn near the old farm!",
                "a red fox crosses the snowy road at dawn near the old farm house",
            ],
            ["a violin plays alone"],
            ["thunder rolls over the bay"],
        ]
    )
    stage = planned(place, [("visual", "easy", "news", 3)])
    teacher, _ = scripted(stage, lambda turns, text: json.dumps({"queries": next(fresh)}))
    found = write_queries(stage, teacher)
    assert [query.text for query in found.accepted] == [
        "a red fox crosses the snowy road at dawn near the old farm",
        "a violin plays alone",
        "thunder rolls over the bay",
    ]
    assert len(found.duplicates) == 2
    assert found.asked == 5


def test_a_query_that_another_cell_has_is_a_duplicate_too(place: Place) -> None:
    batches = iter(["one fox", "one fox", "two owls"])
    stage = planned(
        place,
        [("visual", "easy", "news", 1), ("audio", "easy", "news", 1)],
        label__concurrency=1,
    )
    teacher, _ = scripted(stage, lambda turns, text: json.dumps({"queries": [next(batches)]}))
    found = write_queries(stage, teacher)
    assert [query.text for query in found.accepted] == ["one fox", "two owls"]
    assert found.duplicates == ["one fox"]


def test_what_can_be_no_query_goes_to_quarantine_with_its_reason(place: Place) -> None:
    batches = iter([["", "x" * 1001, "bell\x07rings", "a dog", "a cat", "one too many"], ["a cow"]])
    stage = planned(place, [("visual", "easy", "news", 2)])
    teacher, _ = scripted(stage, lambda turns, text: json.dumps({"queries": next(batches)}))
    found = write_queries(stage, teacher)
    assert [query.text for query in found.accepted] == ["a dog", "a cat"]
    assert [q.reason for q in found.quarantined] == [
        "empty",
        "1001 characters long, at most 1000 are allowed",
        "holds control characters",
        "more queries than were asked for",
    ]
    assert found.asked == 6


def test_half_a_character_in_a_written_query_does_no_harm(place: Place) -> None:
    stage = planned(place, [("visual", "easy", "news", 1)])
    teacher, _ = scripted(stage, lambda turns, text: '{"queries": ["a \\ud83d dog"]}')
    found = write_queries(stage, teacher)
    assert [query.text for query in found.accepted] == [r"a \ud83d dog"]


def test_a_plan_that_cannot_be_filled_names_the_cell_and_what_came(place: Place) -> None:
    stage = planned(place, [("mixed", "medium", "personal-and-social", 30)])
    with pytest.raises(StageError) as error:
        write_queries(stage, Teacher(stage))
    said = str(error.value)
    assert "cell mixed/medium/personal-and-social wants 30 queries" in said
    assert "brought 3 different ones" in said
    assert "label.round" in said


def test_writing_answers_that_are_no_list_of_queries_end_as_unsatisfiable(place: Place) -> None:
    stage = planned(place)
    with (
        fault(place.aws, "teacher-answers", style="prose"),
        pytest.raises(StageError, match=r"cell visual/easy/news .* brought 0 different"),
    ):
        write_queries(stage, Teacher(stage))


def test_the_same_answers_give_the_same_set_however_they_arrive(
    place: Place, calls: CallsSince
) -> None:
    side_by_side, alone = (planned(place, label__concurrency=n) for n in (8, 1))
    first = write_queries(side_by_side, Teacher(side_by_side))
    asked = calls.asked()
    second = write_queries(alone, Teacher(alone))
    assert list(second.accepted) == list(first.accepted)
    assert dataclasses.replace(second, accepted=[]) == dataclasses.replace(first, accepted=[])
    assert calls.asked() == asked


def test_a_new_round_writes_new_queries_and_the_same_round_is_not_paid_twice(
    place: Place, calls: CallsSince
) -> None:
    first = write_queries(planned(place), Teacher(planned(place)))
    paid = calls.asked()
    again = write_queries(planned(place), Teacher(planned(place)))
    assert (list(again.accepted), calls.asked()) == (list(first.accepted), paid)
    stage = planned(place, label__round="2026-w48")
    newer = write_queries(stage, Teacher(stage))
    assert calls.asked() > paid
    assert newer.accepted != first.accepted


@pytest.mark.parametrize(
    "text",
    [
        "prose",
        '{"queries": "one"}',
        '{"queries": [1]}',
        '{"queries": ["a"], "note": ""}',
        '["a"]',
        "[" * 100_000,
    ],
)
def test_a_writing_answer_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(AnswerError):
        read_queries(text)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("dog barking", None),
        ("  ", "empty"),
        ("a" * 1001, "1001 characters long, at most 1000 are allowed"),
        ("a\x00b", "holds control characters"),
        ("क्या 🐕 भौंकता है", None),
    ],
)
def test_what_can_be_no_query_says_why(text: str, problem: str | None) -> None:
    assert query_problem(text) == problem


# --- own queries -------------------------------------------------------------------------------


def own(place: Place, lines: Sequence[bytes], **settings: Any) -> Queries:
    run = place.run("run-own", place.settings(**settings), b"\n".join(lines))
    stage = place.stage("label", run=run, settings=place.settings(**settings))
    file = run.own_queries()
    assert file is not None
    return read_own_queries(stage, file)


def good_lines(n: int = 110) -> list[bytes]:
    return [row.query.encode() for row in corpus_rows(n, start=500)]


def test_own_queries_come_without_difficulty_and_domain(place: Place) -> None:
    found = own(place, good_lines())
    assert {(q.difficulty, q.domain) for q in found.accepted} == {("unknown", "unknown")}
    assert [q.text for q in found.accepted] == [r.query for r in corpus_rows(110, start=500)]


def test_bad_lines_are_quarantined_by_reason_and_the_counts_add_up(place: Place) -> None:
    good = good_lines()
    bad = [b"", b"   ", b"\t", b"x" * 10_000, b"caf\xe9 at night", b"a\x07b", good[0].upper()]
    found = own(place, [*bad, *good, good[1], b"\r"])
    assert [q.reason for q in found.quarantined] == [
        "10000 characters long, at most 1000 are allowed",
        "not UTF-8: invalid continuation byte at byte 3",
        "holds control characters",
    ]
    assert found.quarantined[1].query == r"caf\xe9 at night"
    assert len(found.duplicates) == 2
    assert found.asked == len(found.accepted) + len(found.duplicates) + len(found.quarantined)
    assert len(found.accepted) == 110


def test_lines_of_a_windows_file_are_the_same_queries(place: Place) -> None:
    lines = good_lines()
    found = own(place, [b"\xef\xbb\xbf" + lines[0] + b"\r", *(line + b"\r" for line in lines[1:])])
    assert [q.text.encode() for q in found.accepted] == lines


def test_fewer_than_a_job_takes_are_refused_before_the_teacher_is_asked(
    place: Place, calls: CallsSince
) -> None:
    with pytest.raises(StageError) as error:
        own(place, good_lines(99))
    assert "of 99 lines 99 are usable" in str(error.value)
    assert "at least 100" in str(error.value)
    assert "nothing was bought" in str(error.value)
    assert calls.asked() == 0


def test_held_out_queries_do_not_count_towards_what_a_job_needs(
    place: Place, calls: CallsSince
) -> None:
    from data_contracts.heldout import benchmark_queries

    benchmark = [row.query.encode() for row in benchmark_queries()[:50]]
    with pytest.raises(StageError, match="60 of them may be trained on"):
        own(place, [*benchmark, *good_lines(60)])
    assert calls.asked() == 0


def test_an_empty_file_is_refused_too(place: Place) -> None:
    with pytest.raises(StageError, match="of 0 lines 0 are usable"):
        own(place, [b"", b""])


def test_labels_are_stored_with_duplicates_and_quarantine_beside_them(place: Place) -> None:
    stage = place.stage("label")
    queries = written(100)
    labelled = weigh(stage, queries[:3])
    found = Queries(asked=103, accepted=queries, duplicates=["twin é"])
    files = store_labels(stage, found, labelled)
    assert len(read_jsonl(stage.storage.read(files["labelled"]))) == 3
    assert read_jsonl(stage.storage.read(files["duplicates"])) == [{"query": "twin é"}]
    assert stage.storage.read(files["quarantine"]) == b""


def test_many_threads_ask_each_query_once(place: Place, calls: CallsSince) -> None:
    stage = place.stage("label", settings=place.settings(label__concurrency=16))
    teacher = Teacher(stage)
    cut = list(shards(written(32), 8))
    in_threads(lambda shard: weigh(stage, shard, teacher), cut, threads=2)
    asked = Counter(call.text_sha256 for call in calls.all() if call.operation == "Converse")
    assert len(asked) == sum(asked.values()) == 32


def test_the_default_plan_asks_for_what_the_recorded_queries_can_fill() -> None:
    recorded = recorded_answers()
    index = NearIndex()
    near_duplicate = load_settings().label.near_duplicate
    assert [a.query for a in recorded if _is_duplicate(a.query, index, near_duplicate)] == []
    assert sum(cell.queries for cell in load_settings().plan()) == len(recorded)


# --- queries from production -------------------------------------------------------------------


def production(queries: Sequence[str]) -> bytes:
    return b"".join(
        ProductionQuery(query=query, window="w", seen=1).model_dump_json().encode() + b"\n"
        for query in queries
    )


def sampled(place: Place, data: bytes, found: Queries | None = None) -> Queries:
    run = Run(place.storage(), "run-1")
    run.start(place.settings(), {}, None, data, from_production=True)
    file = run.own_queries()
    assert file is not None
    assert is_from_production(file)
    return read_production_queries(place.stage("label", run=run), file, found or Queries())


def test_queries_from_production_join_those_of_the_plan_and_the_counts_add_up(
    place: Place,
) -> None:
    plan = Queries(asked=3, accepted=written(3))
    texts = [row.query for row in corpus_rows(8, start=1)]  # the first two are in the plan
    data = production(texts) + b'{"query": "a\\u0007b", "window": "w", "seen": 1}\n{\n'
    found = sampled(place, data, plan)
    assert [query.domain for query in found.accepted[3:]] == ["production"] * 6
    assert found.duplicates == texts[:2]
    assert [q.reason.partition(":")[0] for q in found.quarantined] == ["not a sampled query"] * 2
    assert found.asked == 13
    assert found.asked == len(found.accepted) + len(found.duplicates) + len(found.quarantined)


def test_labels_of_production_queries_fulfil_the_contracts(place: Place) -> None:
    found = sampled(place, production([row.query for row in corpus_rows(5)]))
    labelled = weigh(place.stage("label"), found.accepted)
    assert len(labelled.accepted) == 5
    for row in labelled.accepted:
        assert LabelledQuery.model_validate_json(row.model_dump_json()) == row
        assert (row.domain, row.difficulty) == ("production", "unknown")


@pytest.mark.parametrize(("count", "chosen"), [(1, 1), (10, 10), (1000, 283)])
def test_examples_are_spread_over_the_plan_and_held_out_queries_are_always_labelled(
    count: int, chosen: int
) -> None:
    recorded = [WrittenQuery(answer.query) for answer in recorded_answers()[:300]]
    examples, others = choose_examples(recorded, count)
    assert sorted(q.text for q in [*examples, *others]) == sorted(q.text for q in recorded)
    trainable = [
        q.text for q in recorded if not is_held_out(q.text) and near_benchmark(q.text) is None
    ]
    assert len(trainable) == 283
    to_train_on = [q.text for q in examples if q.text in set(trainable)]
    assert len(to_train_on) == chosen
    assert all(in_fresh_share(q.text) for q in examples if q.text not in set(trainable))
    assert not any(in_fresh_share(q.text) for q in others)
    gaps = [trainable.index(b) - trainable.index(a) for a, b in itertools.pairwise(to_train_on)]
    assert not gaps or max(gaps) - min(gaps) <= 1


def test_prompts_are_stored_with_where_they_come_from(place: Place) -> None:
    stage, queries = place.stage("label"), written(3)
    stored = read_jsonl(stage.storage.read(store_prompts(stage, queries)))
    assert stored == [
        {"query": q.text, "difficulty": q.difficulty, "domain": q.domain} for q in queries
    ]


def test_what_is_being_stored_takes_no_place_from_the_calls_in_flight(place: Place) -> None:
    """And no more calls are in flight than the profile allows, though more queries are at work."""
    settings = place.settings(label__concurrency=4)
    stage = place.stage("label", settings=settings)
    lock, state = threading.Lock(), Counter[str]()
    asked_while_storing = threading.Event()

    class Counting(Scripted):
        def converse(self, **request: Any) -> dict[str, Any]:
            with lock:
                state["asked"] += 1
                state["now"] += 1
                state["most"] = max(state["most"], state["now"])
                if state["asked"] > 4:
                    asked_while_storing.set()
            try:
                return super().converse(**request)
            finally:
                with lock:
                    state["now"] -= 1

    teacher = Teacher(stage)
    client = Counting(teacher.model.client, lambda _, text: text)
    teacher.model = dataclasses.replace(teacher.model, client=client)
    put = teacher.labels.put

    def slow_put(answer: Any) -> None:
        assert asked_while_storing.wait(30)  # the fifth call comes while the first are stored
        put(answer)

    teacher.labels.put = slow_put  # type: ignore[method-assign]
    assert len(weigh_all(stage, teacher, written(12)).accepted) == 12
    assert state["most"] <= 4 < settings.label.at_work
