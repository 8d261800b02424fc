"""The tiny trained student, for all of the library's tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from reelroute.routers import LocalRouter
from tests.reelroute.student.conftest import folder, rows

__all__ = ["folder", "rows", "tiny"]


@pytest.fixture(scope="session")
def tiny(folder: Path) -> LocalRouter:
    """The router of a tiny student that was really trained; skips without its packages."""
    return LocalRouter.of_folder(folder)
