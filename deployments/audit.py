"""`python -m deployments.audit`: known vulnerabilities of the pinned packages, by pip-audit.

Where the advisories can't be reached it says loudly what was not audited, and is no failure: a
machine without a network can be linted. (pip-audit itself calls packages that it could not look
up no vulnerability, and fails with a stack trace where nobody answers.)
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass, field
from typing import Any, Final

import click

from configs.settings import ROOT

_COMMAND: Final = (
    *(sys.executable, "-m", "pip_audit", "--requirement", "constraints.txt", "--no-deps"),
    *("--disable-pip", "--progress-spinner", "off", "--format", "json"),
)


@dataclass(frozen=True)
class Audit:
    """What an audit told.

    Attributes:
        audited: packages that were looked up.
        skipped: packages that could not be.
        vulnerable: a line each: package, version, advisories, versions that mend it.
    """

    audited: int
    skipped: int
    vulnerable: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        if not self.audited:
            return "NOT AUDITED: PyPI's advisories can't be reached from here"
        left_out = f"; NOT AUDITED: {self.skipped} that PyPI doesn't know" if self.skipped else ""
        return f"{self.audited} packages audited, {len(self.vulnerable)} vulnerable{left_out}"


def read_audit(output: str) -> Audit:
    """pip-audit's answer; what is no answer audited nothing."""
    try:
        packages: list[dict[str, Any]] = json.loads(output)["dependencies"]
    except (ValueError, KeyError, TypeError):
        return Audit(0, 0)
    looked_up = [package for package in packages if "skip_reason" not in package]
    return Audit(
        len(looked_up),
        len(packages) - len(looked_up),
        [
            f"{package['name']} {package['version']}: "
            + ", ".join(
                f"{found['id']} (mended by {', '.join(found['fix_versions']) or 'no release yet'})"
                for found in package["vulns"]
            )
            for package in looked_up
            if package["vulns"]
        ],
    )


@click.command()
def main() -> None:
    """Look the packages of constraints.txt up in PyPI's advisories."""
    done = subprocess.run(_COMMAND, cwd=ROOT, capture_output=True, text=True, check=False)
    audit = read_audit(done.stdout)
    for line in audit.vulnerable:
        click.echo(line)
    click.echo(audit)
    if audit.vulnerable:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
