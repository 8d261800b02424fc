"""Background services: a taken port is a sentence, and the user's own Prefect is left alone."""

from __future__ import annotations

import http.server
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from configs.settings import load_settings
from deployments.local import cli, services
from reelroute.errors import ReelRouteError


@pytest.fixture(autouse=True)
def state(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A state folder of the test's own."""
    folder = tmp_path / "state"
    monkeypatch.setattr(services, "STATE", folder)
    monkeypatch.setattr(cli.embedded, "DEFAULT_STATE", folder / "embedded")
    return folder


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that something else listens on."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        yield int(other.getsockname()[1])


@pytest.fixture
def other_prefect() -> Iterator[int]:
    """A port where another Prefect server seems to answer."""

    class Healthy(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"true")

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Healthy)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield int(server.server_address[1])
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_taken_port_is_named_with_what_to_do(taken: int) -> None:
    with pytest.raises(ReelRouteError) as error:
        services.start_prefect_server(f"http://127.0.0.1:{taken}/api")
    assert f"port {taken} is taken by something else" in str(error.value)
    assert "PREFECT_PORT=" in str(error.value)


def test_another_prefect_server_is_not_taken_for_our_own(other_prefect: int) -> None:
    with pytest.raises(ReelRouteError, match=f"port {other_prefect} is taken by something else"):
        services.start_prefect_server(f"http://127.0.0.1:{other_prefect}/api")


def test_up_with_a_taken_port_is_one_sentence(
    taken: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REELROUTE__AWS__ENDPOINT_URL", f"http://127.0.0.1:{taken}")
    done = CliRunner().invoke(cli.main, ["up"])
    assert done.exit_code == 1
    assert f"port {taken} of 127.0.0.1 is taken by another program" in done.output
    assert "Traceback" not in done.output


@pytest.mark.parametrize(
    ("variable", "value", "named"),
    [
        ("REELROUTE__AWS__ENDPOINT_URL", "https://bedrock.example.com", "aws.endpoint_url"),
        ("REELROUTE__AWS__ENDPOINT_URL", "null", "aws.endpoint_url"),
        ("REELROUTE__AWS__ENDPOINT_URL", "http://127.0.0.1", "aws.endpoint_url"),
    ],
)
def test_only_addresses_of_this_machine_are_started(
    variable: str, value: str, named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    done = CliRunner().invoke(cli.main, ["up"])
    assert done.exit_code == 1
    assert f"`{named}` is " in done.output
    assert "http://127.0.0.1:PORT" in done.output


def test_the_users_own_prefect_is_not_passed_on(
    monkeypatch: pytest.MonkeyPatch, state: Path
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "https://prefect.example.com/api")
    monkeypatch.setenv("PREFECT_API_KEY", "secret")
    monkeypatch.setenv("PREFECT_PROFILE", "mine")
    monkeypatch.setenv("REELROUTE__LABEL__SIZE", "500")
    monkeypatch.setenv("REELROUTE__AWS__ENDPOINT_URL", "http://127.0.0.1:5555")
    monkeypatch.setenv("SOMETHING_ELSE", "stays")
    seen = started_with()
    ours = services.prefect_environment("http://127.0.0.1:1/api")
    assert {name for name in seen if name.startswith("PREFECT_")} <= set(ours)
    assert {name: seen[name] for name in ours} == ours
    assert seen["PREFECT_HOME"] == str(state / "prefect")
    assert seen["SOMETHING_ELSE"] == "stays"
    assert "REELROUTE__LABEL__SIZE" not in seen
    assert seen["REELROUTE__AWS__ENDPOINT_URL"] == "http://127.0.0.1:5555"


def started_with() -> dict[str, str]:
    """The environment of a service that is started; this one ends at once."""
    command = [sys.executable, "-c", "import json, os; print(json.dumps(dict(os.environ)))"]
    with pytest.raises(ReelRouteError, match="ended while it started"):
        services._start("worker", command, "http://127.0.0.1:1/api", lambda: False, {})
    found: dict[str, str] = json.loads((services.STATE / "worker.log").read_text())
    return found


def test_a_service_that_ends_while_it_starts_names_its_log(state: Path) -> None:
    command = [sys.executable, "-c", "raise SystemExit('no room')"]
    with pytest.raises(ReelRouteError, match="the worker ended while it started") as error:
        services._start("worker", command, "http://127.0.0.1:1/api", lambda: False, {})
    assert str(state / "worker.log") in str(error.value)
    assert (state / "worker.log").read_text() == "no room\n"


@pytest.mark.parametrize("columns", ["20", "200"])
def test_a_service_that_is_up_is_found_and_stopped_however_narrow_the_terminal(
    columns: str, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    assert services.running("worker") is None
    living = subprocess.Popen(
        [sys.executable, "-c", "import signal; signal.pause()", "prefect worker start"]
    )
    try:
        state.mkdir(parents=True, exist_ok=True)
        note = {"pid": living.pid, "url": "http://127.0.0.1:1/api"}
        (state / "worker.json").write_text(json.dumps(note))
        found = services.running("worker")
        assert found is not None
        assert found.pid == living.pid
        assert services.start_worker(load_settings(), note["url"]) is False
        assert services.stop("worker") is True
        living.wait(timeout=30)
    finally:
        living.kill()
        living.wait()
    assert services.running("worker") is None
    assert services.stop("worker") is False


@pytest.mark.parametrize("content", ["", "{", '{"pid": 1}', '{"pid": "x", "port": 1}', "[]"])
def test_a_broken_note_of_a_service_counts_as_none(content: str, state: Path) -> None:
    state.mkdir(parents=True)
    (state / "worker.json").write_text(content)
    assert services.running("worker") is None


def test_a_process_number_that_is_used_again_is_not_ours(state: Path) -> None:
    state.mkdir(parents=True)
    note = {"pid": os.getpid(), "url": "http://127.0.0.1:1/api"}
    (state / "worker.json").write_text(json.dumps(note))
    assert services.running("worker") is None
    assert services.stop("worker") is False


def test_status_says_what_is_down_by_its_exit_code() -> None:
    done = CliRunner().invoke(cli.main, ["status"])
    assert done.exit_code == cli.DOWN
    assert done.output.count("down") == 3


def test_down_with_nothing_up_says_so() -> None:
    done = CliRunner().invoke(cli.main, ["down"])
    assert done.exit_code == 0
    assert done.output.count("was not up") == 3
