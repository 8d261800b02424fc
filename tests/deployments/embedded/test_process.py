"""The server as a background process, driven through its command line."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[3]


def run(*arguments: str) -> tuple[int, str]:
    """Exit code and output of a command."""
    done = subprocess.run(
        [sys.executable, "-m", "deployments.embedded", *arguments],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def test_it_comes_up_once_and_goes_down_once(tmp_path: Path) -> None:
    state = ("--state", str(tmp_path))
    try:
        code, said = run("up", "--port", "0", *state)
        assert code == 0, said
        assert "is up at http://127.0.0.1:" in said
        code, said = run("up", *state)
        assert (code, "up already" in said) == (0, True)
        code, said = run("status", *state)
        assert (code, "calls so far" in said) == (0, True)
        code, said = run("fault", "teacher-answers", "--rate", "0.5", "--style", "nan", *state)
        assert (code, "teacher-answers in the style nan: rate 0.5" in said) == (0, True)
        assert "teacher-answers" in run("fault", "list", *state)[1]
        assert "No fault is on." in run("fault", "clear", *state)[1]
    finally:
        code, said = run("down", *state)
    assert (code, said) == (0, "The embedded AWS is down.\n")
    assert not (tmp_path / "credentials").exists()
    assert run("down", *state) == (0, "The embedded AWS was not up.\n")
    assert run("status", *state)[0] == 3


def test_a_taken_port_is_one_sentence(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, said = run("up", "--port", str(port), "--state", str(tmp_path))
    assert code == 1
    assert said == (
        f"Error: port {port} of 127.0.0.1 is taken by another program: "
        "choose another one with --port, or stop that program\n"
    )


@pytest.mark.parametrize("action", ["list", "teacher-answers"])
def test_a_fault_needs_a_server(tmp_path: Path, action: str) -> None:
    code, said = run("fault", action, "--state", str(tmp_path))
    assert code == 1
    assert said.startswith("Error: the embedded AWS is down: start it with")
