"""The real `reelroute serve`, on a free port, with a release in files and a model that is asked."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from reelroute.cli import main
from reelroute.errors import ReelRouteError
from reelroute.release import BedrockModel, Prompt, Release, ReleasePointer, sha256
from reelroute.service.logs import RouteLine
from reelroute.service.server import _listen
from reelroute.service.settings import ServiceSettings

ROOT = Path(__file__).parents[3]
ANSWER = {
    "visual": 0.1,
    "audio": 0.7,
    "transcription": 0.1,
    "metadata": 0.1,
    "reasoning": "A sound.",
}
SLOW = "wait for it"


class Model(ThreadingHTTPServer):
    """Stands in for Bedrock's Converse; the query `SLOW` is answered when `go_on` is set."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Converse)
        self.asked = threading.Event()
        self.go_on = threading.Event()


class _Converse(BaseHTTPRequestHandler):
    server: Model

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if asked["messages"][0]["content"][0]["text"] == SLOW:
            self.server.asked.set()
            assert self.server.go_on.wait(60)
        body = json.dumps(
            {
                "output": {
                    "message": {"role": "assistant", "content": [{"text": json.dumps(ANSWER)}]}
                },
                "stopReason": "end_turn",
                "usage": {"inputTokens": 1, "outputTokens": 1, "totalTokens": 2},
                "metrics": {"latencyMs": 1},
            }
        ).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def model() -> Iterator[Model]:
    with Model() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.go_on.set()
        server.shutdown()


def promote(pointer: Path, version: str, serial: int) -> None:
    release = Release(
        version=version,
        run_id="run-1",
        created_at=datetime(2026, 1, 5, tzinfo=UTC),
        router="bedrock",
        prompt=Prompt.of("Route the query."),
        bedrock=BedrockModel(
            deployment_arn="arn:aws:bedrock:us-east-1:123456789012:custom-model-deployment/a",
            model_arn="arn:aws:bedrock:us-east-1:123456789012:custom-model/b",
            fingerprint="f",
            region="us-east-1",
            max_tokens=300,
        ),
    )
    data = release.to_bytes()
    (pointer.parent / f"{version}.json").write_bytes(data)
    moved = ReleasePointer(
        version=version,
        sha256=sha256(data),
        serial=serial,
        moved_at=datetime(2026, 1, 5, tzinfo=UTC),
        action="promote",
    )
    partial = pointer.with_suffix(".partial")
    partial.write_bytes(moved.to_bytes())
    partial.replace(pointer)


class Served:
    """A `reelroute serve` process."""

    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        self.process = process
        self.port = port

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        headers = {"content-type": "application/json"}
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        answer = connection.getresponse()
        text = answer.read().decode()
        connection.close()
        kind = answer.getheader("content-type", "")
        return answer.status, json.loads(text) if kind == "application/json" else text

    def route(self, query: str) -> tuple[int, Any]:
        return self.ask("POST", "/v1/route", {"query": query})

    def wait_ready(self) -> None:
        while self.ask("GET", "/readyz")[0] != 200:
            pass

    def end(self, number: signal.Signals = signal.SIGTERM) -> tuple[int, list[str], list[str]]:
        """The exit code and the lines of both streams."""
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=60)
        return self.process.returncode, out.splitlines(), err.splitlines()


@pytest.fixture
def serve(tmp_path: Path, model: Model) -> Iterator[Callable[..., Served]]:
    processes: list[subprocess.Popen[str]] = []
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "REELROUTE"))}
    environment |= {
        "AWS_ACCESS_KEY_ID": "marked-key",
        "AWS_SECRET_ACCESS_KEY": "marked-secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_ENDPOINT_URL_BEDROCK_RUNTIME": f"http://127.0.0.1:{model.server_port}",
        "REELROUTE_SERVICE__DRAIN_SECONDS": "0.3",
    }
    command = [sys.executable, "-c", "from reelroute.cli import main; main()", "serve"]

    def started(pointer: Path, *options: str, **variables: str) -> Served:
        process = subprocess.Popen(
            [*command, "--release", str(pointer), "--port", "0", *options],
            cwd=ROOT,
            env=environment | variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        assert process.stderr is not None
        said = process.stderr.readline()
        found = re.search(r"listening on http://127\.0\.0\.1:(\d+)", said)
        assert found, said
        return Served(process, int(found[1]))

    yield started
    for process in processes:
        if process.poll() is None:
            process.kill()
            process.communicate()


@pytest.fixture
def pointer(tmp_path: Path) -> Path:
    path = tmp_path / "current.json"
    promote(path, "one", 1)
    return path


@contextmanager
def in_background(call: Callable[[], Any]) -> Iterator[list[Any]]:
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(call()))
    thread.start()
    yield results
    thread.join(60)


def test_a_life_from_start_to_sigterm(
    serve: Callable[..., Served], pointer: Path, model: Model
) -> None:
    served = serve(pointer, "--follow-seconds", "0.05", "--deadline-ms", "0")
    served.wait_ready()
    status, answer = served.route("dogs barking")
    assert (status, answer["router"], answer["release"]) == (200, "bedrock", "one")
    assert answer["dominant"] == "audio"

    promote(pointer, "two", 2)
    releases = ["one"]
    while releases[-1] != "two":
        status, answer = served.route(f"a query that no cache knows {len(releases)}")
        assert status == 200
        releases.append(answer["release"])
    assert releases == sorted(releases)

    (pointer.parent / "broken").write_text("{}", encoding="utf-8")
    (pointer.parent / "broken").replace(pointer)

    with in_background(lambda: served.route(SLOW)) as in_flight:
        assert model.asked.wait(60)
        assert served.ask("GET", "/healthz") == (200, {"status": "ok"})
        served.process.send_signal(signal.SIGTERM)
        status, answer = served.ask("GET", "/readyz")
        while status == 200:
            status, answer = served.ask("GET", "/readyz")
        assert (status, answer["error"]["code"]) == (503, "shutting_down")
        assert in_flight == []
        model.go_on.set()
    assert [(status, answer["release"]) for status, answer in in_flight] == [(200, "two")]

    out, err = served.process.communicate(timeout=60)
    assert served.process.returncode == 0
    lines = [RouteLine.model_validate_json(line) for line in out.splitlines()]
    assert len(lines) == len(releases) + 1
    assert {line.status for line in lines} == {200}
    assert {line.release for line in lines} == {"one", "two"}
    said = [json.loads(line)["message"] for line in err.splitlines()]
    assert any("is not a release pointer" in message for message in said)
    assert said[-1] == "stopped"
    assert "marked-" not in out + err
    assert "Traceback" not in err


def test_workers_share_the_port_and_the_counts(serve: Callable[..., Served], pointer: Path) -> None:
    served = serve(pointer, "--workers", "2", REELROUTE_SERVICE__DRAIN_SECONDS="0")
    served.wait_ready()
    answered = [served.route(f"query {number}")[0] for number in range(40)]
    # A worker that is not ready yet says so.
    assert set(answered) <= {200, 503}
    text = served.ask("GET", "/metrics")[1]
    counts = re.findall(r'reelroute_requests_total\{route="/v1/route".*\} (\S+)', text)
    assert sum(map(float, counts)) == 40
    cache = dict(re.findall(r"^reelroute_cache_(\w+) (\S+)", text, re.MULTILINE))
    assert float(cache["hits_total"]) == 0
    assert float(cache["misses_total"]) == float(cache["size"]) == answered.count(200)
    code, out, _ = served.end()
    assert code == 0
    assert len(out) == 40


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="children are found in /proc")
def test_a_worker_that_dies_ends_the_service_with_a_sentence(
    serve: Callable[..., Served], pointer: Path
) -> None:
    served = serve(pointer, "--workers", "2", REELROUTE_SERVICE__DRAIN_SECONDS="0")
    served.wait_ready()
    parent = served.process.pid
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text(encoding="ascii").split()
    workers = [pid for pid in map(int, children) if b"spawn_main" in _command_line(pid)]
    os.kill(workers[0], signal.SIGKILL)
    _, said = served.process.communicate(timeout=60)
    assert served.process.returncode == 1
    assert f"Error: worker process {workers[0]} ended by itself" in said


def _command_line(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


def test_ctrl_c_is_an_end_like_any_other(serve: Callable[..., Served], pointer: Path) -> None:
    code, _, said = serve(pointer).end(signal.SIGINT)
    assert code == 0
    assert "Traceback" not in "".join(said)


def test_a_body_that_is_too_long_is_refused_in_words(
    serve: Callable[..., Served], pointer: Path
) -> None:
    served = serve(pointer, "--max-body-bytes", "1024")
    with socket.create_connection(("127.0.0.1", served.port), timeout=60) as connection:
        connection.sendall(
            b"POST /v1/route HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
            b"transfer-encoding: chunked\r\n\r\n" + b"400\r\n" + b" " * 1024 + b"\r\n" * 1
        )
        connection.sendall(b"400\r\n" + b" " * 1024 + b"\r\n")
        answer = b""
        while part := connection.recv(65_536):
            answer += part
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"body_too_large" in answer


def test_answers_do_not_wait_for_acknowledgements() -> None:
    with _listen("127.0.0.1", 0) as listener:
        # asyncio turns Nagle's algorithm off only for sockets that say that they are TCP.
        assert listener.proto == socket.IPPROTO_TCP


def test_a_port_that_is_taken_is_named() -> None:
    with _listen("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(ReelRouteError, match=f"can't listen on 127.0.0.1, port {port}"):
            _listen("127.0.0.1", port)


@pytest.mark.parametrize("host", ["not.a.host.invalid", "x" * 70, "256.0.0.1"])
def test_a_host_that_does_not_exist_is_named(host: str) -> None:
    with pytest.raises(ReelRouteError, match=f"can't listen on {host}"):
        _listen(host, 0)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--release", "nowhere/current.json"], "nowhere/current.json can't be read"),
        (["--release", "x", "--max-batch", "0"], "the service's settings: max_batch"),
        (["--release", "x", "--port", "99999"], "the service's settings: port"),
    ],
)
def test_what_can_never_work_ends_at_once_with_a_sentence(arguments: list[str], said: str) -> None:
    done = CliRunner().invoke(main, ["serve", *arguments])
    assert done.exit_code == 1
    assert said in done.stderr
    assert "Traceback" not in done.output


def test_the_helps_defaults_are_the_settings() -> None:
    options = {option.name: option for option in main.commands["serve"].params}
    settings = ServiceSettings().model_dump()
    shown = {
        name: found[1]
        for name, option in options.items()
        if (found := re.search(r"\[default: (\S+)\]", str(getattr(option, "help", ""))))
    }
    assert shown.keys() == options.keys() - {"release", "config"}
    assert shown == {
        name: "no" if settings[name] is False else str(settings[name]).removesuffix(".0")
        for name in shown
    }


def test_the_library_and_its_other_commands_load_no_server() -> None:
    program = (
        "import sys, reelroute, reelroute.cli; "
        "print({'fastapi', 'uvicorn', 'starlette', 'prometheus_client'} & sys.modules.keys())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"
