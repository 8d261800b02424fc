"""Mapped tasks: the same results wherever they run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from configs.settings import TaskRunnerSettings
from reelroute.errors import BudgetExceeded, StageError
from tasks.label import Teacher, WrittenQuery, weigh_all
from tasks.mapped import map_task
from tasks.monitor.aggregate import Reading, vocabulary_of
from tasks.monitor.logs import WindowLogs, find_logs, read_logs
from tests.support import CallsSince, Place, corpus_rows
from tests.tasks.monitor.factory import WINDOW, traffic, write

pytestmark = pytest.mark.usefixtures("prefect_server")

ROWS = corpus_rows(60)
QUERIES = [WrittenQuery(row.query, row.difficulty, row.domain) for row in ROWS]


def double(number: int, times: int = 2) -> int:
    if number < 0:
        raise StageError(f"{number} is negative")
    return number * times


def test_results_come_in_the_items_order() -> None:
    where = TaskRunnerSettings(workers=3)
    assert list(map_task(where, double, "number", range(7), times=3)) == [*range(0, 21, 3)]
    assert list(map_task(where, double, "number", ())) == []


def test_the_first_error_is_raised_as_it_is() -> None:
    with pytest.raises(StageError, match="-1 is negative"):
        list(map_task(TaskRunnerSettings(), double, "number", [1, -1, 2]))


def some_logs(folder: Path) -> Path:
    for number in range(5):
        ending = ".gz" if number % 2 else ""
        lines = [*traffic(ROWS, 60, seed=number), "{\n"]
        write(folder / "logs" / f"{number}.jsonl{ending}", lines)
    return folder / "logs"


def window_logs(place: Place, folder: Path, **settings: Any) -> WindowLogs:
    profile = place.settings(**settings)
    vocabulary = vocabulary_of([row.query for row in ROWS[:30]]).words
    reading = Reading(WINDOW, vocabulary, sample_size=20)
    return read_logs(profile, find_logs(profile, reading, str(folder)), reading, ())


@pytest.fixture(scope="module")
def dask() -> Iterator[dict[str, Any]]:
    """Settings for a cluster of two workers, processes of their own."""
    from distributed import LocalCluster

    with LocalCluster(
        n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0"
    ) as cluster:
        yield {
            "task_runner__kind": "dask",
            "task_runner__address": cluster.scheduler_address,
            "task_runner__workers": 2,
        }


def test_threads_come_to_the_same_however_many_they_are(place: Place, tmp_path: Path) -> None:
    logs = some_logs(tmp_path)
    one = window_logs(place, logs, task_runner__workers=1)
    assert one.aggregate.lines.requests == 300
    assert window_logs(place, logs, task_runner__workers=3) == one


@pytest.mark.slow
def test_two_dask_workers_come_to_the_same_as_threads(
    dask: dict[str, Any], place: Place, tmp_path: Path
) -> None:
    logs = some_logs(tmp_path)
    assert window_logs(place, logs, **dask) == window_logs(place, logs)


@pytest.mark.slow
def test_a_cluster_is_started_for_the_flow_where_none_is_named(place: Place) -> None:
    where = TaskRunnerSettings(kind="dask", workers=2)
    assert list(map_task(where, double, "number", [1, 2, 3])) == [2, 4, 6]


@pytest.mark.slow
def test_on_dask_each_query_is_asked_once_and_what_was_bought_is_counted(
    dask: dict[str, Any], place: Place
) -> None:
    stage = place.stage("label", settings=place.settings(**dask, label__shard_size=20))
    teacher, calls = Teacher(stage), CallsSince(place.aws)
    labelled = weigh_all(stage, teacher, QUERIES)
    assert [row.query for row in labelled.accepted] == [row.query for row in ROWS]
    assert calls.asked() == teacher.bought().calls == stage.meter.cost.calls == 60
    threads = place.stage("label", settings=place.settings(label__shard_size=20))
    again = weigh_all(threads, Teacher(threads), QUERIES)
    assert list(again.accepted) == list(labelled.accepted)
    assert again.from_store == 60


@pytest.mark.slow
def test_on_dask_too_the_budget_is_not_passed(dask: dict[str, Any], place: Place) -> None:
    settings = place.settings(**dask, label__shard_size=20)
    stage = place.stage("label", settings=settings, budget=0.02)
    with pytest.raises(BudgetExceeded):
        weigh_all(stage, Teacher(stage), QUERIES)
    assert 0 < stage.meter.cost.usd <= 0.02
