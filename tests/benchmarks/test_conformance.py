"""The figures of the recorder, as `make conformance` prints them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.conformance import main

MARKED = "tests/deployments/embedded/test_evaluation.py::test_a_wrong_request_is_refused[0]"


def write(folder: Path, *lines: dict[str, object]) -> str:
    folder.mkdir()
    text = "".join(json.dumps({"service": "bedrock", **line}) + "\n" for line in lines)
    (folder / "calls-1-x.jsonl").write_text(text)
    return f"suite={folder}"


GOOD: dict[str, object] = {"kind": "request", "operation": "GetEvaluationJob"}
ANSWER: dict[str, object] = {"kind": "answer", "operation": "GetEvaluationJob"}
BROKEN: dict[str, object] = {**GOOD, "violations": ["at 'jobName'"], "test": "tests/x.py::y"}


def test_requests_are_counted_by_operation(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([write(tmp_path / "a", GOOD, GOOD, ANSWER)]) == 0
    said = capsys.readouterr().out
    assert "2 requests of 1 operations and 1 answers" in said
    assert "0 violations" in said
    assert said.splitlines()[-1].split() == ["bedrock:", "GetEvaluationJob", "2", "1"]


def test_a_violation_is_an_error_unless_its_test_is_marked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([write(tmp_path / "a", GOOD, BROKEN)]) == 1
    assert "tests/x.py::y request GetEvaluationJob: at 'jobName'" in capsys.readouterr().out
    assert main([write(tmp_path / "b", GOOD, {**BROKEN, "test": MARKED})]) == 0
    assert "1 wrong on purpose" in capsys.readouterr().out


def test_a_folder_in_which_nothing_was_recorded_is_an_error(tmp_path: Path) -> None:
    assert main([f"demo={tmp_path}"]) == 1
    assert main([]) == 1
