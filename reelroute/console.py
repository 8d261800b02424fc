"""What ReelRoute's commands share."""

from __future__ import annotations

from typing import Any

import click

from reelroute.errors import ReelRouteError


class SentenceGroup(click.Group):
    """A group of commands whose errors are sentences with exit code 1, without a stack trace."""

    def invoke(self, context: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(context)
        except ReelRouteError as error:
            raise click.ClickException(str(error)) from error
