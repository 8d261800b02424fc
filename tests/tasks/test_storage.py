"""The bucket: whole objects, conditional writes with one winner, and nothing half-written."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from data_contracts.runs import StoredFile
from reelroute.errors import AwsError, RetryableAwsError, StageError
from tasks.storage import Storage
from tests.support import CallsSince, Place, fault, hits_of, in_threads

#: Seeds with which a rate of a half hits the first call and not the second.
FIRST_OF_TWO = {
    kind: next(seed for seed in range(99) if hits_of(kind, seed) == [True, False])
    for kind in ("server-error-after", "dropped-after", "cut-off")
}


def stored(key: str, data: bytes) -> StoredFile:
    return StoredFile(key=key, sha256=hashlib.sha256(data).hexdigest(), bytes=len(data))


def test_an_object_reads_back_as_it_was_written(place: Place) -> None:
    storage = place.storage()
    storage.put("a/b.txt", b"bytes \xff", "text/plain")
    found = storage.get("a/b.txt")
    assert found is not None
    assert found.data == b"bytes \xff"


def test_an_object_that_is_not_there_is_none(place: Place) -> None:
    assert place.storage().get("nothing") is None


@pytest.mark.parametrize(
    ("key", "tags"),
    [("runs/1/quarantine/label.jsonl", [("kind", "quarantine")]), ("runs/1/quarantine.md", [])],
)
def test_quarantined_texts_carry_the_tag_by_which_they_expire(
    key: str, tags: list[tuple[str, str]], place: Place
) -> None:
    place.storage().put(key, b"{}")
    found = place.aws.client("s3").get_object_tagging(Bucket=place.bucket, Key=key)["TagSet"]
    assert [(tag["Key"], tag["Value"]) for tag in found] == tags


def test_objects_are_encrypted_and_typed(place: Place) -> None:
    place.storage().put("a.md", b"# a", "text/markdown")
    head = place.aws.client("s3").head_object(Bucket=place.bucket, Key="a.md")
    assert (head["ServerSideEncryption"], head["ContentType"]) == ("AES256", "text/markdown")


def test_of_many_who_write_a_new_object_exactly_one_wins(place: Place) -> None:
    storage = place.storage()
    won = in_threads(lambda n: storage.put_new("claim.json", b"%d" % n), range(16))
    assert sorted(won) == [False] * 15 + [True]
    found = storage.get("claim.json")
    assert found is not None
    assert found.data == b"%d" % won.index(True)


def test_of_many_who_replace_the_same_version_exactly_one_wins(place: Place) -> None:
    storage = place.storage()
    assert storage.put_new("pointer.json", b"first")
    before = storage.get("pointer.json")
    assert before is not None
    won = in_threads(
        lambda n: storage.replace("pointer.json", b"next %d" % n, before.etag), range(16)
    )
    assert won.count(True) == 1
    after = storage.get("pointer.json")
    assert after is not None
    assert after.data == b"next %d" % won.index(True)


def test_replacing_what_is_gone_writes_nothing(place: Place) -> None:
    storage = place.storage()
    assert storage.replace("gone.json", b"x", '"0123"') is False
    assert storage.get("gone.json") is None


@pytest.mark.parametrize("kind", ["server-error-after", "dropped-after"])
def test_a_conditional_write_whose_answer_is_lost_is_ones_own(kind: str, place: Place) -> None:
    storage = place.storage(place.settings(aws__max_attempts=3))
    how = {"rate": 0.5, "seed": FIRST_OF_TWO[kind], "operations": ["PutObject"]}
    with fault(place.aws, kind, **how):
        assert storage.put_new("new.json", b"mine")
    before = storage.get("new.json")
    assert before is not None
    with fault(place.aws, kind, **how):
        assert storage.replace("new.json", b"mine again", before.etag)
    assert storage.put_new("new.json", b"theirs") is False
    assert storage.replace("new.json", b"theirs", before.etag) is False
    after = storage.get("new.json")
    assert after is not None
    assert after.data == b"mine again"


def test_two_who_write_the_same_bytes_are_told_apart(place: Place) -> None:
    storage = place.storage()
    assert [storage.put_new("same.json", b"{}") for _ in range(2)] == [True, False]


def test_what_breaks_off_while_it_is_read_is_read_again(place: Place) -> None:
    storage = place.storage()
    storage.put("long.txt", b"x" * 10_000)
    good = storage.get("long.txt")
    with fault(place.aws, "cut-off", rate=0.5, seed=FIRST_OF_TWO["cut-off"]):
        assert storage.get("long.txt") == good
        assert place.aws.faults.on()[0]["hits"] == 1


def test_what_always_breaks_off_may_be_tried_again_later(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reelroute.aws._backoff", lambda attempt: 0.0)
    storage = place.storage()
    storage.put("long.txt", b"x" * 10_000)
    with (
        fault(place.aws, "cut-off"),
        pytest.raises(RetryableAwsError, match=r"reading s3://.*long\.txt"),
    ):
        storage.get("long.txt")


def test_a_file_is_verified_by_its_bytes(place: Place) -> None:
    storage = place.storage()
    file = storage.put_file("f.txt", b"right", "text/plain")
    assert file == stored("f.txt", b"right")
    assert storage.verify(file)
    storage.put("f.txt", b"wrong")
    assert not storage.verify(file)
    storage.delete(["f.txt"])
    assert not storage.verify(file)


def test_the_same_content_is_written_once(place: Place, calls: CallsSince) -> None:
    storage = place.storage()
    first = storage.put_file("f.txt", b"right", "text/plain")
    written = calls.count("PutObject")
    assert storage.put_file("f.txt", b"right", "text/plain") == first
    assert calls.count("PutObject") == written == 1


def test_a_file_that_reads_back_otherwise_is_an_error(place: Place) -> None:
    storage = place.storage()
    put = storage.put

    def put_half(key: str, data: bytes, content_type: str = "") -> None:
        put(key, data[: len(data) // 2])

    storage.put = put_half  # type: ignore[method-assign]
    with pytest.raises(StageError, match="reads back other bytes than were written"):
        storage.put_file("f.txt", b"twice as long", "text/plain")


def test_reading_a_recorded_file_refuses_other_bytes_and_says_what_to_do(place: Place) -> None:
    storage = place.storage()
    file = storage.put_file("f.txt", b"right", "text/plain")
    assert storage.read(file) == b"right"
    storage.put("f.txt", b"wrong")
    with pytest.raises(StageError, match=r"f\.txt is not the file .* run its stage again"):
        storage.read(file)
    storage.delete(["f.txt"])
    with pytest.raises(StageError, match=r"f\.txt is gone; run its stage again"):
        storage.read(file)


def test_keys_and_folders_are_listed(place: Place) -> None:
    storage = place.storage()
    for key in ("runs/b/1", "runs/a/1", "runs/a/2", "other/x"):
        storage.put(key, b"")
    assert list(storage.keys("runs/a/")) == ["runs/a/1", "runs/a/2"]
    assert storage.folders("runs/") == ["a", "b"]
    assert storage.folders("nothing/") == []


def test_deleting_what_is_not_there_does_no_harm(place: Place) -> None:
    place.storage().delete(["nothing"])
    place.storage().delete([])


def test_a_missing_bucket_says_what_to_correct(place: Place) -> None:
    storage = place.storage(place.settings(storage__bucket="not-there"))
    with pytest.raises(
        AwsError, match=r"s3://not-there: the bucket doesn't exist.*storage\.bucket"
    ):
        storage.check()
    with pytest.raises(AwsError, match="the bucket doesn't exist"):
        storage.get("a")
    with pytest.raises(AwsError, match="the bucket doesn't exist"):
        storage.put_new("a", b"")
    with pytest.raises(AwsError, match="the bucket doesn't exist"):
        list(storage.keys("a"))


def test_wrong_credentials_say_where_to_look(place: Place) -> None:
    storage = place.storage()
    with (
        fault(place.aws, "wrong-credentials"),
        pytest.raises(AwsError, match=r"AWS refused the credentials .*aws\.profile"),
    ):
        storage.check()


def test_an_endpoint_that_nobody_answers_at_may_be_tried_again(place: Place) -> None:
    settings = place.settings(aws__endpoint_url="http://127.0.0.1:9")
    with pytest.raises(RetryableAwsError, match=r"aws\.endpoint_url"):
        place.storage(settings).check()


def test_a_missing_credentials_file_is_named(place: Place) -> None:
    settings = place.settings(aws__credentials_file="nowhere/credentials")
    with pytest.raises(AwsError, match=r"nowhere/credentials doesn't exist"):
        place.storage(settings)


def test_a_missing_profile_of_the_credentials_file_is_named(place: Place) -> None:
    with pytest.raises(AwsError, match="no AWS profile 'nobody'"):
        place.storage(place.settings(aws__profile="nobody"))


def test_every_call_names_the_buckets_owner_where_the_profile_does(
    place: Place, tmp_path: Path
) -> None:
    owned = Storage(place.settings(storage__bucket_owner="123456789012"))
    named: list[tuple[str, str | None]] = []

    def note(params: dict[str, Any], model: Any, **_: Any) -> None:
        headers = {name.lower(): value for name, value in params["headers"].items()}
        named.append((model.name, headers.get("x-amz-expected-bucket-owner")))

    client = owned._client
    client.meta.events.register("before-call.s3", note)
    try:
        owned.check()
        file = owned.put_file("a/b", b"1", "text/plain")
        assert owned.put_new("a/c", b"2")
        assert not owned.put_new("a/c", b"3")
        owned.read(file)
        owned.download("a/b", tmp_path / "b")
        assert owned.folders("") == ["a"]
        owned.delete(list(owned.keys("a/")))
    finally:
        client.meta.events.unregister("before-call.s3", note)
    assert {owner for _, owner in named} == {"123456789012"}
    assert {
        "DeleteObjects",
        "GetObject",
        "HeadObject",
        "ListObjectsV2",
        "PutObject",
    } <= {operation for operation, _ in named}


def test_pieces_are_one_object_whatever_its_size(place: Place) -> None:
    storage = place.storage()
    piece = b"0123456789abcdef" * 65_536  # 1 MiB: twenty of them are sent in parts
    file = storage.put_pieces("large", (piece for _ in range(20)), "text/plain")
    assert storage.read(file) == piece * 20
    assert storage.put_pieces("none", [], "text/plain").bytes == 0


def test_pieces_that_are_there_already_are_not_written_again(
    place: Place, calls: CallsSince
) -> None:
    storage = place.storage()
    first = storage.put_pieces("twice", [b"a", b"b"], "text/plain")
    assert storage.put_pieces("twice", [b"ab"], "text/plain") == first
    assert calls.count("PutObject") == 1
