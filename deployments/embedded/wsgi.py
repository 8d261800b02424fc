"""The embedded AWS as a WSGI application: who asks, what is asked, who answers."""

from __future__ import annotations

import io
import json
import os
import uuid
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import parse_qs

from deployments.embedded import refusals
from deployments.embedded.bedrock.api import LEFT_TO_MOTO, BedrockApi, error_reply
from deployments.embedded.bedrock.errors import not_found
from deployments.embedded.bedrock.rest import Asked, asked
from deployments.embedded.calls import Call, CallLog
from deployments.embedded.credentials import Signature, signature
from deployments.embedded.faults import KINDS, WRONG_CREDENTIALS, Faults
from deployments.embedded.operation_names import s3_operation, target_operation
from reelroute.errors import ReelRouteError

Environ = dict[str, Any]
StartResponse = Callable[..., Any]
Answer = Iterable[bytes]
Headers = list[tuple[str, str]]

CONTROL: Final = "/_embedded/"


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
            return self._control(environ, start_response)
        call = Call()
        try:
            return self._aws(environ, start_response, call)
        finally:
            self.calls.add(call)

    def _aws(self, environ: Environ, start_response: StartResponse, call: Call) -> Answer:
        signed = signature(environ.get("HTTP_AUTHORIZATION", ""), environ["QUERY_STRING"])
        raw_path = environ["RAW_URI"].split("?", 1)[0]
        request = None
        if signed is None or signed.service == "bedrock":
            request = asked(environ["REQUEST_METHOD"], raw_path)
        _name(call, environ, signed, request)
        refusal = self._refusal(environ, signed, call)
        if refusal is not None:
            call.status = refusals.STATUS
            headers = [("Content-Type", refusal.content_type), ("x-amzn-errortype", refusal.error)]
            _body(environ)
            return _respond(environ, start_response, call.status, headers, refusal.body)
        is_bedrock = signed is not None and signed.service == "bedrock"
        left_to_moto = request is not None and request.operation.name in LEFT_TO_MOTO
        if signed is None or not is_bedrock or left_to_moto:
            return self._ask_moto(environ, start_response, call)
        return self._answer(environ, start_response, signed, request, call)

    def _refusal(
        self, environ: Environ, signed: Signature | None, call: Call
    ) -> refusals.Refusal | None:
        content_type = environ.get("CONTENT_TYPE", "")
        if signed is None:
            return refusals.unsigned(call.service, content_type)
        if self.faults.draw(WRONG_CREDENTIALS) is not None:
            call.fault = WRONG_CREDENTIALS
        elif signed.key_id == self._key_id:
            return None
        return refusals.unknown_key(signed.service, content_type, signed.key_id)

    def _answer(
        self,
        environ: Environ,
        start_response: StartResponse,
        signed: Signature,
        request: Asked | None,
        call: Call,
    ) -> Answer:
        body = _body(environ)
        if request is None:
            reply = error_reply(not_found("No operation of Bedrock has this method and path."))
        else:
            query = environ["QUERY_STRING"]
            reply = self._bedrock.reply(request, signed.region, query, body, call)
        call.status = reply.status
        headers = [("Content-Type", "application/json"), ("x-amzn-requestid", str(uuid.uuid4()))]
        if reply.error:
            headers.append(("x-amzn-errortype", reply.error))
        return _respond(environ, start_response, reply.status, headers, reply.body)

    def _ask_moto(self, environ: Environ, start_response: StartResponse, call: Call) -> Answer:
        def started(status: str, headers: Headers, *rest: Any) -> Any:
            call.status = int(status.split(" ", 1)[0])
            return start_response(status, headers, *rest)

        answer: Answer = self._moto(environ, started)
        return answer

    def _control(self, environ: Environ, start_response: StartResponse) -> Answer:
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
                shown = {"kinds": KINDS, "on": self.faults.on()}
            case "POST", "faults":
                status, shown = self._set_fault(_body(environ))
            case "DELETE", "faults":
                kinds = parse_qs(environ["QUERY_STRING"]).get("kind")
                self.faults.clear(kinds[0] if kinds else None)
                shown = {"on": self.faults.on()}
            case _:
                status, shown = 404, {"message": f"there is no {method} {environ['PATH_INFO']}"}
        body = json.dumps(shown).encode()
        return _respond(
            environ, start_response, status, [("Content-Type", "application/json")], body
        )

    def _set_fault(self, body: bytes) -> tuple[int, dict[str, Any]]:
        try:
            self.faults.set(**json.loads(body))
        except ReelRouteError as error:
            return 400, {"message": str(error)}
        except (TypeError, ValueError):
            return 400, {"message": "expected a JSON object with kind, rate, seed and style"}
        return 200, {"on": self.faults.on()}


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


def _respond(
    environ: Environ, start_response: StartResponse, status: int, headers: Headers, body: bytes
) -> Answer:
    start_response(
        f"{status} {HTTPStatus(status).phrase}", [*headers, ("Content-Length", str(len(body)))]
    )
    return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]
