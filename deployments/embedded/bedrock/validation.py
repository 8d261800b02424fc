"""Refuses a request that breaks the service's own API model, as the service does."""

from __future__ import annotations

from typing import Any

from botocore.model import OperationModel

from deployments.embedded.bedrock.errors import invalid
from reelroute.api_model import request_violations


def check(operation: OperationModel, params: dict[str, Any], unchecked: frozenset[str]) -> None:
    """Refuse parameters that break the operation's input shape.

    Args:
        operation: the operation's model.
        params: the parameters as the client gave them.
        unchecked: top-level members that the operation itself checks.

    Raises:
        ServiceError: ValidationException with every violation's path, value and constraint.
    """
    found = request_violations(operation, params, unchecked)
    if found:
        plural = "error" if len(found) == 1 else "errors"
        raise invalid(f"{len(found)} validation {plural} detected: {'; '.join(found)}")
