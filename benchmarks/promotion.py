"""Promotion and rollback under load: no client that routes meanwhile may fail.

    python -m benchmarks.promotion                  # a minute at 50 requests a second
    python -m benchmarks.promotion --seconds 300

Two clients route at the same rate, each on a fixed schedule: one follows the release pointer, the
other knows nothing but the stable deployment's ARN. Meanwhile two releases are promoted and rolled
back by turns. Each answer is compared with what the two releases' models answer, so that it is
seen which one gave it. Everything stays on the loopback interface.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import click

from configs.settings import Settings, load_settings
from data_contracts.conversation import ConversationRecord
from data_contracts.heldout import is_held_out, near_benchmark
from deployments.embedded import process
from deployments.embedded.models.answers import bare_json_of
from deployments.embedded.models.corpus import recorded_answers
from reelroute.release import BedrockModel, Release
from reelroute.routers import BedrockRouter, Router
from tasks.promote import roll_back_with_stable
from tasks.releases import (
    POINTER_KEY,
    current_pointer,
    load_release,
    move_pointer,
    write_release,
)
from tasks.stable import ask_directly, follow_pointer, read_mark
from tasks.storage import Storage, aws_access

if TYPE_CHECKING:
    from reelroute.routers.following import ReleaseRouter

#: A query that is not held out; that the two models answer it differently is checked.
QUERY: Final = "two colleagues discussing a budget while rain hits the window"
_THREADS: Final = 16
_FOLLOW_SECONDS: Final = 0.2


@dataclass
class Traffic:
    """One client that routes at a fixed rate until it is stopped. Use it in a `with` statement.

    Attributes:
        route: gives an answer; whatever it raises is a failed request.
        rate: requests a second, sent on a fixed schedule.
        answers: how often each answer came.
        milliseconds: the latency of each answer, from the moment that the schedule names.
        failures: what went wrong, by its words.
    """

    route: Callable[[], str]
    rate: float
    answers: Counter[str] = field(default_factory=Counter)
    milliseconds: list[float] = field(default_factory=list)
    failures: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._stop = threading.Event()
        self._moved = threading.Condition()
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="traffic")
        self._clock = threading.Thread(target=self._send, daemon=True, name="traffic-clock")

    def __enter__(self) -> Self:
        self._clock.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._clock.join()
        self._pool.shutdown(cancel_futures=True)

    @property
    def requests(self) -> int:
        """Requests that have ended."""
        return self.answers.total() + self.failures.total()

    def until(self, done: Callable[[], bool], seconds: float = 60) -> bool:
        """Wait until something holds of what has come so far; whether it did in time."""
        with self._moved:
            return self._moved.wait_for(done, seconds)

    def more(self, requests: int) -> None:
        """Wait until so many more requests have ended."""
        wanted = self.requests + requests
        self.until(lambda: self.requests >= wanted)

    def _send(self) -> None:
        started, sent = time.monotonic(), 0
        while not self._stop.wait(max(started + sent / self.rate - time.monotonic(), 0)):
            self._pool.submit(self._ask, started + sent / self.rate)
            sent += 1

    def _ask(self, due: float) -> None:
        try:
            answer, problem = self.route(), ""
        except Exception as error:
            answer, problem = "", f"{type(error).__name__}: {error}"
        with self._moved:
            if problem:
                self.failures[problem] += 1
            else:
                self.answers[answer] += 1
                self.milliseconds.append((time.monotonic() - due) * 1000)
            self._moved.notify_all()


def answer_of(router: Router) -> str:
    """A router's answer to `QUERY` as text.

    Raises:
        AssertionError: it is not the student's own.
    """
    weights = router.route(QUERY)
    assert weights.router == "bedrock", weights.router
    return weights.model_dump_json(include={"visual", "audio", "transcription", "metadata"})


def make_release(settings: Settings, storage: Storage, version: str, start: int, rows: int) -> str:
    """Train a model, deploy it, and make it the release; its answer to `QUERY`.

    Args:
        start: where in the recorded answers its training rows begin.
        rows: how many.
    """
    bedrock = aws_access(settings).client("bedrock")
    prompt = settings.prompt("router")
    answers = [
        answer
        for answer in recorded_answers()[start:]
        if not is_held_out(answer.query) and near_benchmark(answer.query) is None
    ][:rows]
    lines = (
        ConversationRecord.of(prompt.text, answer.query, bare_json_of(answer.weights)).to_line()
        for answer in answers
    )
    key, name = f"promotion/{version}.jsonl", f"{settings.storage.bucket}-{version}"[:63]
    storage.put(key, "".join(f"{line}\n" for line in lines).encode())
    job = bedrock.create_model_customization_job(
        jobName=name,
        customModelName=name,
        roleArn=settings.distill.role_arn,
        baseModelIdentifier=settings.models.student.customization_id,
        customizationType="FINE_TUNING",
        trainingDataConfig={"s3Uri": storage.uri(key)},
        outputDataConfig={"s3Uri": storage.uri("promotion/")},
    )["jobArn"]
    model = _until(lambda: bedrock.get_model_customization_job(jobIdentifier=job), "Completed")[
        "outputModelArn"
    ]
    deployment = bedrock.create_custom_model_deployment(modelDeploymentName=name, modelArn=model)[
        "customModelDeploymentArn"
    ]
    _until(
        lambda: bedrock.get_custom_model_deployment(customModelDeploymentIdentifier=deployment),
        "Active",
    )
    release = Release(
        version=version,
        run_id=version,
        created_at=datetime.now(UTC),
        router="bedrock",
        prompt=prompt,
        bedrock=BedrockModel(
            deployment_arn=deployment,
            model_arn=model,
            fingerprint=version,
            region=settings.aws.region,
            max_tokens=settings.models.student.max_tokens,
        ),
    )
    promote(settings, storage, release)
    return answer_of(router_of(settings, release, deployment))


def promote(settings: Settings, storage: Storage, release: Release) -> None:
    """Move the pointer to a release, and have the stable deployment follow."""
    move_pointer(storage, current_pointer(storage), write_release(storage, release), "promote")
    follow_pointer(settings, storage, ask_directly(settings))


def router_of(settings: Settings, release: Release, arn: str) -> BedrockRouter:
    """A router that asks an ARN as the release is asked."""
    assert release.bedrock is not None
    model = release.bedrock.model_copy(update={"deployment_arn": arn})
    return BedrockRouter.of_model(model, release.prompt, aws_access(settings))


def follower(settings: Settings, storage: Storage) -> ReleaseRouter:
    """A client that follows the pointer and remembers nothing; what fails is an error."""
    return Router.from_release(
        storage.uri(POINTER_KEY),
        aws_access(settings),
        follow_seconds=_FOLLOW_SECONDS,
        deadline_ms=None,
        cache_size=0,
        fallback=False,
    )


def _until(ask: Callable[[], dict[str, Any]], status: str) -> dict[str, Any]:
    while (answer := ask())["status"] != status:
        assert answer["status"] not in ("Failed", "Stopped"), answer
        time.sleep(0.05)
    return answer


def _line(name: str, traffic: Traffic, names: dict[str, str]) -> str:
    ordered = sorted(traffic.milliseconds)
    p50, p99 = (ordered[int(share * (len(ordered) - 1))] for share in (0.5, 0.99))
    by = ", ".join(
        f"{names.get(answer, 'neither')} {n}" for answer, n in sorted(traffic.answers.items())
    )
    failed = traffic.failures.total()
    return (
        f"{name:22s} {traffic.requests:6d} requests, {failed} failed; answered by {by}; "
        f"p50 {p50:.1f} ms, p99 {p99:.1f} ms"
    )


@click.command()
@click.option("--seconds", default=60.0, show_default=True)
@click.option("--rate", default=50.0, show_default=True, help="Requests a second, of each client.")
@click.option("--port", default=4430, show_default=True)
def main(seconds: float, rate: float, port: int) -> None:
    """Promote and roll back under load."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as open_:
        server, _ = process.up(port, "promotion-bench", Path(folder))
        open_.callback(process.down, Path(folder))
        settings = load_settings(
            overrides={
                "aws.endpoint_url": server.endpoint_url,
                "aws.credentials_file": f"{folder}/credentials",
                "storage.bucket": "promotion-bench",
                "deploy.mode": "stable",
                "deploy.poll_seconds": 0.1,
            }
        )
        storage = Storage(settings)
        one = make_release(settings, storage, "one", 0, 3000)
        two = make_release(settings, storage, "two", 4000, 3000)
        assert one != two
        current = current_pointer(storage)
        assert current is not None
        release = load_release(storage, current.pointer)
        mark = read_mark(storage)
        assert mark is not None
        pointer = open_.enter_context(follower(settings, storage))
        stable = router_of(settings, release, mark.deployment_arn)
        first = open_.enter_context(Traffic(lambda: answer_of(pointer), rate))
        second = open_.enter_context(Traffic(lambda: answer_of(stable), rate))
        ends, moves = time.monotonic() + seconds, 0
        while time.monotonic() < ends:
            second.more(int(rate))
            if moves % 2:
                promote(settings, storage, release)
            else:
                roll_back_with_stable(settings, storage, lambda said: None)
            moves += 1
        names = {one: "one", two: "two"}
        click.echo(f"{moves} moves of the pointer in {seconds:g} s, {rate:g} requests/s a client")
        click.echo(_line("follows the pointer", first, names))
        click.echo(_line("knows the stable ARN", second, names))
        for problem, times in (first.failures + second.failures).items():
            click.echo(f"failed {times} times: {problem}")
        if first.failures or second.failures:
            raise SystemExit(1)


if __name__ == "__main__":
    main()
