"""Releases and the pointer: what is read back is what was written, or is refused."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from reelroute.aws import AwsAccess
from reelroute.errors import ReleaseError
from reelroute.release import (
    KEPT_MODELS,
    BedrockModel,
    LocalModel,
    ModelFile,
    Prompt,
    Reader,
    Release,
    ReleasePointer,
    ReleaseRef,
    fetch_model,
    open_release,
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


# --- opening -----------------------------------------------------------------------------------


def write(folder: Path, data: bytes, **pointer: Any) -> str:
    """A release and its pointer as files; where the pointer lies."""
    (folder / "2026-w01.json").write_bytes(data)
    (folder / "current.json").write_bytes(pointer_to(data, **pointer).to_bytes())
    return str(folder / "current.json")


def test_the_release_that_the_pointer_names_is_opened_as_it_is_now(tmp_path: Path) -> None:
    read = Reader(AwsAccess())
    assert open_release(write(tmp_path, release().to_bytes()), read) == release()
    later = release(run_id="run-2")
    assert open_release(write(tmp_path, later.to_bytes(), serial=2), read) == later


def test_a_release_that_is_missing_or_altered_is_not_opened(tmp_path: Path) -> None:
    read = Reader(AwsAccess())
    uri = write(tmp_path, release().to_bytes())
    (tmp_path / "2026-w01.json").write_bytes(release(run_id="run-2").to_bytes())
    with pytest.raises(ReleaseError, match=r"2026-w01\.json is not the file .* \(hash differs\)"):
        open_release(uri, read)
    (tmp_path / "2026-w01.json").unlink()
    with pytest.raises(ReleaseError, match=r"2026-w01\.json can't be read"):
        open_release(uri, read)


# --- the cache of models -----------------------------------------------------------------------

HOUR = 3_600.0
FILES = ("card.json", "model.onnx")


class Models:
    """Models in a folder of releases, and the cache on this machine that they are fetched to."""

    def __init__(self, folder: Path) -> None:
        self.uri = str(folder / "releases" / "current.json")
        self.cache = folder / "cache"
        self.asked: list[str] = []
        self.meanwhile: Callable[[], Any] = lambda: None

    def model(self, name: str) -> LocalModel:
        texts = {file: f"{name} {file}".encode() for file in FILES}
        files = [ModelFile(name=n, sha256=sha256(d), bytes=len(d)) for n, d in texts.items()]
        model = LocalModel(fingerprint=sha256(name.encode()), files=tuple(files))
        for file, data in texts.items():
            path = Path(self.uri).parent / model.place(file)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        return model

    def read(self, place: str) -> bytes:
        self.asked.append(place)
        meanwhile, self.meanwhile = self.meanwhile, lambda: None
        meanwhile()
        return Path(place).read_bytes()

    def fetch(self, name: str) -> Path:
        folder = fetch_model(self.model(name), self.uri, self.read, self.cache)  # type: ignore[arg-type]
        assert self.complete(name)
        return folder

    def have(self, **hours: float) -> None:
        """Models that were used so many hours ago."""
        for name in hours:
            self.fetch(name)
        for name, ago in hours.items():
            self.used(name, ago)

    def used(self, name: str, hours_ago: float) -> None:
        moment = time.time() - hours_ago * HOUR
        os.utime(self.cache / sha256(name.encode()), (moment, moment))

    def complete(self, name: str) -> bool:
        folder = self.cache / sha256(name.encode())
        return all((folder / file).read_text() == f"{name} {file}" for file in FILES)

    def kept(self, names: str) -> str:
        """Those of the models that are in the cache."""
        return "".join(n for n in names if (self.cache / sha256(n.encode())).exists())


@pytest.fixture
def models(tmp_path: Path) -> Models:
    return Models(tmp_path)


def test_beyond_five_the_models_used_longest_ago_are_removed(models: Models) -> None:
    models.have(a=5, b=8, c=2, d=3, e=9, f=7, g=4, h=6)
    assert models.kept("abcdefgh") == "abcdefgh"
    models.fetch("new")
    assert KEPT_MODELS == 5
    assert models.kept("abcdefgh") == "acdg"
    assert models.complete("new")


def test_a_model_that_is_used_again_outlives_those_fetched_after_it(models: Models) -> None:
    models.have(a=30, b=20, c=10, d=8, e=6)
    asked = len(models.asked)
    models.fetch("a")
    assert len(models.asked) == asked
    models.fetch("f")
    assert models.kept("abcdef") == "acdef"


@pytest.mark.parametrize(("hours_ago", "kept"), [(0.9, "abcdefg"), (1.1, "defg")])
def test_a_model_used_within_the_last_hour_stays(
    hours_ago: float, kept: str, models: Models
) -> None:
    models.have(**{name: hours_ago + place / 1_000 for place, name in enumerate("gfedcba")})
    models.fetch("new")
    assert models.kept("abcdefg") == kept


def test_a_model_that_is_being_verified_is_not_removed_by_another_process(models: Models) -> None:
    (models.fetch("a") / FILES[-1]).unlink()
    models.used("a", 9)
    models.meanwhile = lambda: [models.fetch(name) for name in "bcdefg"]
    models.fetch("a")


def test_a_model_that_comes_into_use_while_others_are_removed_stays(
    models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    models.have(a=9, b=8, c=7, d=6, e=5, f=4)
    real = shutil.rmtree

    def slowly(folder: Path) -> None:
        real(folder)
        models.used("a", 0)

    monkeypatch.setattr(shutil, "rmtree", slowly)
    models.fetch("new")
    assert models.kept("abcdef") == "acdef"


def test_the_model_just_fetched_stays_whatever_the_clocks_say(
    models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    models.have(a=-4, b=-4, c=-4, d=-4, e=-4, f=-4)
    later = time.time() + 9 * HOUR  # the cache lies on a server whose clock is behind
    with monkeypatch.context() as patched:
        patched.setattr(time, "time", lambda: later)
        models.fetch("new")
    assert models.complete("new")
    assert len(models.kept("abcdef")) == 4


def test_nothing_is_removed_unless_a_model_was_fetched_and_verified(models: Models) -> None:
    models.have(a=5, b=5, c=5, d=5, e=5, f=5, g=5)
    models.fetch("a")
    altered = models.model("new")
    (Path(models.uri).parent / altered.place(FILES[-1])).write_text("altered")
    with pytest.raises(ReleaseError, match="hash differs"):
        fetch_model(altered, models.uri, models.read, models.cache)  # type: ignore[arg-type]
    assert models.kept("abcdefg") == "abcdefg"


def test_only_folders_of_models_are_removed(models: Models, tmp_path: Path) -> None:
    models.have(a=3, b=3, c=3, d=3, e=3, f=3)
    notes, elsewhere = models.cache / "my-notes", tmp_path / "elsewhere"
    for folder in (notes, elsewhere):
        folder.mkdir()
    os.utime(notes, (0, 0))
    # Named as models, but neither folders of their own nor counted as models.
    link, file = models.cache / ("0" * 64), models.cache / ("1" * 64)
    link.symlink_to(elsewhere)
    file.write_text("")
    models.fetch("new")
    assert len(models.kept("abcdef")) == KEPT_MODELS - 1
    assert all(path.exists() for path in (notes, elsewhere, link, file))


def test_what_cannot_be_removed_is_told_to_those_who_debug(
    models: Models, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", "reelroute")
    models.have(a=4, b=9, c=8, d=3, e=2.5, f=2)
    real, stuck = shutil.rmtree, models.cache / sha256(b"c")

    def removed(folder: Path) -> None:
        if folder == stuck:
            raise PermissionError("in use")
        real(folder)

    monkeypatch.setattr(shutil, "rmtree", removed)
    models.fetch("new")
    assert models.kept("abcdef") == "acdef"
    assert f"{stuck} can't be removed: in use" in caplog.messages
    assert {record.levelname for record in caplog.records} == {"DEBUG"}


def test_a_cache_that_cannot_be_listed_or_marked_is_used_all_the_same(
    models: Models, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refused(*_: Any) -> Any:
        raise PermissionError("not yours")

    caplog.set_level("DEBUG", "reelroute")
    monkeypatch.setattr(os, "utime", refused)
    monkeypatch.setattr(Path, "iterdir", refused)
    models.fetch("a")
    assert f"{models.cache} can't be cleaned up: not yours" in caplog.messages
    assert {record.levelname for record in caplog.records} == {"DEBUG"}
