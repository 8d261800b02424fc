"""Labelling beside what one would otherwise write, against a teacher at the wire.

    python -m benchmarks.label      (make bench-label)

The teacher is a server of its own process that answers after half a second. Asked are 64
queries at a time: by the label stage as the pipeline runs it, with its store in the bucket; by a
plain script over a thread pool, which keeps nothing until its end; and, where CURATOR_PYTHON
names a Python that has it, by Bespoke Curator. Then the stage under a quota that the teacher
enforces, and its peak memory from 1,000 to 100,000 queries, from a teacher that answers at once.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import click
import yaml

from benchmarks.chaos.world import free_port, prefect_environment, prefect_server, wait_until
from benchmarks.label.ask import MODEL
from benchmarks.machine import Machine
from configs.settings import CONFIGS, ROOT, load_settings
from data_contracts.heldout import words
from deployments.embedded.aws import EmbeddedAws
from deployments.embedded.models.corpus import recorded_answers
from deployments.embedded.process import end
from tasks.runs import Run
from tasks.storage import Storage

RESULTS: Final = ROOT / "benchmarks" / "results"
LATENCY_SECONDS: Final = 0.5
AT_A_TIME: Final = 64
CURATOR: Final = "CURATOR_PYTHON"


@dataclass(frozen=True, slots=True)
class Took:
    """What a way of labelling took.

    Attributes:
        seconds: from its start to its end, the labels written.
        asking_seconds: from the first request to the last answer, as the teacher saw it.
        ideal_seconds: what the answers take at so many at a time, or under the quota.
    """

    way: str
    queries: int
    seconds: float
    asking_seconds: float
    ideal_seconds: float
    asked: int
    throttled: int
    most_in_flight: int
    peak_mb: float
    cpu_seconds: float

    @property
    def of_ideal(self) -> float:
        """The share of the ideal throughput that the teacher saw."""
        return self.ideal_seconds / self.asking_seconds

    def row(self) -> tuple[str, ...]:
        """Its line of the table."""
        return (
            self.way,
            f"{self.queries:,}",
            f"{self.queries / self.asking_seconds:.1f}/s",
            f"{self.of_ideal:.1%}",
            f"{self.seconds:.1f} s",
            f"{self.throttled / max(self.asked, 1):.2%}",
            f"{self.peak_mb:.0f} MB",
            f"{self.cpu_seconds / self.queries * 1000:.1f} ms",
        )


HEADER: Final = (
    *("way", "queries", "throughput", "of the ideal", "in all", "throttled"),
    *("peak memory", "CPU a query"),
)


def queries(count: int) -> list[str]:
    """So many queries of the corpus's words, none near another."""
    vocabulary = sorted({word for answer in recorded_answers() for word in words(answer.query)})
    draw = random.Random(7)
    return [" ".join(draw.sample(vocabulary, 6)) for _ in range(count)]


class Bench:
    """The servers that are asked, and what asks them."""

    def __init__(self, aws: EmbeddedAws, api_url: str, folder: Path, say: Any) -> None:
        self._aws, self._api_url, self._folder, self._say = aws, api_url, folder, say
        self._runs = 0

    def stage(
        self, count: int, latency: float = LATENCY_SECONDS, per_minute: float | None = None
    ) -> Took:
        """The label stage, under a quota that both sides know of, if one is given."""
        way = f"label stage, {per_minute:g} requests a minute" if per_minute else "label stage"
        self._runs += 1
        config = self._profile(per_minute)
        run = Run(Storage(load_settings(config)), f"bench-{self._runs}")
        own = "\n".join(queries(count)).encode()
        run.start(load_settings(config), {}, None, own)
        with self._teacher(latency, per_minute) as url:
            arguments = ["-m", "benchmarks.label.ask", "stage", config, run.run_id]
            return self._took(way, count, [sys.executable, *arguments], url, latency, per_minute)

    def script(self, count: int) -> Took:
        """The plain script."""
        file = self._folder / "queries.txt"
        file.write_text("\n".join(queries(count)), "utf-8")
        arguments = ["-m", "benchmarks.label.ask", "script", str(file), str(AT_A_TIME)]
        with self._teacher(LATENCY_SECONDS, None) as url:
            return self._took("plain script", count, [sys.executable, *arguments], url)

    def curator(self, count: int, python: str) -> Took:
        """Bespoke Curator."""
        file = self._folder / "queries.txt"
        file.write_text("\n".join(queries(count)), "utf-8")
        script = str(Path(__file__).with_name("curator.py"))
        with self._teacher(LATENCY_SECONDS, None) as url:
            command = [python, script, str(file), str(AT_A_TIME), f"{url}/v1"]
            return self._took("Bespoke Curator", count, command, url)

    def _took(
        self,
        way: str,
        count: int,
        command: Sequence[str],
        url: str,
        latency: float = LATENCY_SECONDS,
        per_minute: float | None = None,
    ) -> Took:
        self._say(f"{way}: {count:,} queries …")
        environment = {
            **os.environ,
            **prefect_environment(self._folder, self._api_url),
            "AWS_ENDPOINT_URL_BEDROCK_RUNTIME": url,
            "AWS_ENDPOINT_URL_S3": self._aws.endpoint_url,
            "AWS_SHARED_CREDENTIALS_FILE": str(self._aws.credentials_file),
            "AWS_PROFILE": self._aws.profile,
            "AWS_DEFAULT_REGION": self._aws.region,
        }
        ended = subprocess.run(
            command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False
        )
        if ended.returncode:
            raise click.ClickException(f"{way} ended with code {ended.returncode}")
        said = json.loads(ended.stdout.splitlines()[-1])
        if said["labelled"] != count:
            raise click.ClickException(f"{way} labelled {said['labelled']} of {count} queries")
        saw = _get(f"{url}/stats")
        ideal = count * 60 / per_minute if per_minute else count * latency / AT_A_TIME
        return Took(
            way=way,
            queries=count,
            seconds=said["seconds"],
            asking_seconds=saw["seconds"],
            ideal_seconds=ideal,
            asked=saw["asked"],
            throttled=saw["throttled"],
            most_in_flight=saw["most_in_flight"],
            peak_mb=said["peak_mb"],
            cpu_seconds=said["cpu_seconds"],
        )

    def _profile(self, per_minute: float | None) -> str:
        profile = yaml.safe_load((CONFIGS / "local.yaml").read_text("utf-8"))
        # Endpoints come from the environment, because here S3 and Bedrock lie apart.
        profile["aws"] = {
            "region": self._aws.region,
            "credentials_file": str(self._aws.credentials_file),
            "profile": self._aws.profile,
        }
        profile["storage"]["bucket"] = self._bucket()
        profile["prefect"]["api_url"] = self._api_url
        profile["label"]["concurrency"] = AT_A_TIME
        profile["budget"]["usd_per_run"] = 1_000_000
        if per_minute:
            profile["quotas"] = {MODEL: {"requests_per_minute": per_minute}}
        path = self._folder / f"profile-{self._runs}.yaml"
        path.write_text(yaml.safe_dump(profile), "utf-8")
        return str(path)

    def _bucket(self) -> str:
        """A fresh bucket, so that no answer is stored yet."""
        from deployments.embedded.provision import make_bucket

        name = f"bench-label-{os.getpid()}-{self._runs}"
        make_bucket(self._aws.client("s3"), name)
        return name

    @contextmanager
    def _teacher(self, latency: float, per_minute: float | None) -> Iterator[str]:
        port = free_port()
        arguments = [str(port), str(latency), *([str(per_minute)] if per_minute else [])]
        log = self._folder / "teacher.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.label.stub", *arguments],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        url = f"http://127.0.0.1:{port}"
        try:
            wait_until(lambda: bool(_get(f"{url}/stats")), process, log)
            yield url
        finally:
            end(process.pid)


def _get(url: str) -> dict[str, Any]:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=5) as answer:
            found: dict[str, Any] = json.load(answer)
            return found
    except OSError:
        return {}


@contextmanager
def bench(aws_port: int, prefect_port: int, say: Any) -> Iterator[Bench]:
    """The bench, as long as the block lasts."""
    with ExitStack() as stack:
        name = stack.enter_context(tempfile.TemporaryDirectory(prefix="reelroute-bench-"))
        folder = Path(name)
        api_url = f"http://127.0.0.1:{prefect_port or free_port()}/api"
        environment = prefect_environment(folder, api_url)
        stack.enter_context(prefect_server(api_url, folder, environment))
        aws = stack.enter_context(EmbeddedAws(aws_port, bucket="bench-first"))
        # What is made here, in the parent, reaches S3 as the children do.
        os.environ["AWS_ENDPOINT_URL_S3"] = aws.endpoint_url
        yield Bench(aws, api_url, folder, say)


def document(took: Sequence[Took], memory: Sequence[Took], notes: Sequence[str]) -> str:
    """The tables, in Markdown."""
    machine = Machine.this()
    sizes = [(f"{t.queries:,}", f"{t.peak_mb:.0f} MB", f"{t.seconds:.0f} s") for t in memory]
    lines = [
        f"# Labelling\n\n{machine.processor}, {machine.cores} cores, {machine.date}. "
        f"A teacher of another process answers after {LATENCY_SECONDS * 1000:.0f} ms; "
        f"{AT_A_TIME} queries are asked at a time. Clients, teacher, S3 and Prefect share the "
        "cores.\n",
        *_table(HEADER, [t.row() for t in took]),
        "",
        *(
            [
                "Peak memory of the label stage's process, the teacher answering at once:\n",
                *_table(("queries", "peak memory", "in all"), sizes),
                "",
            ]
            if memory
            else []
        ),
        *notes,
    ]
    return "\n".join(lines) + "\n"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [
        f"| {' | '.join(header)} |",
        f"|{'---|' * len(header)}",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]


@click.command()
@click.option("--queries", "count", type=int, default=10_000, show_default=True)
@click.option("--quota", type=float, default=600, show_default=True, help="Requests a minute.")
@click.option("--quota-minutes", type=float, default=4, show_default=True)
@click.option("--sizes", default="1000,10000,100000", show_default=True, help="Memory's sizes.")
@click.option("--only", type=click.Choice(["throughput", "quota", "memory"]))
@click.option("--aws-port", type=int, default=0)
@click.option("--prefect-port", type=int, default=0)
@click.option("--output", type=click.Path(path_type=Path), default=RESULTS, show_default=False)
def main(
    count: int,
    quota: float,
    quota_minutes: float,
    sizes: str,
    only: str | None,
    aws_port: int,
    prefect_port: int,
    output: Path,
) -> None:
    """Measure throughput, pacing and memory of labelling."""
    took: list[Took] = []
    memory: list[Took] = []
    notes: list[str] = []
    with bench(aws_port, prefect_port, lambda text: click.echo(text, err=True)) as at:
        if only in (None, "throughput"):
            took += [at.stage(count), at.script(count)]
            python = os.environ.get(CURATOR)
            if python:
                took.append(at.curator(count, python))
            else:
                notes.append(
                    f"Bespoke Curator was left out: {CURATOR} names no Python that has it."
                )
        if only in (None, "quota"):
            took.append(at.stage(round(quota * quota_minutes), per_minute=quota))
        if only in (None, "memory"):
            memory = [at.stage(int(size), latency=0.0) for size in sizes.split(",")]
    text = document(took, memory, notes)
    output.mkdir(parents=True, exist_ok=True)
    (output / "label.md").write_text(text, "utf-8")
    rows = {"machine": asdict(Machine.this()), "took": [*map(asdict, took)]}
    rows["memory"] = [*map(asdict, memory)]
    (output / "label.json").write_text(json.dumps(rows, indent=2) + "\n", "utf-8")
    click.echo(text)


if __name__ == "__main__":
    main()
