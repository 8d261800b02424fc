"""What the service may be told: every default here, unknown keys are errors."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from reelroute.errors import ConfigError
from reelroute.problems import first_problem
from reelroute.routers import MAX_QUERY_CHARACTERS

#: `REELROUTE_SERVICE__MAX_BATCH=50` sets `max_batch`.
ENVIRONMENT_PREFIX: Final = "REELROUTE_SERVICE__"


class ServiceSettings(BaseModel):
    """The service's settings.

    Order of precedence, the strongest last: the defaults below, environment variables, options
    of the command.

    Attributes:
        host, port: where it listens; port 0 takes a free one and says which.
        workers: processes that share the port; each opens the release for itself.
        log_queries: whether the text of queries stands in the log.
        max_body_bytes: a longer request body is refused before it is read.
        max_query_characters: a longer query is refused.
        max_batch: more queries in one request are refused.
        max_in_flight: requests at work together in a process; more are sent away with 503.
        body_seconds: the longest that a request's body may take to arrive.
        threads: requests that are answered, or wait for a model, together in a process.
        follow_seconds: how often the release pointer is looked at; 0 never.
        deadline_ms: the longest that a query may wait for a model behind the network before the
            keyword rules answer it; 0 waits as long as the model takes.
        cache_size: the latest so many queries are answered from memory; 0 caches none.
        retry_seconds: pause between tries to open the release while AWS can't be reached.
        drain_seconds: time between the end of readiness and of listening, in which load
            balancers notice.
        shutdown_seconds: the longest that requests in flight may take to end after that.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: str = Field(default="127.0.0.1", min_length=1)
    port: int = Field(default=8080, ge=0, le=65_535)
    workers: int = Field(default=1, ge=1, le=64)
    log_queries: bool = False
    max_body_bytes: int = Field(default=1_048_576, ge=1_024, le=67_108_864)
    max_query_characters: int = Field(default=MAX_QUERY_CHARACTERS, ge=1, le=MAX_QUERY_CHARACTERS)
    max_batch: int = Field(default=256, ge=1, le=10_000)
    max_in_flight: int = Field(default=512, ge=1)
    body_seconds: float = Field(default=10, gt=0)
    threads: int = Field(default=32, ge=1, le=512)
    follow_seconds: float = Field(default=30, ge=0)
    deadline_ms: float = Field(default=2_000, ge=0)
    cache_size: int = Field(default=10_000, ge=0)
    retry_seconds: float = Field(default=5, gt=0)
    drain_seconds: float = Field(default=1, ge=0)
    shutdown_seconds: int = Field(default=20, ge=1)


def load_service_settings(
    options: Mapping[str, Any], environment: Mapping[str, str] | None = None
) -> ServiceSettings:
    """The settings from the environment and the command's options.

    Args:
        options: by the settings' names; those that are None were not given.
        environment: in place of the process's own.

    Raises:
        ConfigError: an unknown name or a value outside its limits.
    """
    environment = os.environ if environment is None else environment
    values: dict[str, Any] = {
        name.removeprefix(ENVIRONMENT_PREFIX).lower(): value
        for name, value in environment.items()
        if name.startswith(ENVIRONMENT_PREFIX)
    }
    values |= {name: value for name, value in options.items() if value is not None}
    try:
        return ServiceSettings.model_validate(values)
    except ValidationError as error:
        raise ConfigError(
            f"the service's settings: {first_problem(error)}. They come from the options of "
            f"`reelroute serve` and from {ENVIRONMENT_PREFIX}<NAME> in the environment"
        ) from None
