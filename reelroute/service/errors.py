"""What a client is told when a request can't be answered: one JSON shape, no stack traces."""

from __future__ import annotations

import http
from collections.abc import Mapping

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response


class ErrorDetail(BaseModel):
    """Why a request was not answered."""

    model_config = ConfigDict(frozen=True)

    code: str = Field(description="For programs: stays the same.", examples=["query_too_long"])
    message: str = Field(description="For people: what is wrong and what the limit is.")


class ErrorBody(BaseModel):
    """The body of every answer that is not a success."""

    model_config = ConfigDict(frozen=True)

    error: ErrorDetail


class ApiError(Exception):
    """A request that ends with an error's status and body."""

    def __init__(
        self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.headers = dict(headers or {})

    def response(self) -> Response:
        """The error as the client sees it."""
        body = ErrorBody(error=ErrorDetail(code=self.code, message=self.message))
        return Response(
            body.model_dump_json(), self.status, self.headers, media_type="application/json"
        )


def install_error_handlers(app: FastAPI) -> None:
    """Give every error of the app and of the framework the one shape."""

    async def own(request: Request, error: Exception) -> Response:
        assert isinstance(error, ApiError)
        request.state.error = error.code
        return error.response()

    async def framework(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        phrase = http.HTTPStatus(error.status_code).phrase
        code = phrase.lower().replace(" ", "_")
        own_error = ApiError(error.status_code, code, f"{phrase}.", error.headers)
        return await own(request, own_error)

    app.add_exception_handler(ApiError, own)
    app.add_exception_handler(HTTPException, framework)
