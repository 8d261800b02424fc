"""The errors that Bedrock answers with."""

from __future__ import annotations

from typing import Final

#: HTTP status by error code, as the API model has them.
STATUS: Final = {
    "AccessDeniedException": 403,
    "ConflictException": 400,
    "InternalServerException": 500,
    "ModelErrorException": 424,
    "ModelNotReadyException": 429,
    "ModelTimeoutException": 408,
    "ResourceNotFoundException": 404,
    "ServiceQuotaExceededException": 400,
    "ServiceUnavailableException": 503,
    "ThrottlingException": 429,
    "TooManyTagsException": 400,
    "UnknownOperationException": 501,
    "ValidationException": 400,
}


class ServiceError(Exception):
    """An error that the service answers with.

    Attributes:
        code: the exception's name in the API model.
        message: what the caller reads.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message

    @property
    def status(self) -> int:
        """The HTTP status."""
        return STATUS[self.code]


def invalid(message: str) -> ServiceError:
    """The request is wrong."""
    return ServiceError("ValidationException", message)


def not_found(message: str) -> ServiceError:
    """What the request names isn't there."""
    return ServiceError("ResourceNotFoundException", message)


def conflict(message: str) -> ServiceError:
    """The request doesn't fit the state that things are in."""
    return ServiceError("ConflictException", message)
