"""What can go wrong with the local student."""

from __future__ import annotations

from reelroute.errors import ReelRouteError


class StudentError(ReelRouteError):
    """The local student can't be trained, exported, verified or loaded."""
