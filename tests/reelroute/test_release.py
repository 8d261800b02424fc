"""Releases and the pointer: what is read back is what was written, or is refused."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from reelroute.errors import ReleaseError
from reelroute.release import (
    BedrockModel,
    Prompt,
    Release,
    ReleasePointer,
    ReleaseRef,
    read_pointer,
    read_release,
    sha256,
)

settings.register_profile("steady", deadline=None, derandomize=True)
settings.load_profile("steady")

NOW = datetime(2026, 1, 5, 9, tzinfo=UTC)


def release(version: str = "2026-w01", **fields: Any) -> Release:
    values = {
        "version": version,
        "run_id": "run-1",
        "created_at": NOW,
        "router": "bedrock",
        "prompt": Prompt.of("Route: {query}"),
        "bedrock": BedrockModel(
            deployment_arn="arn:aws:bedrock:us-east-1:123456789012:custom-model-deployment/a",
            model_arn="arn:aws:bedrock:us-east-1:123456789012:custom-model/b",
            fingerprint="f",
            region="us-east-1",
            max_tokens=300,
        ),
        "evaluation": {"rubric": 3.5},
    }
    return Release.model_validate(values | fields)


def pointer_to(data: bytes, version: str = "2026-w01", **fields: Any) -> ReleasePointer:
    values = {
        "version": version,
        "sha256": sha256(data),
        "serial": 1,
        "moved_at": NOW,
        "action": "promote",
    }
    return ReleasePointer.model_validate(values | fields)


def test_a_release_is_read_back_as_it_was_written() -> None:
    written = release()
    data = written.to_bytes()
    assert read_release(data, pointer_to(data), "here") == written
    assert data.endswith(b"}\n")


def test_a_pointer_is_read_back_as_it_was_written() -> None:
    older = tuple(ReleaseRef(version=v, sha256=sha256(v.encode())) for v in ("b", "a"))
    written = pointer_to(b"", serial=3, action="rollback", history=older)
    assert read_pointer(written.to_bytes(), "here") == written


@given(st.integers(0, 10_000), st.integers(1, 255))
def test_a_release_with_any_byte_changed_is_refused(place: int, change: int) -> None:
    data = bytearray(release().to_bytes())
    pointer = pointer_to(bytes(data))
    data[place % len(data)] ^= change
    with pytest.raises(ReleaseError, match="here is not the file that the release pointer names"):
        read_release(bytes(data), pointer, "here")


def test_a_release_of_another_version_is_refused_even_with_the_right_hash() -> None:
    data = release("other").to_bytes()
    with pytest.raises(ReleaseError, match="here holds 'other', not '2026-w01'"):
        read_release(data, pointer_to(data), "here")


@pytest.mark.parametrize("data", [b"", b"{}", b"null", b"\xff", b'{"version": "a"}'])
def test_a_file_that_is_no_release_is_refused_by_its_name(data: bytes) -> None:
    with pytest.raises(ReleaseError, match="here is not a release"):
        read_release(data, pointer_to(data), "here")


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b"\xff", b"[" * 100_000])
def test_a_file_that_is_no_pointer_is_refused_by_its_name(data: bytes) -> None:
    with pytest.raises(ReleaseError, match="here is not a release pointer"):
        read_pointer(data, "here")


@given(st.binary())
def test_bytes_of_any_kind_are_refused_as_a_release_error(data: bytes) -> None:
    with pytest.raises(ReleaseError):
        read_pointer(data, "here")


@pytest.mark.parametrize("version", ["", "-a", "A", "a/b", "../a", "a\n", "a" * 64])
def test_a_version_that_is_no_safe_file_name_is_refused(version: str) -> None:
    with pytest.raises(ValidationError, match="version"):
        release(version)
    with pytest.raises(ValidationError, match="version"):
        pointer_to(b"", version)


@pytest.mark.parametrize("fields", [{"serial": 0}, {"action": "delete"}, {"note": "x"}])
def test_a_pointer_outside_the_contract_is_refused(fields: dict[str, Any]) -> None:
    data = json.dumps(pointer_to(b"").model_dump(mode="json") | fields).encode()
    with pytest.raises(ReleaseError, match=next(iter(fields))):
        read_pointer(data, "here")


def test_two_pointers_to_the_same_release_differ_by_their_serial() -> None:
    assert pointer_to(b"", serial=1).to_bytes() != pointer_to(b"", serial=2).to_bytes()


def test_a_prompt_carries_its_hash() -> None:
    assert Prompt.of("Route!").sha256 == hashlib.sha256(b"Route!").hexdigest()
