"""Mapped tasks: one task over many items, where the profile has them run.

Threads of the flow's process, or workers of a Dask cluster, on this machine or elsewhere: the
task is the same, and what it is given must be able to travel. On Dask a task opens its own
connections.
"""

from __future__ import annotations

import inspect
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, TypeVar, cast

from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from configs.settings import TaskRunnerSettings
from reelroute.errors import ConfigError, ReelRouteError
from tasks.base import as_task

R = TypeVar("R")
#: Tasks that are submitted to each worker before the first of them is done, and to a cluster
#: that is there already, of whatever size.
AHEAD_OF_WORKER = 2
AHEAD_OF_CLUSTER = 64


def task_runner(settings: TaskRunnerSettings) -> TaskRunner[Any]:
    """The task runner that a profile names.

    Raises:
        ConfigError: Dask is named and not installed.
    """
    if settings.kind == "threads":
        return ThreadPoolTaskRunner(max_workers=settings.workers)
    try:
        from prefect_dask.task_runners import DaskTaskRunner
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"`task_runner.kind: dask` needs {error.name}: pip install -e '.[dask]', or set "
            "`task_runner.kind` to threads"
        ) from None
    if settings.address:
        return cast(TaskRunner[Any], DaskTaskRunner(address=settings.address))
    cluster = {
        "n_workers": settings.workers,
        "threads_per_worker": 1,
        "host": "127.0.0.1",
        "dashboard_address": "127.0.0.1:0",
    }
    return cast(TaskRunner[Any], DaskTaskRunner(cluster_kwargs=cluster))


def map_task(
    where: TaskRunnerSettings,
    function: Callable[..., R],
    over: str,
    items: Iterable[Any],
    /,
    **static: Any,
) -> Iterator[R]:
    """Run a task on every item; the results in the items' order, each once it is there.

    Args:
        where: the profile's task runner.
        function: a plain function, or one that is a stage's task.
        over: its parameter that an item is given as.
        items: one a task.
        static: its other parameters, the same for all items.

    Raises:
        ReelRouteError: a task ended with it; those that run meanwhile end, too.
    """
    task = as_task(inspect.unwrap(function))
    waiting = iter(items)
    with task_runner(where) as runner:

        def submit(count: int) -> list[Any]:
            return [
                runner.submit(task, parameters={over: item, **static})
                for item in islice(waiting, count)
            ]

        # Items, and what came of them, are held only while it is their turn.
        ahead = AHEAD_OF_CLUSTER if where.address else AHEAD_OF_WORKER * where.workers
        futures = deque(submit(ahead))
        while futures:
            future = futures.popleft()
            future.wait()
            state = future.state
            if isinstance(state.data, ReelRouteError):
                raise state.data
            yield cast(R, state.result())
            futures += submit(1)
