"""Tags on jobs, models and deployments."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from deployments.embedded.bedrock.errors import ServiceError, not_found
from deployments.embedded.bedrock.state import Bedrock
from deployments.embedded.calls import Call

MAX_TAGS: Final = 50
Tag = dict[str, str]


def put_tags(bedrock: Bedrock, arn: str, tags: Iterable[Tag] | None) -> None:
    """Add tags to a resource, replacing those with the same key.

    Raises:
        ServiceError: TooManyTagsException; more than 50 on one resource.
    """
    merged = bedrock.tags.get(arn, {}) | {tag["key"]: tag["value"] for tag in tags or ()}
    if len(merged) > MAX_TAGS:
        raise ServiceError(
            "TooManyTagsException",
            f"{arn} would carry {len(merged)} tags, at most {MAX_TAGS} are allowed.",
        )
    bedrock.tags[arn] = merged


def tag_resource(bedrock: Bedrock, params: dict[str, Any], call: Call) -> dict[str, Any]:
    """TagResource."""
    with bedrock.lock:
        put_tags(bedrock, _existing(bedrock, params), params["tags"])
    return {}


def untag_resource(bedrock: Bedrock, params: dict[str, Any], call: Call) -> dict[str, Any]:
    """UntagResource."""
    with bedrock.lock:
        tags = bedrock.tags.get(_existing(bedrock, params), {})
        for key in params["tagKeys"]:
            tags.pop(key, None)
    return {}


def list_tags_for_resource(bedrock: Bedrock, params: dict[str, Any], call: Call) -> dict[str, Any]:
    """ListTagsForResource."""
    with bedrock.lock:
        tags = bedrock.tags.get(_existing(bedrock, params), {})
        return {"tags": [{"key": key, "value": value} for key, value in tags.items()]}


def _existing(bedrock: Bedrock, params: dict[str, Any]) -> str:
    arn: str = params["resourceARN"]
    kinds = (
        bedrock.jobs,
        bedrock.custom_models,
        bedrock.deployments,
        bedrock.evaluations,
        bedrock.invocations,
        bedrock.provisioned,
    )
    if not any(arn in resources for resources in kinds):
        raise not_found(f"The resource {arn} does not exist.")
    return arn
