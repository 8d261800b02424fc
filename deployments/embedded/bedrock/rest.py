"""Which operation a request asks for, with which parameters: read out of botocore's API models."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Any, Final
from urllib.parse import parse_qs, unquote

import botocore.loaders
from botocore.model import OperationModel, ServiceModel
from botocore.utils import parse_timestamp

from deployments.embedded.bedrock.errors import invalid

#: The services whose requests are signed as `bedrock` and that are answered here.
SERVICES: Final = ("bedrock-runtime", "bedrock")
_LABEL: Final = re.compile(r"\{(\w+)(\+?)\}")


@dataclass(frozen=True, slots=True)
class Route:
    """One operation and the requests that ask for it.

    Attributes:
        service: botocore's name of the service.
        operation: the operation's model.
        method: the HTTP method.
        path: matches the path as sent, percent-encoding included.
    """

    service: str
    operation: OperationModel
    method: str
    path: re.Pattern[str]


@dataclass(frozen=True, slots=True)
class Asked:
    """An operation that a request asks for, with the labels in its path (decoded)."""

    service: str
    operation: OperationModel
    labels: dict[str, str]


@cache
def _routes() -> tuple[Route, ...]:
    loader = botocore.loaders.create_loader()
    routes = []
    for service in SERVICES:
        model = ServiceModel(loader.load_service_model(service, "service-2"), service)
        for name in model.operation_names:
            operation = model.operation_model(name)
            template = operation.http["requestUri"].split("?")[0]
            routes.append(Route(service, operation, operation.http["method"], _pattern(template)))
    return tuple(routes)


def _pattern(template: str) -> re.Pattern[str]:
    pattern, position = "", 0
    for label in _LABEL.finditer(template):
        characters = ".+" if label[2] else "[^/]+"
        pattern += re.escape(template[position : label.start()]) + f"(?P<{label[1]}>{characters})"
        position = label.end()
    return re.compile(pattern + re.escape(template[position:]) + "/?")


@cache
def operation_model(service: str, name: str) -> OperationModel:
    """The model of an operation of one of `SERVICES`."""
    return next(r.operation for r in _routes() if (r.service, r.operation.name) == (service, name))


def asked(method: str, raw_path: str) -> Asked | None:
    """The operation that a request asks for.

    Args:
        method: the HTTP method.
        raw_path: the path as sent, percent-encoding included, without the query string.
    """
    for route in _routes():
        if route.method == method and (match := route.path.fullmatch(raw_path)):
            labels = {name: unquote(text) for name, text in match.groupdict().items()}
            return Asked(route.service, route.operation, labels)
    return None


def parameters(request: Asked, query_string: str, body: bytes) -> dict[str, Any]:
    """The operation's parameters out of path, query string and JSON body.

    Raises:
        ServiceError: ValidationException; the body isn't a JSON object, or a number, boolean
            or time in the query string can't be read.
    """
    shape = request.operation.input_shape
    if shape is None:
        return {}
    in_query = parse_qs(query_string, keep_blank_values=True)
    in_body = _json_object(body)
    params: dict[str, Any] = {}
    for name, member in shape.members.items():
        location = member.serialization.get("location")
        wire_name = member.serialization.get("name", name)
        if location == "uri":
            params[name] = request.labels.get(wire_name)
        elif location == "querystring":
            if wire_name in in_query:
                params[name] = _from_query(member, in_query[wire_name], name)
        elif location is None and in_body.get(wire_name) is not None:
            params[name] = in_body[wire_name]
    return params


def _json_object(body: bytes) -> dict[str, Any]:
    if not body:
        return {}
    try:
        value = json.loads(body)
    except ValueError as error:
        raise invalid(f"The request's body is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise invalid("The request's body is not a JSON object.")
    return value


def _from_query(shape: Any, values: list[str], name: str) -> Any:
    try:
        match shape.type_name:
            case "list":
                return values
            case "integer" | "long":
                return int(values[0])
            case "boolean":
                return {"true": True, "false": False}[values[0].lower()]
            case "timestamp":
                moment = parse_timestamp(values[0])
                return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (KeyError, ValueError) as error:
        raise invalid(
            f"Value '{values[0]}' at '{name}' failed to satisfy constraint: "
            f"Member must be of type {shape.type_name}"
        ) from error
    return values[0]


def to_json(answer: dict[str, Any]) -> bytes:
    """An answer as the service writes it: no empty members, times in ISO 8601."""
    kept = {name: value for name, value in answer.items() if value is not None}
    return json.dumps(kept, default=_time, ensure_ascii=False).encode()


def _time(value: Any) -> str:
    if isinstance(value, datetime):
        return value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    raise TypeError(f"{type(value).__name__} can't be written as JSON")
