"""Releases in the bucket: written once, and the pointer that moves conditionally."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from reelroute.errors import ReleaseError
from reelroute.release import BedrockModel, Prompt, Release, ReleaseRef
from tasks.releases import (
    MAX_HISTORY,
    POINTER_KEY,
    current_pointer,
    load_release,
    move_pointer,
    release_before,
    write_release,
)
from tasks.storage import Storage
from tests.support import Place, in_threads

ARN = "arn:aws:bedrock:us-east-1:123456789012:custom-model-deployment/0123456789ab"


def release(version: str = "run-1-aaaa", run_id: str = "run-1", **more: Any) -> Release:
    return Release(
        version=version,
        run_id=run_id,
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
        router="bedrock",
        prompt=Prompt.of("prompt"),
        bedrock=BedrockModel(
            deployment_arn=ARN, model_arn=ARN, fingerprint=version, region="r", max_tokens=9
        ),
        **more,
    )


def move_to(storage: Storage, to: Release) -> ReleaseRef:
    ref = write_release(storage, to)
    move_pointer(storage, current_pointer(storage), ref, "promote")
    return ref


def test_before_the_first_release_there_is_no_pointer(place: Place) -> None:
    assert current_pointer(place.storage()) is None
    assert release_before(place.run()) is None


def test_a_release_is_written_once_and_may_be_written_again(place: Place) -> None:
    storage = place.storage()
    ref = write_release(storage, release())
    assert write_release(storage, release()) == ref
    assert load_release(storage, ref) == release()


def test_another_release_of_the_same_version_is_refused(place: Place) -> None:
    storage = place.storage()
    ref = write_release(storage, release())
    with pytest.raises(ReleaseError, match="hash differs"):
        write_release(storage, release(evaluation={"rubric": 5}))
    assert load_release(storage, ref) == release()


def test_a_release_that_is_gone_or_changed_is_an_error(place: Place) -> None:
    storage = place.storage()
    ref = write_release(storage, release())
    storage.put("releases/run-1-aaaa.json", b"{}")
    with pytest.raises(ReleaseError, match="hash differs"):
        load_release(storage, ref)
    storage.delete(["releases/run-1-aaaa.json"])
    with pytest.raises(ReleaseError, match="release run-1-aaaa is gone"):
        load_release(storage, ref)


def test_the_pointer_remembers_the_releases_before(place: Place) -> None:
    storage = place.storage()
    refs = [move_to(storage, release(f"v-{n}")) for n in range(3)]
    current = current_pointer(storage)
    assert current is not None
    pointer = current.pointer
    assert (pointer.version, pointer.serial, pointer.action) == ("v-2", 3, "promote")
    assert pointer.history == (refs[1], refs[0])


def test_the_pointer_forgets_what_lies_very_far_back(place: Place) -> None:
    storage = place.storage()
    refs = [ReleaseRef(version=f"v-{n}", sha256="0" * 64) for n in range(MAX_HISTORY + 3)]
    for ref in refs:
        move_pointer(storage, current_pointer(storage), ref, "promote")
    current = current_pointer(storage)
    assert current is not None
    assert len(current.pointer.history) == MAX_HISTORY
    assert current.pointer.history[0] == refs[-2]


def test_of_many_who_make_the_first_pointer_exactly_one_wins(place: Place) -> None:
    storage = place.storage()
    refs = [ReleaseRef(version=f"v-{n}", sha256="0" * 64) for n in range(8)]
    outcomes = in_threads(lambda ref: move_pointer(storage, None, ref, "promote"), refs)
    lost = [outcome for outcome in outcomes if isinstance(outcome, ReleaseError)]
    assert len(lost) == 7
    assert "nothing was changed" in str(lost[0])
    current = current_pointer(storage)
    assert current is not None
    assert [o.version for o in outcomes if not isinstance(o, Exception)] == [
        current.pointer.version
    ]


def test_a_lost_race_changes_nothing(place: Place) -> None:
    storage = place.storage()
    move_to(storage, release("v-0"))
    seen = current_pointer(storage)
    move_to(storage, release("v-1"))
    before = storage.get(POINTER_KEY)
    with pytest.raises(ReleaseError, match="moved by somebody else"):
        move_pointer(storage, seen, write_release(storage, release("v-2")), "promote")
    assert storage.get(POINTER_KEY) == before


def test_a_rollback_keeps_counting_and_forgets_what_it_left(place: Place) -> None:
    storage = place.storage()
    first, _ = move_to(storage, release("v-0")), move_to(storage, release("v-1"))
    old = storage.get(POINTER_KEY)
    back = move_pointer(storage, current_pointer(storage), first, "rollback")
    assert (back.version, back.serial, back.action, back.history) == ("v-0", 3, "rollback", ())
    new = storage.get(POINTER_KEY)
    assert old is not None
    assert new is not None
    assert old.etag != new.etag


def test_a_pointer_that_is_none_is_named(place: Place) -> None:
    storage = place.storage()
    storage.put(POINTER_KEY, b'{"version": ')
    with pytest.raises(ReleaseError, match=r"releases/current\.json is not a release pointer"):
        current_pointer(storage)


def test_the_release_before_a_run_is_not_its_own(place: Place) -> None:
    storage = place.storage()
    move_to(storage, release("v-0", run_id="run-0"))
    run = place.run("run-1")
    assert release_before(run) == release("v-0", run_id="run-0")
    move_to(storage, release("v-1", run_id="run-1"))
    assert release_before(run) == release("v-0", run_id="run-0")
    assert release_before(place.run("run-2")) == release("v-1", run_id="run-1")
