"""What goes over the wire: requests in, weights out."""

from __future__ import annotations

from typing import Any, Final, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from reelroute.problems import first_problem
from reelroute.routers import QueryError, check_query
from reelroute.service.errors import ApiError
from reelroute.service.settings import ServiceSettings
from reelroute.weights import Modality, RoutingWeights, Weight

#: What of a client's own text an error message repeats at most.
_LONGEST_MESSAGE: Final = 300


class RouteRequest(BaseModel):
    """One query, or many."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        json_schema_extra={"oneOf": [{"required": ["query"]}, {"required": ["queries"]}]},
    )

    query: str | None = Field(
        default=None, description="The query of a search.", examples=["CEO discussing earnings"]
    )
    queries: tuple[str, ...] | None = Field(
        default=None,
        description="Queries that are answered together, in their order.",
        examples=[["sunset over mountains", "dogs barking"]],
    )
    reasoning: bool = Field(
        default=False, description="Whether to say why; answers without it are faster."
    )

    @model_validator(mode="after")
    def _one_or_many(self) -> Self:
        if (self.query is None) == (self.queries is None):
            raise ValueError("give either `query` (text) or `queries` (a list of texts)")
        return self

    @classmethod
    def of_body(cls, body: bytes) -> RouteRequest:
        """The request from its body.

        Raises:
            ApiError: the body is not JSON, or not a request.
        """
        try:
            return cls.model_validate_json(body)
        except ValidationError as error:
            message = first_problem(error)[:_LONGEST_MESSAGE]
            if error.errors(include_url=False, include_input=False)[0]["type"] == "json_invalid":
                raise ApiError(400, "invalid_json", f"The body is not JSON: {message}.") from None
            raise ApiError(422, "invalid_request", f"{message}.") from None

    def texts(self, settings: ServiceSettings) -> list[str]:
        """The queries with single spaces, each within the limits.

        Raises:
            ApiError: too many queries, or one that can't be routed.
        """
        queries = (self.query,) if self.query is not None else self.queries or ()
        if not queries:
            raise ApiError(422, "no_queries", "`queries` is empty: give at least one.")
        if len(queries) > settings.max_batch:
            raise ApiError(
                422,
                "batch_too_large",
                f"{len(queries)} queries in one request, at most {settings.max_batch} are "
                "answered: send them in parts.",
            )
        return [_text(number, query, settings) for number, query in enumerate(queries)]


def _text(number: int, query: str, settings: ServiceSettings) -> str:
    try:
        text = check_query(query)
    except QueryError as error:
        code = "query_too_long" if query.strip() else "query_empty"
        raise ApiError(422, code, f"Query {number}: {error}.") from None
    if len(text) > settings.max_query_characters:
        raise ApiError(
            422,
            "query_too_long",
            f"Query {number}: the query has {len(text)} characters, at most "
            f"{settings.max_query_characters} are routed.",
        )
    return text


class Weights(BaseModel):
    """How much each channel counts; the four add up to 1."""

    model_config = ConfigDict(frozen=True)

    visual: Weight
    audio: Weight
    transcription: Weight
    metadata: Weight


class RouteAnswer(BaseModel):
    """The routing weights of one query."""

    model_config = ConfigDict(frozen=True)

    weights: Weights
    active: dict[Modality, Weight] = Field(
        description="The channels worth searching, renormalised to add up to 1."
    )
    dominant: Modality = Field(description="The channel with the largest weight.")
    router: str = Field(
        description="Who answered; `rules` where the release's model could not.",
        examples=["local"],
    )
    release: str | None = Field(
        description="The release that answered; null for a router without one.",
        examples=["2026-w01"],
    )
    reasoning: str | None = Field(description="Why; null where it was not asked for.")

    @classmethod
    def of(cls, weights: RoutingWeights, release: str | None, reasoning: str | None) -> RouteAnswer:
        """The answer that holds a router's weights."""
        return cls(
            weights=Weights.model_validate(weights.as_dict()),
            active=weights.active(),
            dominant=weights.dominant,
            router=weights.router,
            release=release,
            reasoning=reasoning,
        )


class RouteAnswers(BaseModel):
    """The routing weights of many queries, in their order."""

    model_config = ConfigDict(frozen=True)

    answers: tuple[RouteAnswer, ...]


class Health(BaseModel):
    """The process lives."""

    model_config = ConfigDict(frozen=True)

    status: str = Field(examples=["ok"])


class Readiness(BaseModel):
    """The service answers queries."""

    model_config = ConfigDict(frozen=True)

    status: str = Field(examples=["ready"])
    release: str | None = Field(description="The release at work.", examples=["2026-w01"])


_QUERY_EXAMPLES: Final = {
    "one": {
        "summary": "One query",
        "value": {"query": "CEO discussing quarterly earnings", "reasoning": True},
    },
    "many": {
        "summary": "Many queries",
        "value": {"queries": ["sunset over mountains", "crowd cheering after a goal"]},
    },
}

#: The body of `POST /v1/route` in OpenAPI: it is read by `RouteRequest.of_body`, not by FastAPI.
ROUTE_REQUEST_BODY: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": RouteRequest.model_json_schema(),
                "examples": _QUERY_EXAMPLES,
            }
        },
    }
}
