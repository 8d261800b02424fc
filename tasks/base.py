"""What every stage's tasks share: retries, the context that they work in, progress, logging."""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
import logging
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ParamSpec, TypeVar, cast

from prefect import task
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.exceptions import MissingContextError
from prefect.logging import get_run_logger
from prefect.states import Failed
from prefect.tasks import Task, exponential_backoff

from configs.settings import Settings
from data_contracts.runs import NO_COST, Cost, Stage, StageRecord, StoredFile
from reelroute.errors import ReelRouteError, RetryableAwsError
from tasks.cost import CostMeter
from tasks.runs import Run
from tasks.storage import Storage

P = ParamSpec("P")
R = TypeVar("R")

TASK_RETRIES = 4
#: The tag that names the run which made something.
RUN_TAG = "run"


def name_prefix(environment: str, bucket: str) -> str:
    """What the names of all that an environment makes in AWS begin with."""
    return f"reelroute-{environment}-{hashlib.sha256(bucket.encode()).hexdigest()[:6]}-"


def stable_name(environment: str, bucket: str) -> str:
    """The name of an environment's stable deployment, which no run's own one is."""
    return f"{name_prefix(environment, bucket)}stable"


def environment_tags(environment: str) -> dict[str, str]:
    """The tags that everything which an environment makes in AWS carries."""
    return {"project": "reelroute", "environment": environment}


@dataclass(frozen=True)
class StageContext:
    """What a stage works with.

    Attributes:
        attempt: 1 for the first; goes up only after a failure was seen or force was asked.
        inputs: hashes of all that the outputs depend on.
        upstream: the completed records of the stages that this one reads.
        meter: counts what is bought and stops at the run's budget.
        forced: whether a new attempt was asked for although nothing has changed.
        starts: how often this attempt was started, this time included: more than once if it
            was killed before its end was seen.
    """

    settings: Settings
    run: Run
    stage: Stage
    attempt: int
    inputs: dict[str, str]
    upstream: dict[Stage, StageRecord]
    meter: CostMeter
    forced: bool = False
    starts: int = 1

    @property
    def storage(self) -> Storage:
        """The run's bucket."""
        return self.run.storage

    def read(self, stage: Stage, name: str) -> bytes:
        """A file that an earlier stage left, verified against its record."""
        return self.storage.read(self.upstream[stage].files[name])

    def token(self, *parts: str) -> str:
        """An idempotency token of this attempt: the same after a kill, new after a failure."""
        return self._hash(self.attempt, *parts)[:48]

    def name(self, *parts: str) -> str:
        """A name for what this attempt makes in AWS, at most 63 characters, lower case.

        Names in AWS are used up for good, so they carry the attempt.
        """
        return f"{self.name_stem(*parts)}-a{self.attempt}"

    def name_stem(self, *parts: str) -> str:
        """What the names of all attempts with the same inputs share."""
        text = self.name_prefix + "-".join([self.run.run_id, *parts])
        return f"{text[:48].rstrip('-')}-{self._hash(*parts)[:8]}"

    @property
    def name_prefix(self) -> str:
        """What all names of this environment share; another bucket's have another."""
        return name_prefix(self.settings.environment, self.storage.bucket)

    def _hash(self, *parts: str | int) -> str:
        bucket = self.storage.bucket
        text = json.dumps(
            [bucket, self.run.run_id, self.stage, self.inputs, *parts], sort_keys=True
        )
        return hashlib.sha256(text.encode()).hexdigest()

    def tags(self) -> list[dict[str, str]]:
        """The tags of everything that is made in AWS."""
        return [
            {"key": key, "value": value}
            for key, value in {
                **environment_tags(self.settings.environment),
                RUN_TAG: self.run.run_id,
            }.items()
        ]


@dataclass(frozen=True)
class StageResult:
    """What a stage leaves for its record; `summary` is the sentence that the UI shows."""

    summary: str
    files: dict[str, StoredFile] = field(default_factory=dict)
    resources: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    cost: Cost = NO_COST


def _worth_retrying(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    return isinstance(state.data, RetryableAwsError)


def as_task(function: Callable[P, R]) -> Task[P, R]:
    """A retryable Prefect task.

    What a later try may mend (`RetryableAwsError`) is retried with jittered exponential
    backoff; any other error of ReelRoute ends the task at once. Such errors are states with a
    sentence, without a stack trace; the error is their data.
    """

    @functools.wraps(function)
    def speaking(*args: P.args, **kwargs: P.kwargs) -> R | State[Any]:
        try:
            return function(*args, **kwargs)
        except ReelRouteError as error:
            return Failed(message=str(error), data=error)

    made = task(
        name=function.__name__.replace("_", "-"),
        description=inspect.getdoc(function),
        retries=TASK_RETRIES,
        retry_delay_seconds=exponential_backoff(2),
        retry_jitter_factor=0.5,
        retry_condition_fn=_worth_retrying,
        persist_result=False,
        cache_policy=NO_CACHE,
    )(speaking)
    return cast(Task[P, R], made)


def stage_task(function: Callable[P, R]) -> Callable[P, R]:
    """A retryable Prefect task of a stage, as `as_task` makes it.

    Errors of ReelRoute are raised to the calling flow as they are.
    """
    prefect_task = as_task(function)

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        state: State[Any] = cast(Any, prefect_task)(*args, return_state=True, **kwargs)
        if isinstance(state.data, ReelRouteError):
            raise state.data
        return cast(R, state.result())

    return call


def logger() -> logging.Logger | logging.LoggerAdapter[Any]:
    """The run's logger, whose lines the UI shows; outside a run the module's own."""
    try:
        return get_run_logger()
    except MissingContextError:
        return logging.getLogger("reelroute")


class Progress:
    """A progress bar in the UI that moves at most about once a second.

    Used outside a Prefect run it shows nothing.
    """

    def __init__(self, key: str, description: str, total: int) -> None:
        self._total, self.done, self._moved = max(total, 1), 0, time.monotonic()
        self._lock = threading.Lock()
        self._description = description
        self._id: Any = None
        try:
            get_run_logger()
        except MissingContextError:
            return
        self._id = create_progress_artifact(progress=0.0, key=key, description=description)

    def advance(self, by: int = 1) -> None:
        """Count so many more as done; safe to call from many threads."""
        with self._lock:
            self.show(self.done + by)

    def show(self, done: int, description: str | None = None) -> None:
        """Show so many as done, and another description if one is given."""
        self.done = done
        if description:
            self._description = description
        now = time.monotonic()
        if self._id and (now - self._moved >= 1 or done >= self._total):
            self._moved = now
            percent = min(100.0, 100.0 * done / self._total)
            update_progress_artifact(
                artifact_id=self._id, progress=percent, description=self._description
            )


def code_hash(module: str) -> str:
    """Hash of a module's source: the code version that a stage's outputs depend on."""
    return hashlib.sha256(inspect.getsource(sys.modules[module]).encode()).hexdigest()
