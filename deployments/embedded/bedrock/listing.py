"""What all of Bedrock's lists have in common: search, filters, order and pages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Protocol, TypeVar

from deployments.embedded.bedrock.errors import invalid

_DEFAULT_PAGE = 100
_LARGEST_PAGE = 1000


class Listed(Protocol):
    """Something with a name, a status and a time of creation."""

    @property
    def name(self) -> str:
        """What `nameContains` looks into."""
        ...

    @property
    def created(self) -> datetime:
        """When it came into being."""
        ...

    @property
    def status(self) -> str:
        """The state that it is in now."""
        ...


Item = TypeVar("Item", bound=Listed)


def find(items: Mapping[str, Item], identifier: str) -> Item | None:
    """The item with this ARN or name, of those by ARN."""
    by_arn = items.get(identifier)
    return by_arn or next((item for item in list(items.values()) if item.name == identifier), None)


def page(
    items: Iterable[Item],
    params: dict[str, Any],
    *,
    after: str = "creationTimeAfter",
    before: str = "creationTimeBefore",
    most: int = _LARGEST_PAGE,
) -> tuple[list[Item], str | None]:
    """One page of the items that the request's filters let through, and the next page's token.

    Newest first, unless `sortOrder` says Ascending.

    Args:
        items: in the order of their creation.
        params: the request's parameters.
        after: the name of the parameter with the earliest time of creation.
        before: the name of the parameter with the latest time of creation.
        most: items that a page holds, whatever the request asks for.

    Raises:
        ServiceError: ValidationException; the token isn't one of ours.
    """
    kept = [
        item
        for item in items
        if params.get("nameContains", "") in item.name
        and params.get("statusEquals") in (None, item.status)
        and (params.get(after) is None or item.created > params[after])
        and (params.get(before) is None or item.created < params[before])
    ]
    if params.get("sortOrder") != "Ascending":
        kept.reverse()
    token = params.get("nextToken", "0")
    if not token.isdecimal():
        raise invalid(f"The nextToken {token!r} is not valid.")
    start = int(token)
    end = start + min(params.get("maxResults", _DEFAULT_PAGE), most)
    return kept[start:end], str(end) if end < len(kept) else None
