"""The answer store: what was answered is in the bucket before it is used, and never asked again."""

from __future__ import annotations

import gzip
from datetime import UTC, datetime, timedelta
from threading import Barrier, Event

import pytest

from reelroute.errors import AwsError, RetryableAwsError, StageError
from tasks.answers import Answer, AnswerStore, request_key
from tasks.storage import Storage
from tests.support import CallsSince, Place, fault, in_threads

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def answer(key: str, text: str = "{}", status: str = "usable", minutes: int = 0) -> Answer:
    return Answer.model_validate(
        {
            "key": key,
            "status": status,
            "texts": (text,),
            "run_id": "run-1",
            "at": NOON + timedelta(minutes=minutes),
        }
    )


def parts(storage: Storage, prefix: str = "store") -> list[str]:
    return list(storage.keys(f"{prefix}/"))


def texts(storage: Storage, prefix: str = "store") -> dict[str, str]:
    """What a process that starts now finds."""
    return {a.key: a.texts[-1] for a in AnswerStore(storage, prefix).values()}


def test_an_answer_is_in_the_bucket_when_put_returns(place: Place) -> None:
    storage = place.storage()
    store = AnswerStore(storage, "store")
    store.put(answer("a", "first"))
    assert texts(storage) == {"a": "first"}
    found = store.get("a")
    assert found is not None
    assert found.texts == ("first",)
    assert store.get("b") is None
    assert len(store) == 1


def test_many_threads_lose_no_answer(place: Place) -> None:
    storage = place.storage()
    store = AnswerStore(storage, "store")
    in_threads(lambda n: store.put(answer(f"k{n}", str(n))), range(120))
    assert texts(storage) == {f"k{n}": str(n) for n in range(120)}


class SlowStorage(Storage):
    """Holds the first write back until it is let go."""

    def __init__(self, place: Place) -> None:
        super().__init__(place.settings())
        self.writing, self.go_on = Event(), Event()

    def put(self, key: str, data: bytes, content_type: str = "application/octet-stream") -> None:
        if not self.writing.is_set():
            self.writing.set()
            self.go_on.wait(30)
        super().put(key, data, content_type)


def test_answers_that_arrive_while_a_part_is_written_share_the_next_one(place: Place) -> None:
    storage = SlowStorage(place)
    store = AnswerStore(storage, "store")
    waiting = Barrier(9)

    def put(n: int) -> None:
        if n:
            storage.writing.wait(30)
            waiting.wait(30)
        store.put(answer(f"k{n}"))

    def let_go() -> None:
        waiting.wait(30)
        while True:  # until all eight wait for their turn
            with store._lock:
                if len(store._pending) == 8:
                    break
        storage.go_on.set()

    in_threads(lambda n: let_go() if n == 9 else put(n), range(10))
    assert len(parts(storage)) == 2
    assert set(texts(storage)) == {f"k{n}" for n in range(9)}


def test_there_are_fewer_parts_than_answers_under_concurrency(place: Place) -> None:
    storage = place.storage()
    store = AnswerStore(storage, "store")
    in_threads(lambda n: store.put(answer(f"k{n}")), range(200), threads=16)
    assert len(parts(storage)) < 200


class Killed(BaseException):
    """The process ends here."""


class DyingStorage(Storage):
    """Ends the process at the n-th write, before anything of it is stored."""

    def __init__(self, place: Place, at: int) -> None:
        super().__init__(place.settings())
        self.left = at

    def put(self, key: str, data: bytes, content_type: str = "application/octet-stream") -> None:
        self.left -= 1
        if self.left <= 0:
            raise Killed
        super().put(key, data, content_type)


def test_a_kill_loses_at_most_what_was_in_flight(place: Place) -> None:
    storage = DyingStorage(place, at=4)
    store = AnswerStore(storage, "store")
    for n in range(3):
        store.put(answer(f"k{n}"))
    with pytest.raises(Killed):
        store.put(answer("k3"))
    assert set(texts(place.storage())) == {"k0", "k1", "k2"}


def test_an_answer_whose_write_failed_goes_along_with_the_next(place: Place) -> None:
    storage = place.storage()
    store = AnswerStore(storage, "store")
    with fault(place.aws, "wrong-credentials"), pytest.raises(AwsError):
        store.put(answer("a"))
    store.put(answer("b"))
    assert set(texts(storage)) == {"a", "b"}


def test_an_answer_whose_write_failed_is_stored_when_it_is_looked_for(place: Place) -> None:
    """So a task that is tried again does not pay for it twice."""
    store = AnswerStore(place.storage(), "s")
    with fault(place.aws, "server-error", operations=["PutObject"]), pytest.raises(AwsError):
        store.put(answer("a"))
    assert list(place.storage().keys("s/")) == []
    found = store.get("a")
    assert found is not None
    assert AnswerStore(place.storage(), "s").get("a") == found


class DeafStorage(Storage):
    """Writes, and does not hear of it, once."""

    deaf = True

    def put(self, key: str, data: bytes, content_type: str = "application/octet-stream") -> None:
        super().put(key, data, content_type)
        if self.deaf:
            self.deaf = False
            raise RetryableAwsError("the answer was lost")


def test_a_part_whose_writing_was_not_heard_of_stays_as_it_is_and_its_answers_come_again(
    place: Place,
) -> None:
    storage = DeafStorage(place.settings())
    store = AnswerStore(storage, "store")
    with pytest.raises(RetryableAwsError):
        store.put(answer("a"))
    first = {key: storage.get(key) for key in parts(storage)}
    store.put(answer("b"))
    assert {key: storage.get(key) for key in first} == first  # others may have read it
    assert len(parts(storage)) == 2
    store.compact()
    assert len(parts(storage)) == 1
    assert set(texts(storage)) == {"a", "b"}


def test_compaction_stores_first_what_could_not_be_stored(place: Place) -> None:
    storage = DeafStorage(place.settings())
    store = AnswerStore(storage, "store")
    with pytest.raises(RetryableAwsError):
        store.put(answer("a"))
    store.compact()
    assert set(texts(storage)) == {"a"}


def test_its_own_parts_are_neither_read_again_nor_left_after_a_second_compaction(
    place: Place, calls: CallsSince
) -> None:
    storage = place.storage()
    store = AnswerStore(storage, "store")
    for keys in (("a", "b"), ("c", "d")):
        for key in keys:
            store.put(answer(key))
        before = calls.count("GetObject")
        store.refresh()
        assert calls.count("GetObject") == before
        store.compact()
        assert len(parts(storage)) == 1
    assert set(texts(storage)) == {"a", "b", "c", "d"}


def test_usable_beats_quarantined_whichever_came_last(place: Place) -> None:
    storage = place.storage()
    store = AnswerStore(storage, "store")
    store.put(answer("a", "good", minutes=0))
    store.put(answer("a", "bad", status="quarantined", minutes=5))
    store.put(answer("b", "bad", status="quarantined", minutes=5))
    store.put(answer("b", "good", minutes=0))
    found = {a.key: a.texts[-1] for a in store.values()}
    assert found == texts(storage) == {"a": "good", "b": "good"}


def test_of_two_usable_answers_the_newer_counts_in_any_order_of_parts(place: Place) -> None:
    storage = place.storage()
    store = AnswerStore(storage, "store")
    store.put(answer("a", "new", minutes=5))
    store.put(answer("a", "old", minutes=0))
    assert texts(storage) == {"a": "new"}


def test_compaction_joins_all_parts_and_changes_no_answer(place: Place) -> None:
    storage = place.storage()
    store = AnswerStore(storage, "store")
    for n in range(5):
        store.put(answer(f"k{n}", str(n)))
    before = texts(storage)
    store.compact()
    assert len(parts(storage)) == 1
    assert texts(storage) == before


def test_compacting_twice_is_compacting_once(place: Place) -> None:
    storage = place.storage()
    store = AnswerStore(storage, "store")
    store.put(answer("a"))
    store.put(answer("b"))
    store.compact()
    once = parts(storage)
    store.compact()
    AnswerStore(storage, "store").compact()
    assert parts(storage) == once


def test_an_empty_store_compacts_to_nothing(place: Place) -> None:
    storage = place.storage()
    AnswerStore(storage, "store").compact()
    assert parts(storage) == []


def test_compaction_takes_along_what_another_process_wrote_meanwhile(place: Place) -> None:
    storage = place.storage()
    mine, other = AnswerStore(storage, "store"), AnswerStore(storage, "store")
    mine.put(answer("mine"))
    other.put(answer("other"))
    mine.compact()
    assert set(texts(storage)) == {"mine", "other"}
    assert mine.get("other") is not None


def test_two_processes_that_compact_together_lose_nothing(place: Place) -> None:
    storage = place.storage()
    stores = [AnswerStore(storage, "store") for _ in range(4)]
    for n, store in enumerate(stores):
        store.put(answer(f"k{n}a"))
        store.put(answer(f"k{n}b"))
    outcomes = in_threads(lambda store: store.compact(), stores, threads=4)
    assert not [error for error in outcomes if error]
    assert set(texts(storage)) == {f"k{n}{half}" for n in range(4) for half in "ab"}


class VanishingStorage(Storage):
    """Another process joins the parts between this one's listing and its reading."""

    def __init__(self, place: Place) -> None:
        super().__init__(place.settings())
        self.armed = True

    def get(self, key: str):  # type: ignore[no-untyped-def]
        if self.armed:
            self.armed = False
            AnswerStore(Storage(self.profile), "store").compact()
        return super().get(key)


def test_a_part_that_vanishes_while_it_is_read_is_found_in_the_joined_file(place: Place) -> None:
    storage = place.storage()
    store = AnswerStore(storage, "store")
    store.put(answer("a"))
    store.put(answer("b"))
    vanishing = VanishingStorage(place)
    vanishing.profile = place.settings()  # type: ignore[attr-defined]
    assert {a.key for a in AnswerStore(vanishing, "store").values()} == {"a", "b"}


class InterruptedStorage(Storage):
    """Ends the process after the joined file is written, before the parts are deleted."""

    def delete(self, keys: list[str]) -> None:
        raise Killed


def test_a_kill_in_the_middle_of_compaction_loses_and_doubles_nothing(place: Place) -> None:
    storage = InterruptedStorage(place.settings())
    store = AnswerStore(storage, "store")
    store.put(answer("a"))
    store.put(answer("b"))
    with pytest.raises(Killed):
        store.compact()
    assert len(parts(storage)) == 3
    again = AnswerStore(place.storage(), "store")
    assert len(again) == 2
    again.compact()
    assert len(parts(storage)) == 1
    assert set(texts(storage)) == {"a", "b"}


def test_the_joined_file_has_the_same_bytes_for_the_same_answers(place: Place) -> None:
    storage = place.storage()
    for prefix, order in (("one", "abc"), ("two", "cab")):
        store = AnswerStore(storage, prefix)
        for key in order:
            store.put(answer(key))
        store.compact()
    (one,), (two,) = parts(storage, "one"), parts(storage, "two")
    assert one.rpartition("/")[2] == two.rpartition("/")[2]


def test_a_line_that_is_no_answer_is_named_with_what_to_do(place: Place) -> None:
    storage = place.storage()
    storage.put("store/part-x.jsonl", b'{"key": "a"}\n')
    with pytest.raises(StageError, match=r"part-x\.jsonl holds a line .* Move the file away"):
        AnswerStore(storage, "store")


def test_half_a_joined_file_is_a_sentence_too(place: Place) -> None:
    storage = place.storage()
    storage.put("store/joined-x.jsonl.gz", gzip.compress(b"{}\n" * 50)[:20])
    with pytest.raises(StageError, match=r"joined-x\.jsonl\.gz"):
        AnswerStore(storage, "store")


def test_stores_under_other_prefixes_are_apart(place: Place) -> None:
    storage = place.storage()
    AnswerStore(storage, "store").put(answer("a"))
    assert len(AnswerStore(storage, "store-2")) == 0


def test_a_requests_key_depends_on_every_part_and_its_limits() -> None:
    keys = {
        request_key(*parts) for parts in (("ab", "c"), ("a", "bc"), ("abc",), ("abc", ""), ("c",))
    }
    assert len(keys) == 5
    assert request_key("ab", "c") == request_key("ab", "c")
