"""The Bedrock conversation record: one line of a customization job's training file.

Source: the Amazon Bedrock user guide, "bedrock-conversation-2024" schema for distillation.
The service drops records that break it, so a bad one must never leave us: models are strict
and know no key beyond the service's.
"""

from __future__ import annotations

import json
from typing import Annotated, Final, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)

from reelroute.errors import ContractError
from reelroute.problems import first_problem

SCHEMA_VERSION: Final = "bedrock-conversation-2024"
#: The service's limits on the number of records in a distillation job.
MIN_RECORDS: Final = 100
MAX_RECORDS: Final = 15_000
#: The service's limit on a file's size, in bytes.
MAX_FILE_BYTES: Final = 1_000_000_000


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class TextBlock(_Strict):
    """A content block; only text is allowed."""

    text: Annotated[str, StringConstraints(min_length=1)]


class UserTurn(_Strict):
    """What is asked."""

    role: Literal["user"]
    content: list[TextBlock]


class AssistantTurn(_Strict):
    """What the teacher answered."""

    role: Literal["assistant"]
    content: list[TextBlock]


class ConversationRecord(_Strict):
    """One training record: optional system text, a user turn, optionally the answer to it."""

    schemaVersion: Literal["bedrock-conversation-2024"]  # noqa: N815 (the service's key)
    system: list[TextBlock] | None = None
    messages: list[Annotated[UserTurn | AssistantTurn, Field(discriminator="role")]]

    @model_validator(mode="after")
    def _one_exchange(self) -> ConversationRecord:
        if self.system is not None and len(self.system) != 1:
            raise ValueError(f"system holds {len(self.system)} blocks, exactly one is allowed")
        roles = [turn.role for turn in self.messages]
        if roles not in (["user"], ["user", "assistant"]):
            raise ValueError(
                f"messages hold the turns {roles}, allowed is one user turn, "
                "optionally followed by one assistant turn"
            )
        for turn in self.messages:
            if len(turn.content) != 1:
                raise ValueError(
                    f"the {turn.role} turn holds {len(turn.content)} blocks, exactly one is allowed"
                )
        return self

    @classmethod
    def of(cls, system: str, user: str, assistant: str | None = None) -> ConversationRecord:
        """A record from its texts."""
        turns: list[UserTurn | AssistantTurn] = [
            UserTurn(role="user", content=[TextBlock(text=user)])
        ]
        if assistant is not None:
            turns.append(AssistantTurn(role="assistant", content=[TextBlock(text=assistant)]))
        return cls(
            schemaVersion="bedrock-conversation-2024",
            system=[TextBlock(text=system)],
            messages=turns,
        )

    @property
    def user_text(self) -> str:
        """The query."""
        return self.messages[0].content[0].text

    @property
    def assistant_text(self) -> str | None:
        """The answer, where the record has one."""
        return self.messages[1].content[0].text if len(self.messages) == 2 else None

    def to_line(self) -> str:
        """The record as one line of JSON without a line end."""
        return self.model_dump_json(exclude_none=True)


def parse_line(line: str) -> ConversationRecord:
    """Read one line of a training file.

    Raises:
        ContractError: the line is not JSON or breaks the service's schema.
    """
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ContractError(f"not a line of JSON: {error}") from error
    if not isinstance(record, dict):
        raise ContractError(f"a JSON {type(record).__name__} where an object is expected")
    if record.get("system", ...) is None:
        raise ContractError("system is null: leave the key out instead")
    try:
        return ConversationRecord.model_validate_json(line)
    except ValidationError as error:
        raise ContractError(first_problem(error)) from error
