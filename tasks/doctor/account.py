"""Region, credentials, clock and prices."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from typing import Any, Final

from reelroute.errors import AwsError, ConfigError
from tasks.doctor.findings import Check, Finding, Setup

REGION: Final = "region"
CREDENTIALS: Final = "credentials"
CLOCK: Final = "clock"
PRICES: Final = "prices"

#: AWS refuses requests that are signed more than five minutes off its own time.
_SKEW_ERROR: Final = 300.0
_SKEW_WARNING: Final = 60.0


def _region(setup: Setup) -> Iterator[Finding]:
    import boto3

    known = sorted(boto3.Session().get_available_regions("bedrock"))
    if setup.region in known:
        yield Finding("ok", REGION, f"{setup.region} has Bedrock")
        return
    near = difflib.get_close_matches(setup.region, known, n=2)
    mend = f"set `aws.region`: {' or '.join(near)}?" if near else f"one of {', '.join(known)}"
    yield Finding("error", REGION, f"there is no Bedrock in {setup.region!r}", mend)


def _credentials(setup: Setup) -> Iterator[Finding]:
    yield Finding("ok", CREDENTIALS, f"{setup.identity['Arn']}, account {setup.account}")


def _clock(setup: Setup) -> Iterator[Finding]:
    theirs = _date(setup)
    if theirs is None:
        yield Finding("note", CLOCK, "can't be told: AWS gave no answer with a date")
        return
    off = (setup.now() - parsedate_to_datetime(theirs)).total_seconds()
    if abs(off) < _SKEW_WARNING:
        yield Finding("ok", CLOCK, "agrees with AWS's to a minute")
        return
    yield Finding(
        "error" if abs(off) >= _SKEW_ERROR else "warning",
        CLOCK,
        f"this machine's is {abs(off):.0f} s {'ahead of' if off > 0 else 'behind'} AWS's; from "
        f"{_SKEW_ERROR:.0f} s on every request is refused",
        "set the clock: timedatectl set-ntp true",
    )


def _date(setup: Setup) -> str | None:
    """The Date header of an answer, of a refusal too."""
    try:
        answer: Any = setup.identity
    except AwsError as error:
        answer = getattr(error.__cause__, "response", None) or {}
    headers: dict[str, str] = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    return headers.get("date")


def _prices(setup: Setup) -> Iterator[Finding]:
    models = setup.settings.models
    priced = 0
    for model in (models.teacher, models.student, models.large_baseline, models.judge):
        try:
            setup.settings.price(model)
            priced += 1
        except ConfigError as error:
            yield Finding("error", PRICES, str(error))
    if priced == 4:
        yield Finding("ok", PRICES, "every model has one")


ACCOUNT_CHECKS: Final = (
    Check(PRICES, _prices),
    Check(REGION, _region),
    Check(CREDENTIALS, _credentials, (REGION,)),
    Check(CLOCK, _clock, (REGION,)),
)
