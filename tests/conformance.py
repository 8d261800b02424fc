"""Every request of the suite, and every answer, held against the services' own API models.

What breaks a model fails the run at its end, unless the test that sent or got it is marked
`off_model`, because it does so on purpose.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import pytest

from reelroute.recorder import VARIABLE, Recorded, Tally, recorded

_SHOWN: Final = 20


class Conformance:
    """The plugin: records, judges at the end, and says how many calls there were."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._on_purpose: set[str] = set()
        self._tally = Tally()

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        self._on_purpose |= {i.nodeid for i in items if i.get_closest_marker("off_model")}

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        for line in recorded(self.folder):
            self._tally.add(self._excused(line))
        if self._tally.broken and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def _excused(self, line: Recorded) -> Recorded:
        if line.test not in self._on_purpose:
            return line
        return Recorded(line.kind, line.service, line.operation, (), line.test)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if not self._tally.requests:
            return
        terminalreporter.write_line(f"conformance: {self._tally}")
        for line in self._tally.broken[:_SHOWN]:
            for violation in line.violations:
                what = f"{line.kind} {line.service} {line.operation}"
                terminalreporter.write_line(f"  {line.test or 'no test'}: {what}: {violation}")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Conformance(Path(os.environ[VARIABLE])), "conformance")
