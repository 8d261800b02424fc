"""The embedded AWS as a WSGI application: who asks, what is asked, who answers."""

from __future__ import annotations

import io
import json
import os
import socket
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import fields
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import parse_qs

from deployments.embedded import refusals
from deployments.embedded.bedrock.api import LEFT_TO_MOTO, BedrockApi, error_reply
from deployments.embedded.bedrock.errors import not_found
from deployments.embedded.bedrock.rest import Asked, asked
from deployments.embedded.calls import Call, CallLog
from deployments.embedded.credentials import Signature, signature
from deployments.embedded.faults import KINDS, Fault, Faults
from deployments.embedded.operation_names import s3_operation, target_operation
from deployments.embedded.strikes import (
    STRIKES,
    ConnectionDropped,
    Headers,
    Response,
    Struck,
    refusal_response,
)
from reelroute.errors import ReelRouteError

Environ = dict[str, Any]
StartResponse = Callable[..., Any]
Answer = Iterable[bytes]

CONTROL: Final = "/_embedded/"
FAULT_FIELDS: Final = ", ".join(field.name for field in fields(Fault))


class EmbeddedApp:
    """Checks credentials, injects faults, answers Bedrock, leaves the rest to moto.

    Attributes:
        calls: the log.
        faults: what is made to fail.
    """

    def __init__(self, key_id: str, moto_app: Any, bedrock: BedrockApi, faults: Faults) -> None:
        """Put the application together.

        Args:
            key_id: the access key id that is let in.
            moto_app: moto's WSGI application.
            bedrock: answers Bedrock's operations.
            faults: the faults that `bedrock` asks too.
        """
        self._key_id = key_id
        self._moto = moto_app
        self._bedrock = bedrock
        self.calls = CallLog()
        self.faults = faults

    def __call__(self, environ: Environ, start_response: StartResponse) -> Answer:
        """Answer one request."""
        if environ["PATH_INFO"].startswith(CONTROL):
            return _send(self._control(environ), environ, start_response)
        call, response = Call(), None
        try:
            with suppress(ConnectionDropped):
                response = self._aws(environ, call)
                call.status = response.status
        finally:
            self.calls.add(call)
        if response is None:
            _drop(environ)
            raise ConnectionDropped
        return _send(response, environ, start_response)

    def _aws(self, environ: Environ, call: Call) -> Response:
        signed = signature(environ.get("HTTP_AUTHORIZATION", ""), environ["QUERY_STRING"])
        raw_path = environ["RAW_URI"].split("?", 1)[0]
        request = None
        if signed is None or signed.service == "bedrock":
            request = asked(environ["REQUEST_METHOD"], raw_path)
        _name(call, environ, signed, request)
        body = _body(environ)
        environ["wsgi.input"] = io.BytesIO(body)
        content_type = environ.get("CONTENT_TYPE", "")
        if signed is None:
            reason = refusals.UNSIGNED
            return refusal_response(refusals.refuse(reason, call.service, content_type))

        def answer() -> Response:
            if signed.key_id != self._key_id:
                reason = refusals.UNKNOWN_KEY
                return refusal_response(refusals.refuse(reason, signed.service, content_type))
            if call.operation == "ListServiceQuotas":  # moto lacks it; nothing here has a quota
                return Response(200, *_json({"Quotas": []}))
            left_to_moto = request is not None and request.operation.name in LEFT_TO_MOTO
            if signed.service != "bedrock" or left_to_moto:
                return self._ask_moto(environ)
            return self._answer(environ, body, signed, request, call)

        for kind, strike in STRIKES.items():
            hit = self.faults.draw(kind, call.service, call.operation)
            if hit is not None:
                call.fault = kind
                return strike(Struck(hit, signed.service, content_type, answer))
        return answer()

    def _answer(
        self, environ: Environ, body: bytes, signed: Signature, request: Asked | None, call: Call
    ) -> Response:
        if request is None:
            reply = error_reply(not_found("No operation of Bedrock has this method and path."))
        else:
            query = environ["QUERY_STRING"]
            reply = self._bedrock.reply(request, signed.region, query, body, call)
        headers = [
            ("Content-Type", "application/json"),
            ("Content-Length", str(len(reply.body))),
            ("x-amzn-requestid", str(uuid.uuid4())),
        ]
        if reply.error:
            headers.append(("x-amzn-errortype", reply.error))
        return Response(reply.status, headers, reply.body)

    def _ask_moto(self, environ: Environ) -> Response:
        started: list[tuple[int, Headers]] = []

        def start(status: str, headers: Headers, *rest: Any) -> Any:
            started.append((int(status.split(" ", 1)[0]), headers))

        body = b"".join(self._moto(environ, start))
        status, headers = started[-1]
        return Response(status, headers, body)

    def _control(self, environ: Environ) -> Response:
        method, place = environ["REQUEST_METHOD"], environ["PATH_INFO"].removeprefix(CONTROL)
        status = 200
        match method, place:
            case "GET", "health":
                shown: Any = {"status": "ok", "pid": os.getpid()}
            case "GET", "calls":
                shown = self.calls.as_records()
            case "GET", "calls/summary":
                shown = self.calls.summary()
            case "GET", "faults":
                kinds = {name: kind.says for name, kind in KINDS.items()}
                shown = {"kinds": kinds, "on": self.faults.on()}
            case "POST", "faults":
                status, shown = self._set_fault(_body(environ))
            case "DELETE", "faults":
                named = parse_qs(environ["QUERY_STRING"]).get("kind")
                self.faults.clear(named[0] if named else None)
                shown = {"on": self.faults.on()}
            case _:
                status, shown = 404, {"message": f"there is no {method} {environ['PATH_INFO']}"}
        return Response(status, *_json(shown))

    def _set_fault(self, body: bytes) -> tuple[int, dict[str, Any]]:
        try:
            self.faults.set(**json.loads(body))
        except ReelRouteError as error:
            return 400, {"message": str(error)}
        except (TypeError, ValueError):
            return 400, {"message": f"expected a JSON object of a fault: {FAULT_FIELDS}"}
        return 200, {"on": self.faults.on()}


def _json(shown: Any) -> tuple[Headers, bytes]:
    body = json.dumps(shown).encode()
    return [("Content-Type", "application/json"), ("Content-Length", str(len(body)))], body


def _name(call: Call, environ: Environ, signed: Signature | None, request: Asked | None) -> None:
    """Note which service and operation a request is for."""
    if request is not None:
        call.service, call.operation = request.service, request.operation.name
        return
    target = environ.get("HTTP_X_AMZ_TARGET", "")
    call.service = signed.service if signed else ("" if target else "s3")
    if call.service == "s3":
        call.operation = s3_operation(
            environ["REQUEST_METHOD"],
            environ["PATH_INFO"],
            environ["QUERY_STRING"],
            copies="HTTP_X_AMZ_COPY_SOURCE" in environ,
        )
    elif target:
        call.operation = target_operation(target)
    elif environ.get("CONTENT_TYPE", "").startswith("application/x-www-form-urlencoded"):
        body = _body(environ)
        environ["wsgi.input"] = io.BytesIO(body)
        call.operation = parse_qs(body.decode("utf-8", "replace")).get("Action", [""])[0]
    else:
        call.operation = f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}"


def _body(environ: Environ) -> bytes:
    """The request's body, read to its end so that the connection can be used again."""
    body: bytes = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    return body


def _send(response: Response, environ: Environ, start_response: StartResponse) -> Answer:
    phrase = HTTPStatus(response.status).phrase
    start_response(f"{response.status} {phrase}", response.headers)
    if environ["REQUEST_METHOD"] == "HEAD":
        return []
    if response.breaks_off_after is None:
        return [response.body]
    return _breaking_off(response.body[: response.breaks_off_after], environ)


def _breaking_off(part: bytes, environ: Environ) -> Iterator[bytes]:
    yield part
    _drop(environ)
    raise ConnectionDropped


def _drop(environ: Environ) -> None:
    """Close the caller's connection as it is."""
    with suppress(OSError):
        environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
