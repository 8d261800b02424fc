"""What an injected fault makes of a job or deployment, drawn when it is created."""

from __future__ import annotations

from enum import Enum
from threading import Event
from typing import Final

from deployments.embedded.bedrock.state import Bedrock
from deployments.embedded.calls import Call
from deployments.embedded.faults import FAILED_JOBS, STUCK_JOBS

#: What a job that was made to fail says.
FAILURE: Final = "Internal error: the service failed (an injected fault). Create the job again."
_LOOK_SECONDS: Final = 0.2


class Fate(Enum):
    """How a job or deployment is to end."""

    DONE = ""
    FAILED = FAILED_JOBS
    STUCK = STUCK_JOBS


def draw_fate(bedrock: Bedrock, call: Call) -> Fate:
    """The fate of what a call creates; the call's record learns of it."""
    for fate in (Fate.FAILED, Fate.STUCK):
        if bedrock.faults.draw(fate.value, call.service, call.operation) is not None:
            call.fault = fate.value
            return fate
    return Fate.DONE


def be_stuck(bedrock: Bedrock, stop_asked: Event) -> None:
    """Wait until the job is asked to stop, or the server stops."""
    while not bedrock.closed.is_set() and not stop_asked.wait(_LOOK_SECONDS):
        pass
