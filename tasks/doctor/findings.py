"""What a check looks at, and what it finds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, Literal

from configs.settings import Settings
from reelroute.aws import AwsAccess, speaking
from tasks.storage import aws_access

Level = Literal["ok", "note", "warning", "error"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the doctor's.

    Attributes:
        level: `note` is what can't be told, or needs nobody.
        about: what was looked at.
        says: what is so.
        mend: the command, setting or console page that mends it, or empty.
    """

    level: Level
    about: str
    says: str
    mend: str = ""


@dataclass(frozen=True)
class Setup:
    """A profile and the account behind it.

    Attributes:
        now: tells the time of this machine.
    """

    settings: Settings
    now: Callable[[], datetime] = field(default=lambda: datetime.now(UTC))

    @property
    def region(self) -> str:
        """The profile's region."""
        return self.settings.aws.region

    @property
    def bucket(self) -> str:
        """The profile's bucket."""
        return self.settings.storage.bucket

    @property
    def account(self) -> str:
        """The credentials' account.

        Raises:
            AwsError: they are refused.
        """
        return str(self.identity["Account"])

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Whose credentials these are, as STS says.

        Raises:
            AwsError: they are refused, or STS can't be reached.
        """
        with speaking("asking AWS who we are"):
            answer: dict[str, Any] = self.client("sts").get_caller_identity()
        return answer

    @cached_property
    def _access(self) -> AwsAccess:
        # Nobody wants to wait for a doctor who tries for minutes.
        return replace(aws_access(self.settings), max_attempts=2, connect_timeout_seconds=5)

    def client(self, service: str) -> Any:
        """A client of a service.

        Raises:
            AwsError: there are no credentials, or no such profile.
        """
        return self._access.client(service)


@dataclass(frozen=True, slots=True)
class Check:
    """One thing to look at.

    Attributes:
        name: what its findings are about.
        look: finds; may raise.
        needs: checks without whose success this one can't tell anything.
        action: the action whose denial only keeps the doctor from looking; empty where the
            pipeline itself needs it.
    """

    name: str
    look: Callable[[Setup], Iterator[Finding]]
    needs: tuple[str, ...] = ()
    action: str = ""
