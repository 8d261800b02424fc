"""Lets what is reported to be in a certain state say so, whatever its own state is."""

from __future__ import annotations

from typing import Any, Final

from botocore.model import OperationModel

from deployments.embedded.calls import Call
from deployments.embedded.faults import REPORTED_STATE, Faults

#: Why something that is reported as Failed failed.
REASON: Final = "The service's own reason: an injected fault."
_STATES: Final = ("status", "modelStatus", "stopReason")
_REASONS: Final = ("failureMessage", "failureMessages", "message")
#: With these stop reasons the service holds the answer back.
_HELD_BACK: Final = ("content_filtered", "guardrail_intervened")


def as_reported(
    faults: Faults, operation: OperationModel, answer: dict[str, Any], call: Call
) -> dict[str, Any]:
    """The answer with the state that a fault wants, its own or that of everything it lists.

    An answer that can't be in that state, by its API model, stays as it is.
    """
    hit = faults.draw(REPORTED_STATE, call.service, operation.name)
    if hit is None:
        return answer
    call.fault = REPORTED_STATE
    return _in_state(operation.output_shape, answer, hit.fault.style)


def _in_state(shape: Any, answer: dict[str, Any], state: str) -> dict[str, Any]:
    changed = dict(answer)
    for name, member in shape.members.items():
        if name in _STATES and state in member.enum:
            changed[name] = state
            changed |= _consequences(shape, answer, state)
        elif (
            member.type_name == "list" and member.member.type_name == "structure" and name in answer
        ):
            changed[name] = [_in_state(member.member, item, state) for item in answer[name] or ()]
    return changed


def _lists_structures(shape: Any) -> bool:
    return bool(shape.type_name == "list" and shape.member.type_name == "structure")


def _consequences(shape: Any, answer: dict[str, Any], state: str) -> dict[str, Any]:
    if state == "Failed":
        return {
            name: [REASON] if shape.members[name].type_name == "list" else REASON
            for name in _REASONS
            if name in shape.members
        }
    if state in _HELD_BACK:
        return {"output": {"message": {**answer["output"]["message"], "content": []}}}
    return {}
