"""What things of an environment are called in Prefect."""

from __future__ import annotations


def pool_name(environment: str) -> str:
    """The work pool of an environment."""
    return f"reelroute-{environment}"


def webhook_name(environment: str) -> str:
    """The block that keeps the webhook's URL."""
    return f"reelroute-{environment}-notify"


def automation_name(environment: str, what: str) -> str:
    """An automation of an environment."""
    return f"reelroute {environment}: {what}"
