"""The audit of dependencies: what it found, and loudly what it could not look up."""

from __future__ import annotations

import json
import subprocess
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from deployments.audit import main, read_audit

FINE = {"name": "click", "version": "8.5.1", "vulns": []}
SKIPPED = {"name": "own", "skip_reason": "Dependency not found on PyPI"}
VULNERABLE = {
    "name": "requests",
    "version": "2.19.0",
    "vulns": [{"id": "PYSEC-2018-28", "fix_versions": ["2.20.0"], "aliases": []}],
}


def answer(*packages: dict[str, Any]) -> str:
    return json.dumps({"dependencies": list(packages), "fixes": []})


@pytest.mark.parametrize(
    ("output", "code", "says"),
    [
        (answer(FINE), 0, "1 packages audited, 0 vulnerable\n"),
        (answer(FINE, SKIPPED), 0, "0 vulnerable; NOT AUDITED: 1 that PyPI doesn't know\n"),
        (
            answer(FINE, VULNERABLE),
            1,
            "requests 2.19.0: PYSEC-2018-28 (mended by 2.20.0)\n2 packages audited, 1 vulnerable\n",
        ),
        (answer(SKIPPED), 0, "NOT AUDITED: PyPI's advisories can't be reached from here\n"),
        ("", 0, "NOT AUDITED: PyPI's advisories can't be reached from here\n"),
        ("Traceback …", 0, "NOT AUDITED: PyPI's advisories can't be reached from here\n"),
    ],
)
def test_what_was_audited_is_said_and_what_was_not(
    output: str, code: int, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: SimpleNamespace(stdout=output))
    done = CliRunner().invoke(main)
    assert done.exit_code == code
    assert done.output.endswith(says)


def test_a_vulnerability_without_a_mended_release_says_so() -> None:
    package = {**VULNERABLE, "vulns": [{"id": "X-1", "fix_versions": []}]}
    assert read_audit(answer(package)).vulnerable == [
        "requests 2.19.0: X-1 (mended by no release yet)"
    ]
