"""Where the pipeline is disturbed: the embedded AWS in this process, and a Prefect server."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from benchmarks.chaos.start import Order, Start, preload
from configs.settings import CONFIGS, Settings, load_settings
from data_contracts.heldout import benchmark_queries
from data_contracts.queries import LabelledQuery
from deployments.embedded.aws import EmbeddedAws
from deployments.embedded.bedrock.objects import ACCOUNT
from deployments.embedded.calls import Call
from deployments.embedded.models.catalogue import routing_models
from deployments.embedded.process import end
from deployments.embedded.provision import make_bucket
from reelroute.errors import AnswerError
from reelroute.parsing import parse_forgiving
from reelroute.weights import MODALITIES

RUN_ID: Final = "run-1"
#: The smallest run whose customization job takes its training file.
QUERIES: Final = 150
BENCHMARK: Final = 16
_SECONDS_TO_START: Final = 120
_STUDENT: Final = "embedded.light-student-v1:0"


@dataclass
class Site:
    """A fresh bucket with a run in it.

    Attributes:
        settings: its profile.
        log: what the run's processes printed.
    """

    aws: EmbeddedAws
    config: str
    settings: Settings
    log: Path
    benchmark: Sequence[LabelledQuery]
    calls_before: int

    @property
    def bucket(self) -> str:
        """Its name."""
        return self.settings.storage.bucket

    def start(self) -> Start:
        """Start the run, or start it again."""
        return Start(Order(self.config, RUN_ID, self.benchmark, self.log))

    def calls(self) -> list[Call]:
        """The calls that the embedded AWS got since the bucket was made."""
        return [call for call in self.aws.calls() if call.sequence > self.calls_before]

    def objects(self) -> dict[str, bytes]:
        """What lies in the bucket, by key: read from the store itself, not by calls."""
        from moto.s3.models import s3_backends

        keys = s3_backends[ACCOUNT]["aws"].buckets[self.bucket].keys
        return {key: bytes(keys[key].value) for key in list(keys) if hasattr(keys[key], "value")}

    def has(self, key: str) -> bool:
        """Whether an object is there."""
        from moto.s3.models import s3_backends

        return key in s3_backends[ACCOUNT]["aws"].buckets[self.bucket].keys

    @property
    def stages_done(self) -> int:
        """How many of the stages have left a record, in a row."""
        from data_contracts.runs import STAGES

        done = 0
        while done < len(STAGES) and self.has(f"runs/{RUN_ID}/stages/{STAGES[done]}/001.json"):
            done += 1
        return done


class World:
    """Makes sites; one embedded AWS and one Prefect server for all.

    Attributes:
        benchmark: the held-out queries that candidates are asked.
    """

    def __init__(self, aws: EmbeddedAws, api_url: str, folder: Path) -> None:
        self._aws = aws
        self._api_url = api_url
        self._folder = folder
        self._sites = 0
        self.benchmark = _telling_queries(BENCHMARK)

    def site(self, overrides: dict[str, Any] | None = None) -> Site:
        """A fresh bucket.

        Args:
            overrides: settings that differ from the cheap ones, by dotted name.
        """
        self._sites += 1
        bucket = f"chaos-{os.getpid()}-{self._sites:04d}"
        make_bucket(self._aws.client("s3"), bucket)
        config = self._profile(bucket, overrides or {})
        before = max((call.sequence for call in self._aws.calls()), default=0)
        return Site(
            self._aws,
            config,
            load_settings(config),
            self._folder / f"{bucket}.log",
            self.benchmark,
            before,
        )

    def _profile(self, bucket: str, overrides: dict[str, Any]) -> str:
        profile = yaml.safe_load((CONFIGS / "local.yaml").read_text(encoding="utf-8"))
        settings = {
            "aws.endpoint_url": self._aws.endpoint_url,
            "aws.credentials_file": str(self._aws.credentials_file),
            "storage.bucket": bucket,
            "prefect.api_url": self._api_url,
            "label.plan": str(self._plan()),
            "label.size": QUERIES,
            "label.batch_size": 7,
            "label.shard_size": 50,
            "label.concurrency": 8,
            "distill.students": ["bedrock"],
            "distill.poll_seconds": 0.1,
            "deploy.poll_seconds": 0.1,
            "deploy.smoke_queries": 5,
            "evaluate.poll_seconds": 0.1,
            "evaluate.concurrency": 4,
            "evaluate.bootstrap_samples": 200,
            "promote.max_p95_latency_ms": 60_000,
            **overrides,
        }
        for name, value in settings.items():
            section, key = name.split(".")
            profile.setdefault(section, {})[key] = value
        path = self._folder / f"{bucket}.yaml"
        path.write_text(yaml.safe_dump(profile), encoding="utf-8")
        return str(path)

    def _plan(self) -> Path:
        """A plan of few cells, so that few calls fill it."""
        cells = [
            f"{channel},{kind},25"
            for channel in MODALITIES
            for kind in ("easy,news", "easy,film-and-television", "medium,sport")
        ]
        path = self._folder / "plan.csv"
        path.write_text("\n".join(["channel,difficulty,domain,queries", *cells, ""]))
        return path


@contextmanager
def world(aws_port: int, prefect_port: int) -> Iterator[World]:
    """A world, as long as the block lasts.

    Args:
        aws_port: the embedded AWS's port; 0 takes any free one.
        prefect_port: the Prefect server's port; 0 takes any free one.
    """
    with tempfile.TemporaryDirectory(prefix="reelroute-chaos-") as name:
        folder = Path(name)
        api_url = f"http://127.0.0.1:{prefect_port or free_port()}/api"
        environment = prefect_environment(folder, api_url)
        with prefect_server(api_url, folder, environment):
            preload(environment)
            with EmbeddedAws(aws_port, bucket="chaos-first") as aws:
                yield World(aws, api_url, folder)


def prefect_environment(folder: Path, api_url: str) -> dict[str, str]:
    """What the environment of a Prefect server of its own, and of its clients, holds."""
    return {
        "PREFECT_HOME": str(folder / "prefect"),
        "PREFECT_API_URL": api_url,
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_CLOUD_ENABLE_ORCHESTRATION_TELEMETRY": "false",
        "PREFECT_LOGGING_TO_API_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        # What was killed could not give back its semaphores.
        "PYTHONWARNINGS": "ignore::UserWarning:multiprocessing.resource_tracker",
    }


@contextmanager
def prefect_server(api_url: str, folder: Path, environment: dict[str, str]) -> Iterator[None]:
    """A Prefect server, as long as the block lasts."""
    port = api_url.removesuffix("/api").rpartition(":")[2]
    log = folder / "prefect.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "prefect", "server", "start", "--no-services", "--port", port],
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        wait_until(lambda: _answers(f"{api_url}/health"), process, log)
        yield
    finally:
        end(process.pid)


def wait_until(ready: Callable[[], bool], process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until a process is ready.

    Raises:
        SystemExit: it ended, or took too long; with the last of its log.
    """
    deadline = time.monotonic() + _SECONDS_TO_START
    while not ready():
        if process.poll() is not None or time.monotonic() > deadline:
            said = log.read_text(errors="replace")[-2000:]
            raise SystemExit(f"a process did not come up; its last words: {said}")
        time.sleep(0.2)


def _answers(url: str) -> bool:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        opener.open(url, timeout=2).close()
    except OSError:
        return False
    return True


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _telling_queries(count: int) -> list[LabelledQuery]:
    """Benchmark queries on which the base student breaks its JSON.

    Few of them show that a distilled student is better.
    """
    base = routing_models().model(_STUDENT)
    found: list[LabelledQuery] = []
    for row in benchmark_queries():
        if len(found) == count:
            break
        try:
            parse_forgiving(base.answer(row.query))
        except AnswerError:
            found.append(row)
    return found
