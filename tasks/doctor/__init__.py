"""`reelroute doctor`: looks at what a profile needs in AWS, and changes nothing.

A check yields findings; checks that build on one that failed say so and are left out. What a
check raises becomes a finding too: the doctor always gets to its end.
"""

from __future__ import annotations

from collections.abc import Iterator

from reelroute.aws import error_code
from reelroute.errors import AwsError, ReelRouteError
from tasks.doctor.account import ACCOUNT_CHECKS
from tasks.doctor.bucket import BUCKET_CHECKS
from tasks.doctor.findings import Check, Finding, Setup
from tasks.doctor.models import MODEL_CHECKS
from tasks.doctor.roles import ROLE_CHECKS

__all__ = ["CHECKS", "Finding", "Setup", "diagnose"]

CHECKS: tuple[Check, ...] = (*ACCOUNT_CHECKS, *BUCKET_CHECKS, *ROLE_CHECKS, *MODEL_CHECKS)
_DENIED = ("AccessDenied", "AccessDeniedException", "403")


def diagnose(setup: Setup) -> Iterator[Finding]:
    """All findings about a set-up, one check after the other."""
    failed: set[str] = set()
    for check in CHECKS:
        missing = [name for name in check.needs if name in failed]
        if missing:
            failed.add(check.name)
            yield Finding("note", check.name, f"not looked at, because of: {missing[0]}")
            continue
        for finding in _findings(check, setup):
            if finding.level == "error":
                failed.add(check.name)
            yield finding


def _findings(check: Check, setup: Setup) -> Iterator[Finding]:
    try:
        yield from check.look(setup)
    except AwsError as error:
        if check.action and error_code(error.__cause__ or error) in _DENIED:
            mend = f"grant {check.action} (the stack's DoctorPolicy does)"
            yield Finding("warning", check.name, f"these credentials may not look: {error}", mend)
        else:
            yield Finding("error", check.name, str(error))
    except ReelRouteError as error:
        yield Finding("error", check.name, str(error))
    except Exception as error:  # a check that breaks must not hide the others
        yield Finding("error", check.name, f"can't be told: {type(error).__name__}: {error}")
