"""Creating something once for a `clientRequestToken`, however often it is asked for."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from deployments.embedded.bedrock.state import Bedrock, new_id
from deployments.embedded.calls import Call

#: Makes something and returns its ARN.
Make = Callable[[Bedrock, dict[str, Any], Call], str]
Operation = Callable[[Bedrock, dict[str, Any], Call], dict[str, Any]]


def made_once(answer: str) -> Callable[[Make], Operation]:
    """An operation that makes something, the same for the same token.

    The region's lock is held while it is made.

    Args:
        answer: the field of the answer that names its ARN.
    """

    def operation_of(make: Make) -> Operation:
        @functools.wraps(make)
        def operation(bedrock: Bedrock, params: dict[str, Any], call: Call) -> dict[str, Any]:
            token = (call.operation, params.get("clientRequestToken") or new_id())
            with bedrock.lock:
                if token not in bedrock.tokens:
                    bedrock.tokens[token] = make(bedrock, params, call)
                return {answer: bedrock.tokens[token]}

        return operation

    return operation_of
