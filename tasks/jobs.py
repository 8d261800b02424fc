"""Waiting for what AWS does asynchronously: waiters are data (`waiters.json`), not loops."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from botocore import xform_name
from botocore.exceptions import WaiterError
from botocore.waiter import NormalizedOperationMethod, Waiter, WaiterModel

from reelroute.aws import RETRYABLE_CODES, speaking
from reelroute.errors import RetryableAwsError, StageError
from tasks.base import StageContext

_ENDED_BADLY = ("Failed", "Stopping", "Stopped", "Deleting")


@cache
def _model() -> WaiterModel:
    return WaiterModel(json.loads((Path(__file__).parent / "waiters.json").read_text()))


def wait(
    client: Any,
    waiter: str,
    arguments: Mapping[str, str],
    *,
    what: str,
    poll_seconds: float,
    max_seconds: float,
    on_poll: Callable[[Mapping[str, Any]], None] = lambda answer: None,
) -> Mapping[str, Any]:
    """Wait until a job or deployment reaches the state that its waiter names.

    Args:
        waiter: its name in `waiters.json`.
        arguments: of the waiter's operation.
        what: what is waited for, as errors name it.
        on_poll: called with every answer of the service.

    Returns:
        the service's last answer.

    Raises:
        StageError: it failed or was stopped (with the service's own message), or took longer
            than `max_seconds`.
        RetryableAwsError: the service could not be asked.
    """
    config = _model().get_waiter(waiter)
    config.delay = poll_seconds  # type: ignore[assignment]  # botocore sleeps for it as it is
    config.max_attempts = max(1, math.ceil(max_seconds / poll_seconds))
    ask = NormalizedOperationMethod(getattr(client, xform_name(config.operation)))
    last: dict[str, Any] = {}

    def poll(**kwargs: Any) -> dict[str, Any]:
        answer: dict[str, Any] = ask(**kwargs)
        last.clear()
        last.update(answer)
        if "Error" not in answer:
            on_poll(answer)
        return answer

    with speaking(f"waiting for {what}"):
        try:
            Waiter(waiter, config, poll).wait(**arguments)  # type: ignore[arg-type]
        except WaiterError as error:
            raise _ended(error, last, what, max_seconds) from error
    return last


def _ended(
    error: WaiterError, last: Mapping[str, Any], what: str, max_seconds: float
) -> StageError | RetryableAwsError:
    code = last.get("Error", {}).get("Code", "")
    if code in RETRYABLE_CODES:
        return RetryableAwsError(f"waiting for {what}: {code}: {last['Error'].get('Message')}")
    if code:
        return StageError(f"{what} can't be looked up: {code}: {last['Error'].get('Message')}")
    if "Max attempts" in str(error):
        return StageError(
            f"{what} is still {_state(last)} after {_duration(max_seconds)}. It goes on "
            "in AWS: run the stage again to wait on, or stop it in the Bedrock console"
        )
    reasons = last.get("failureMessages") or [last.get("failureMessage") or "no reason given"]
    return StageError(f"{what} ended as {last.get('status')}: {'; '.join(reasons)}")


def _state(last: Mapping[str, Any]) -> Any:
    """The state that was waited through: of an update, where the rest is at rest."""
    update = (last.get("updateDetails") or {}).get("updateStatus")
    return update if update == "Updating" else last.get("status")


def _duration(seconds: float) -> str:
    """A time as people say it."""
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.3g} {unit}"
    return f"{seconds:.3g} s"


def find_ours(
    pages: Iterable[Mapping[str, Any]],
    summaries: str,
    name_key: str,
    stage: StageContext,
    *parts: str,
) -> Mapping[str, Any] | None:
    """What this attempt, or an earlier one with the same inputs, has made already.

    An attempt can end before its job does (a connection that broke, a wait that was too short):
    then the job goes on, and the next attempt takes it up instead of starting a second one. A
    forced attempt takes up its own alone; what has failed or was stopped is of use to none.

    Args:
        pages: a listing, filtered by `stage.name_stem(*parts)`.
        summaries: the key of a page's list.
        name_key: the key of a summary's name.
        stage: this attempt.
        parts: those of its name.
    """
    own = stage.name(*parts)
    names = [own] if stage.forced else [f"{stage.name_stem(*parts)}-a{n}" for n in _down(stage)]
    found = {
        summary[name_key]: summary
        for page in pages
        for summary in page.get(summaries, ())
        if summary[name_key] == own or summary["status"] not in _ENDED_BADLY
    }
    return next((found[name] for name in names if name in found), None)


def _down(stage: StageContext) -> Iterable[int]:
    return range(stage.attempt, 0, -1)
