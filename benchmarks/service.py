"""The service under load: latency at a fixed rate, errors, memory, a release swapped on the way.

    python -m benchmarks.service --release RELEASES/current.json
    python -m benchmarks.service --rules          # the keyword rules in the model's place

Requests are sent on a fixed schedule, whether or not earlier ones have been answered, and each
latency is counted from the moment the schedule names: a service that stalls can't hide it.
Everything stays on the loopback interface; rate, time and connections are bounded.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import click

from reelroute.aws import AwsAccess
from reelroute.errors import ReelRouteError
from reelroute.release import (
    LocalModel,
    ModelFile,
    Prompt,
    Reader,
    Release,
    ReleasePointer,
    ReleaseRef,
    open_release,
    read_pointer,
    sha256,
)

#: Moves a copy of the release pointer to another release; gives the new version.
Swap = Callable[[Path], str]

_CONNECTIONS: Final = 64
_ANSWER_SECONDS: Final = 10.0
_WARM_UP_SECONDS: Final = 2.0
#: The `reelroute` command with the keyword rules as the model of every release.
_RULES_COMMAND: Final = (
    "from reelroute.routers import RulesRouter, following; "
    "following.router_of = lambda *_: RulesRouter(); "
    "from reelroute.cli import main; main()"
)
_COMMAND: Final = "from reelroute.cli import main; main()"


@dataclass
class Load:
    """What came of the requests that were sent.

    Attributes:
        milliseconds: the latency of each answer, in the order of the schedule.
        errors: by what went wrong.
        releases: answers by the release that gave them.
    """

    milliseconds: list[float] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    releases: Counter[str] = field(default_factory=Counter)

    def percentile(self, share: float) -> float:
        """The latency that this share of the answers stays within, in milliseconds."""
        ordered = sorted(self.milliseconds)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


@dataclass(frozen=True)
class Report:
    """The benchmark's outcome; times in milliseconds, memory in MB (10^6 bytes)."""

    requests: int
    rate: float
    seconds: float
    errors: dict[str, int]
    p50: float
    p95: float
    p99: float
    worst: float
    releases: dict[str, int]
    swapped_to: str | None
    cpu_per_request: float
    memory_start: float
    memory_end: float
    memory_peak: float
    log_lines: int
    exit_code: int


def next_release(pointer: Path) -> str:
    """Promote a release that equals the current one but for its name."""
    now = read_pointer(pointer.read_bytes(), str(pointer))
    current = open_release(str(pointer), Reader(AwsAccess()))
    release = current.model_copy(update={"version": f"swap-{now.serial + 1}"})
    _write_release(pointer, release, now.serial + 1, (ReleaseRef(**_ref(now)), *now.history))
    return release.version


def _ref(pointer: ReleasePointer) -> dict[str, str]:
    return {"version": pointer.version, "sha256": pointer.sha256}


def _write_release(
    pointer: Path, release: Release, serial: int, history: tuple[ReleaseRef, ...] = ()
) -> None:
    data = release.to_bytes()
    (pointer.parent / f"{release.version}.json").write_bytes(data)
    moved = ReleasePointer(
        version=release.version,
        sha256=sha256(data),
        serial=serial,
        moved_at=datetime.now(UTC),
        action="promote",
        history=history,
    )
    partial = pointer.with_suffix(".partial")
    partial.write_bytes(moved.to_bytes())
    partial.replace(pointer)


def _rules_release(pointer: Path) -> None:
    """A release whose model is never asked: `_RULES_COMMAND` puts the rules in its place."""
    file = ModelFile(name="none", sha256=sha256(b""), bytes=0)
    release = Release(
        version="rules",
        run_id="benchmark",
        created_at=datetime.now(UTC),
        router="local",
        prompt=Prompt.of("none"),
        local=LocalModel(fingerprint=sha256(b""), files=(file,)),
    )
    _write_release(pointer, release, 1)


@contextmanager
def service(pointer: Path, log: Path, *, rules: bool, workers: int) -> Iterator[tuple[int, int]]:
    """A service of its own: its port and process id. It is ended with SIGTERM."""
    command = [sys.executable, "-c", _RULES_COMMAND if rules else _COMMAND, "serve"]
    options = ["--release", str(pointer), "--port", "0", "--follow-seconds", "0.5"]
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("REELROUTE")
    }
    with log.open("wb") as lines:
        process = subprocess.Popen(
            [*command, *options, "--workers", str(workers)],
            stdout=lines,
            stderr=subprocess.PIPE,
            env=environment,
        )
    assert process.stderr is not None
    try:
        said = []
        for line in process.stderr:
            said.append(line.decode(errors="replace"))
            if found := re.search(r"listening on http://127\.0\.0\.1:(\d+)", said[-1]):
                yield int(found[1]), process.pid
                break
        else:
            raise ReelRouteError(f"the service did not start: {''.join(said)}")
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
        _ended.append(process.returncode)


#: Exit codes of the services that this process started.
_ended: list[int] = []


class _Connection:
    """A keep-alive connection, as thin as can be: the client must not be what is measured."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
        """The status and the body of the answer."""
        try:
            if self._streams is None or self._streams[0].at_eof():
                self.close()
                self._streams = await asyncio.open_connection("127.0.0.1", self._port)
            reader, writer = self._streams
            writer.write(
                f"{method} {path} HTTP/1.1\r\nhost: localhost\r\n"
                f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n".encode()
                + body
            )
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"content-length: *(\d+)", head, re.IGNORECASE)
            assert length is not None
            return int(head[9:12]), await reader.readexactly(int(length[1]))
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


def queries(seed: int) -> Iterator[str]:
    """Endless queries of about ten words, hardly one of them twice: no cache answers them."""
    chosen = random.Random(seed)
    while True:
        yield " ".join(chosen.choices(_WORDS, k=chosen.randint(8, 12)))


_WORDS: Final = re.findall(
    r"\w+",
    "sunset mountains drone aerial crowd cheering applause guitar solo interview minister explains "
    "budget episode season trailer documentary goal replay thunder rain street night dancer red "
    "wearing coat laughing children kitchen recipe lecture quantum physics siren police chase fog "
    "harbour whale song quarterly earnings discussing director commentary",
)


async def send_load(
    port: int, rate: float, seconds: float, seed: int, at_half: Callable[[], None] | None = None
) -> Load:
    """Send requests on schedule and wait for their answers.

    Args:
        port: the service's.
        rate: requests a second.
        seconds: how long.
        seed: of the queries.
        at_half: called in a thread when half of the time is over.
    """
    load = Load()
    total = int(rate * seconds)
    load.milliseconds = [0.0] * total
    free = [_Connection(port) for _ in range(_CONNECTIONS)]
    everything = list(free)
    available = asyncio.Semaphore(_CONNECTIONS)
    texts = queries(seed)
    failed: set[int] = set()

    async def one(number: int, due: float, body: bytes) -> None:
        async with available:
            connection = free.pop()
            try:
                async with asyncio.timeout(_ANSWER_SECONDS):
                    status, answer = await connection.ask("POST", "/v1/route", body)
            except (OSError, EOFError, TimeoutError, asyncio.LimitOverrunError) as error:
                load.errors[type(error).__name__] += 1
                failed.add(number)
                return
            finally:
                free.append(connection)
        load.milliseconds[number] = (time.perf_counter() - due) * 1000
        if status == 200:
            load.releases[str(json.loads(answer)["release"])] += 1
        else:
            load.errors[f"HTTP {status}"] += 1
            failed.add(number)

    start = time.perf_counter() + 0.1
    halfway: asyncio.Task[None] | None = None
    async with asyncio.TaskGroup() as requests:
        for number, text in zip(range(total), texts, strict=False):
            due = start + number / rate
            if (wait := due - time.perf_counter()) > 0:
                await asyncio.sleep(wait)
            if at_half and halfway is None and number >= total // 2:
                halfway = requests.create_task(asyncio.to_thread(at_half))
            requests.create_task(one(number, due, json.dumps({"query": text}).encode()))
    for connection in everything:
        connection.close()
    load.milliseconds = [
        latency for number, latency in enumerate(load.milliseconds) if number not in failed
    ]
    return load


async def _wait_ready(port: int) -> None:
    for _ in range(600):
        try:
            connection = _Connection(port)
            status, _ = await connection.ask("GET", "/readyz")
            connection.close()
            if status == 200:
                return
        except (OSError, EOFError):
            pass
        await asyncio.sleep(0.1)
    raise ReelRouteError("the service did not become ready within a minute")


@dataclass(frozen=True)
class Usage:
    """What a process and its children take: memory in MB, processor time in milliseconds."""

    memory: float = 0.0
    cpu: float = 0.0

    @classmethod
    def of(cls, pid: int) -> Usage:
        """The usage of a process; nothing where there is no /proc."""
        try:
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text("ascii").split()
            pages = int(Path(f"/proc/{pid}/statm").read_text("ascii").split()[1])
            # The fields after the command's name, which may hold spaces.
            stat = Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()
        except OSError:
            return cls()
        of_children = [cls.of(int(child)) for child in children]
        ticks = int(stat[11]) + int(stat[12])
        return cls(
            pages * os.sysconf("SC_PAGE_SIZE") / 1e6 + sum(u.memory for u in of_children),
            ticks * 1000 / os.sysconf("SC_CLK_TCK") + sum(u.cpu for u in of_children),
        )


async def _measure(
    port: int, pid: int, rate: float, seconds: float, swap: Callable[[], None] | None
) -> tuple[Load, list[Usage]]:
    await _wait_ready(port)
    await send_load(port, rate, _WARM_UP_SECONDS, seed=1)
    usage = [Usage.of(pid)]

    async def watch() -> None:
        while True:
            await asyncio.sleep(1)
            usage.append(Usage.of(pid))

    watching = asyncio.create_task(watch())
    load = await send_load(port, rate, seconds, seed=2, at_half=swap)
    watching.cancel()
    usage.append(Usage.of(pid))
    return load, usage


def run(
    pointer: Path,
    *,
    rate: float = 200,
    seconds: float = 60,
    rules: bool = False,
    workers: int = 1,
    swap: Swap | None = next_release,
) -> Report:
    """Start a service, put it under load, and swap its release halfway.

    Args:
        pointer: the release pointer; it and the releases beside it are left untouched.
        rate: requests a second.
        seconds: how long.
        rules: let the keyword rules answer in the model's place.
        workers: the service's processes.
        swap: how the release is swapped; None leaves it.
    """
    with tempfile.TemporaryDirectory(prefix="reelroute-bench-") as folder:
        copy = Path(folder) / "releases" / pointer.name
        shutil.copytree(pointer.parent, copy.parent)
        log = Path(folder) / "service.jsonl"
        moved: list[str] = []

        def move() -> None:
            assert swap is not None
            moved.append(swap(copy))

        with service(copy, log, rules=rules, workers=workers) as (port, pid):
            load, usage = asyncio.run(_measure(port, pid, rate, seconds, move if swap else None))
        with log.open(encoding="ascii") as lines:
            written = sum(1 for _ in lines)
        return Report(
            requests=int(rate * seconds),
            rate=rate,
            seconds=seconds,
            errors=dict(load.errors),
            p50=load.percentile(0.5),
            p95=load.percentile(0.95),
            p99=load.percentile(0.99),
            worst=max(load.milliseconds, default=0.0),
            releases=dict(load.releases),
            swapped_to=next(iter(moved), None),
            cpu_per_request=(usage[-1].cpu - usage[0].cpu) / int(rate * seconds),
            memory_start=usage[0].memory,
            memory_end=usage[-1].memory,
            memory_peak=max(moment.memory for moment in usage),
            log_lines=written,
            exit_code=_ended[-1],
        )


def table(report: Report) -> str:
    """The outcome for people."""
    rows: list[tuple[str, Any]] = [
        ("requests", f"{report.requests} at {report.rate:g}/s"),
        ("errors", sum(report.errors.values()) or "none"),
        ("p50", f"{report.p50:.2f} ms"),
        ("p95", f"{report.p95:.2f} ms"),
        ("p99", f"{report.p99:.2f} ms"),
        ("worst", f"{report.worst:.2f} ms"),
        ("answers by release", ", ".join(f"{k}: {v}" for k, v in report.releases.items())),
        ("processor time a request", f"{report.cpu_per_request:.2f} ms"),
        ("memory", f"{report.memory_start:.1f} → {report.memory_end:.1f} MB"),
    ]
    lines = ["| service | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)]
    return "\n".join(lines)


@click.command()
@click.option("--release", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--rules", is_flag=True, help="The keyword rules in the model's place.")
@click.option("--rate", type=click.FloatRange(1, 2_000), default=200, show_default=True)
@click.option("--seconds", type=click.FloatRange(1, 600), default=60, show_default=True)
@click.option("--workers", type=click.IntRange(1, 8), default=1, show_default=True)
@click.option("--swap/--no-swap", default=True, help="Swap the release halfway.")
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="The JSON's file.")
def main(
    release: Path | None,
    rules: bool,
    rate: float,
    seconds: float,
    workers: int,
    swap: bool,
    output: Path | None,
) -> None:
    """Measure the service of a release (a pointer's file) or of the keyword rules."""
    if (release is None) != rules:
        raise click.UsageError("give either --release FILE or --rules")
    with tempfile.TemporaryDirectory(prefix="reelroute-bench-") as folder:
        pointer = release
        if pointer is None:
            pointer = Path(folder) / "current.json"
            _rules_release(pointer)
        report = run(
            pointer,
            rate=rate,
            seconds=seconds,
            rules=rules,
            workers=workers,
            swap=next_release if swap else None,
        )
    click.echo(table(report))
    text = json.dumps(asdict(report), indent=2)
    click.echo(text)
    if output:
        output.write_text(f"{text}\n", encoding="utf-8")
    if report.errors:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
