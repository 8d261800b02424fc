"""The router of the current release, from files: what is followed, kept, remembered, waited for."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import Any

import pytest
from botocore.exceptions import ClientError

from reelroute.aws import AwsAccess
from reelroute.errors import ReelRouteError, ReleaseError
from reelroute.limited_log import PAUSE_SECONDS, LimitedLog
from reelroute.release import KEPT_MODELS, Release, sha256
from reelroute.routers import BedrockRouter, QueryError, Router
from reelroute.service.answering import Answering
from reelroute.service.schemas import RouteRequest
from reelroute.service.settings import ServiceSettings
from tests.reelroute.routers.conftest import (
    BROKEN,
    HARD,
    MODEL,
    Open,
    SlowClient,
    Store,
    bedrock_model,
    cascade_fields,
    store_in_s3,
    until,
)
from tests.support import Place

FOLLOWING = {"follow_seconds": 0.005}


def threads(prefix: str = "reelroute-") -> set[str]:
    return {t.name for t in threading.enumerate() if t.name.startswith(prefix)}


@pytest.fixture(params=["files", "s3"])
def anywhere(request: pytest.FixtureRequest, store: Store) -> Store:
    """A store of each kind."""
    if request.param == "files":
        return store
    place: Place = request.getfixturevalue("place")
    return store_in_s3(place)


# --- following ---------------------------------------------------------------------------------


def test_a_new_release_is_followed(anywhere: Store, opened: Open) -> None:
    first = anywhere.promote("one")
    router = opened(anywhere, **FOLLOWING)
    assert router.route("a dog").router == "one"
    anywhere.promote("two")
    until(lambda: router.release.version == "two")
    assert router.route("a dog").router == "two"
    anywhere.roll_back(first)
    until(lambda: router.release.version == "one")
    assert router.route("a dog").router == "one"


def test_a_release_is_opened_once_however_often_the_pointer_is_read(
    store: Store, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = store.release("one")
    # Written by a later version of the library, whose files look otherwise.
    data = release.to_bytes() + b"\n"
    store.put("one.json", data)
    store.put("current.json", store.pointer(release, sha256=sha256(data)).to_bytes())
    router = opened(store)
    router.route("a dog")
    assert [router.refresh() for _ in range(3)] == [False] * 3
    assert router.cache_info.size == 1
    store.point(release, sha256=sha256(data), action="rollback")  # the serial alone has moved
    assert router.refresh() is False


Damage = Callable[[Store, Release], None]


def place_of(release: Release) -> str:
    assert release.local is not None
    return release.local.place(MODEL)


def flipped(data: bytes) -> bytes:
    return bytes([data[0] ^ 1]) + data[1:]


#: What may be wrong with a release before it is pointed at.
DAMAGES: dict[str, Damage] = {
    "a release that is not there": lambda store, to: store.delete("two.json"),
    "a release half written": lambda store, to: store.put("two.json", to.to_bytes()[:100]),
    "a release altered": lambda store, to: store.put("two.json", flipped(to.to_bytes())),
    "a model altered": lambda store, to: store.put(place_of(to), b"twO"),
    "a model half written": lambda store, to: store.put(place_of(to), b"t"),
    "a model that is not there": lambda store, to: store.delete(place_of(to)),
}
#: What may be wrong with the pointer to a good release.
POINTERS: dict[str, Callable[[bytes], bytes]] = {
    "half written": lambda data: data[:70],
    "empty": lambda data: b"",
    "junk": lambda data: b"\xff\x00",
    "of another hash": lambda data: data.replace(b'"sha256": "', b'"sha256": "0'),
    "out of the folder": lambda data: data.replace(b'"two"', b'"../two"'),
}


def stays_with_one(router: Any, store: Store, opened: Open, log: pytest.LogCaptureFixture) -> None:
    """The router says why it stays, still answers, and goes on to the next good release."""
    until(lambda: "release one stays at work" in log.text)
    assert router.release.version == "one"
    assert router.route("a dog").router == "one"
    for look in (router.refresh, lambda: opened(store)):  # the same damage is no start either
        with pytest.raises(ReelRouteError):
            look()
    store.promote("three")
    until(lambda: router.release.version == "three")
    assert router.route("a dog").router == "three"


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_release_leaves_the_old_one_at_work(
    damage: Damage, anywhere: Store, opened: Open, caplog: pytest.LogCaptureFixture
) -> None:
    anywhere.promote("one")
    router = opened(anywhere, **FOLLOWING)
    to = anywhere.release("two")
    damage(anywhere, to)
    anywhere.point(to)
    stays_with_one(router, anywhere, opened, caplog)


@pytest.mark.parametrize("spoil", POINTERS.values(), ids=POINTERS.keys())
def test_a_damaged_pointer_leaves_the_old_release_at_work(
    spoil: Callable[[bytes], bytes],
    anywhere: Store,
    opened: Open,
    caplog: pytest.LogCaptureFixture,
) -> None:
    anywhere.promote("one")
    router = opened(anywhere, **FOLLOWING)
    data = anywhere.pointer(anywhere.release("two")).to_bytes()
    anywhere.put("current.json", spoil(data))
    stays_with_one(router, anywhere, opened, caplog)


def test_a_pointer_that_is_gone_leaves_the_release_at_work(
    anywhere: Store, opened: Open, caplog: pytest.LogCaptureFixture
) -> None:
    anywhere.promote("one")
    router = opened(anywhere, **FOLLOWING)
    anywhere.delete("current.json")
    stays_with_one(router, anywhere, opened, caplog)


def test_a_model_that_does_not_load_leaves_the_old_release_at_work(
    anywhere: Store, opened: Open, caplog: pytest.LogCaptureFixture
) -> None:
    anywhere.promote("one")
    router = opened(anywhere, **FOLLOWING)
    anywhere.promote("two", name=BROKEN)
    stays_with_one(router, anywhere, opened, caplog)


def test_a_model_damaged_in_this_machines_cache_is_fetched_again(
    store: Store, opened: Open, tmp_path: Path
) -> None:
    store.promote("one")
    opened(store)
    (kept,) = (tmp_path / "cache").rglob(MODEL)
    kept.write_text("damaged")
    assert opened(store).route("a dog").router == "one"


def test_models_of_old_releases_make_room_on_this_machine(
    store: Store, opened: Open, tmp_path: Path
) -> None:
    releases = [store.promote("v0")]
    router = opened(store)
    models = tmp_path / "cache" / "reelroute" / "models"
    for n in range(1, 2 * KEPT_MODELS):
        for folder in models.iterdir():
            used = folder.stat().st_mtime - 7_200
            os.utime(folder, (used, used))
        releases.append(store.promote(f"v{n}"))
        assert router.refresh()
    kept = {release.local.fingerprint for release in releases[-KEPT_MODELS:] if release.local}
    assert {folder.name for folder in models.iterdir()} == kept
    store.roll_back(releases[0])  # whose model is gone from here, and fetched again
    assert router.refresh()
    assert router.route("a dog").router == "v0"


def test_a_model_that_is_opened_again_counts_as_used(
    store: Store, opened: Open, tmp_path: Path
) -> None:
    store.promote("one")
    opened(store)
    [folder] = (tmp_path / "cache" / "reelroute" / "models").iterdir()
    os.utime(folder, (0, 0))
    before = time.time() - 60
    opened(store)
    assert folder.stat().st_mtime > before


def test_a_cache_that_cannot_be_written_is_named(
    store: Store, opened: Open, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    store.promote("one")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("REELROUTE_CACHE", str(tmp_path / "file"))
    with pytest.raises(ReleaseError, match=r"can't be kept on this machine.*REELROUTE_CACHE"):
        opened(store)


def test_swaps_under_load_neither_fail_nor_mix_releases(store: Store, opened: Open) -> None:
    releases = [store.release(f"v{n}") for n in range(4)]
    store.point(releases[0])
    router = opened(store, follow_seconds=0.001, cache_size=3)
    done = Event()
    seen: set[str] = set()

    def ask(thread: int) -> int:
        asked = 0
        while not done.is_set():
            many = router.route_many([f"dog {asked % 5}", f"cat {thread}", "cow", "cow"])
            assert len({weights.router for weights in many}) == 1
            seen.add(many[0].router)
            seen.add(router.route(f"dog {asked % 5}").router)
            asked += 1
        return asked

    with ThreadPoolExecutor(8) as pool:
        working = [pool.submit(ask, thread) for thread in range(8)]
        try:
            for n in range(1, 40):
                to = releases[n % 4]
                store.point(to)
                until(lambda version=to.version: router.release.version == version)
        finally:
            done.set()
        assert all(future.result() > 0 for future in working)
    assert seen == {release.version for release in releases}


def test_a_slower_look_does_not_bring_back_an_older_release(
    store: Store, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    from reelroute.routers import following

    store.promote("one")
    router = opened(store)
    opening, go_on = Event(), Event()
    real = following.router_of

    def slowly(release: Any, *how: Any) -> Router:
        if release.version == "two":
            opening.set()
            assert go_on.wait(60)
        return real(release, *how)

    monkeypatch.setattr(following, "router_of", slowly)
    store.promote("two")
    looks = [threading.Thread(target=router.refresh) for _ in range(2)]
    looks[0].start()
    assert opening.wait(60)
    store.promote("three")
    looks[1].start()
    go_on.set()
    for look in looks:
        look.join(60)
    assert router.release.version == "three"


# --- what it says of itself --------------------------------------------------------------------


def test_name_and_remoteness_are_those_of_the_release_at_work(
    store: Store, opened: Open, slow: SlowClient
) -> None:
    store.promote("one")
    router = opened(store)
    assert (router.name, router.is_remote) == ("local", False)
    store.promote("two", **cascade_fields())
    router.refresh()
    assert (router.name, router.is_remote) == ("cascade", True)
    store.promote("three", router="bedrock", bedrock=bedrock_model(), local=None)
    router.refresh()
    assert (router.name, router.is_remote) == ("bedrock", True)


@pytest.mark.parametrize(
    "how", [{"follow_seconds": 0}, {"deadline_ms": 0}, {"deadline_ms": -1}, {"cache_size": -1}]
)
def test_arguments_out_of_range_are_refused(
    how: dict[str, Any], store: Store, opened: Open
) -> None:
    store.promote("one")
    with pytest.raises(ValueError, match=next(iter(how))):
        opened(store, **how)


# --- memory ------------------------------------------------------------------------------------


def test_the_latest_answers_are_remembered_and_the_oldest_forgotten(
    store: Store, opened: Open
) -> None:
    store.promote("one")
    router = opened(store, cache_size=2)
    for query in ("a", "b", " a ", "c", "a", "b"):  # c puts out b, which was used longer ago
        router.route(query)
    assert router.cache_info == (2, 4, 2, 2)
    router.route_many(["b", "b", "d"])  # b counts once
    assert router.cache_info == (3, 5, 2, 2)


def test_hits_are_counted_over_releases_and_answers_are_not_kept_over_them(
    store: Store, opened: Open
) -> None:
    store.promote("one")
    router = opened(store)
    router.route_many(["a", "b"])
    router.route("a")
    store.promote("two")
    router.refresh()
    assert router.cache_info == (1, 2, 0, 10_000)
    assert router.route("a").router == "two"
    assert router.cache_info == (1, 3, 1, 10_000)


def test_with_no_memory_nothing_is_remembered(store: Store, opened: Open) -> None:
    store.promote("one")
    router = opened(store, cache_size=0)
    router.route_many(["a", "a"])
    router.route("a")
    assert router.cache_info == (0, 2, 0, 0)


# --- the deadline ------------------------------------------------------------------------------


def test_past_the_deadline_rules_answer_and_say_why(
    store: Store, opened: Open, slow: SlowClient
) -> None:
    store.promote("one", router="bedrock", bedrock=bedrock_model(), local=None)
    router = opened(store, deadline_ms=20)
    weights = router.route("a dog")
    assert weights.router == "rules"
    assert "no answer within 20 ms" in weights.reasoning
    many = [f"query {n}" for n in range(2 * BedrockRouter.IN_FLIGHT)]
    assert {w.router for w in router.route_many(many)} == {"rules"}
    with pytest.raises(ReelRouteError, match="no answer within 20 ms"):
        opened(store, deadline_ms=20, fallback=False).route("a dog")
    slow.go_on.set()
    until(lambda: router.route("a dog").router == "bedrock")  # a stopgap is not remembered


def test_past_the_deadline_a_cascade_answers_with_its_local_student(
    store: Store, opened: Open, slow: SlowClient, caplog: pytest.LogCaptureFixture
) -> None:
    store.promote("one", **cascade_fields())
    router = opened(store, deadline_ms=20)
    assert router.route("easy").router == "one"
    assert router.route(HARD).router == "one (instead of bedrock)"
    assert "no answer within 20 ms: answered by the local student" in caplog.text
    answers = router.route_many(["easy", f"{HARD} 1", f"{HARD} 2"])
    assert [w.router for w in answers] == ["one", *["one (instead of bedrock)"] * 2]
    assert router.cache_info.size == 1
    slow.go_on.set()
    until(lambda: router.route(HARD).router == "bedrock")


def test_an_awaited_query_whose_deadline_passes_before_its_turn_is_never_asked(
    store: Store, opened: Open, slow: SlowClient
) -> None:
    store.promote("one", **cascade_fields())
    router = opened(store, deadline_ms=20)
    busy = threading.Event()
    for _ in range(router._AWAITED):
        router._awaiting.submit(busy.wait, 60)

    async def ask() -> str:
        answer = asyncio.create_task(router.aroute(HARD))
        await asyncio.sleep(0)  # the query waits for its turn from here on
        later = router.deadline()
        while later is not None and later.seconds_left() > 0:
            await asyncio.sleep(0.002)
        busy.set()
        return (await answer).router

    assert asyncio.run(ask()) == "one (instead of bedrock)"
    assert slow.asked == []


def test_in_the_service_the_deadline_counts_the_wait_for_a_thread(
    store: Store, opened: Open, slow: SlowClient
) -> None:
    store.promote("one", **cascade_fields())
    router = opened(store, deadline_ms=20)
    answering, busy = Answering(ServiceSettings(threads=1)), threading.Event()
    answering._pool.submit(busy.wait, 60)

    async def ask() -> str:
        request = RouteRequest(query=HARD)
        answer = asyncio.create_task(answering.answer(router, request, [HARD]))
        await asyncio.sleep(0)  # the request waits for its turn from here on
        later = router.deadline()
        while later is not None and later.seconds_left() > 0:
            await asyncio.sleep(0.002)
        busy.set()
        return (await answer).body

    assert json.loads(asyncio.run(ask()))["router"] == "one (instead of bedrock)"
    assert slow.asked == []
    answering.close()


def test_who_may_not_list_the_bucket_is_told_both_ways_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """S3 answers them alike for what they may not read and for what is not there."""

    def get_object(**_: Any) -> Any:
        raise ClientError({"Error": {"Code": "AccessDenied", "Message": "no"}}, "GetObject")

    client = SimpleNamespace(
        get_object=get_object, exceptions=SimpleNamespace(ClientError=ClientError)
    )
    monkeypatch.setattr(AwsAccess, "client", lambda *_: client)
    with pytest.raises(ReleaseError, match=r"no release yet\?\), or the role in use may not"):
        Router.from_release("s3://bucket/releases/current.json")


# --- failures ----------------------------------------------------------------------------------


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Students that break."""
    from tests.reelroute.routers.conftest import FakeStudent

    def predict(self: Any, queries: Any) -> Any:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(FakeStudent, "predict", predict)


def test_a_model_that_breaks_is_replaced_by_rules(
    store: Store, opened: Open, failing: None, caplog: pytest.LogCaptureFixture
) -> None:
    store.promote("one")
    weights = opened(store).route("a dog")
    assert weights.router == "rules"
    assert "release one: RuntimeError: out of memory" in weights.reasoning
    opened(store).route_many(["a dog", "a cat"])
    assert "2 queries answered by rules" in caplog.text
    with pytest.raises(ReelRouteError, match="out of memory"):
        opened(store, fallback=False).route("a dog")


def test_an_outage_is_said_now_and_then_however_many_queries_a_call_has(
    store: Store, opened: Open, failing: None, caplog: pytest.LogCaptureFixture
) -> None:
    store.promote("one")
    router, now = opened(store), [0.0]
    router._warnings = LimitedLog(logging.getLogger("reelroute"), clock=lambda: now[0])
    for count in (1, 2, 3, 1):
        router.route_many([f"query {number}" for number in range(count)])
    now[0] = PAUSE_SECONDS
    router.route_many(["a", "b"])
    said = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    why = "release one: RuntimeError: out of memory"
    assert said == [
        f"{why}: answered by rules",
        f"{why}: 2 queries answered by rules (and 3 more times)",
    ]


@pytest.mark.parametrize("query", ["", "x" * 1001])
def test_what_is_no_query_is_refused_whatever_the_fallback(
    query: str, store: Store, opened: Open
) -> None:
    store.promote("one")
    router = opened(store)
    for ask in (
        lambda: router.route(query),
        lambda: router.route_many(["a dog", query]),
        lambda: asyncio.run(router.aroute(query)),
        lambda: asyncio.run(router.aroute_many(["a dog", query])),
    ):
        with pytest.raises(QueryError):
            ask()


# --- twins and ends ----------------------------------------------------------------------------


def test_it_can_be_awaited(store: Store, opened: Open) -> None:
    store.promote("one")
    router = opened(store)
    queries = ["a dog", "a cat", "a dog"]

    async def ask() -> None:
        assert await router.aroute("a dog") == router.route("a dog")
        assert await router.aroute_many(queries) == router.route_many(queries)
        assert await router.aroute_many([]) == []

    asyncio.run(ask())


def test_closing_ends_its_threads_and_may_be_repeated(store: Store, slow: SlowClient) -> None:
    until(lambda: not threads(), str(threads()))
    store.promote("one", **cascade_fields())
    with Router.from_release(store.uri, follow_seconds=0.01, deadline_ms=5) as router:
        asyncio.run(router.aroute(HARD))
        assert threads() >= {"reelroute-follow"}
    router.close()
    slow.go_on.set()
    until(lambda: not threads(), str(threads()))
    for ask in (lambda: router.route("a dog"), lambda: asyncio.run(router.aroute("a dog"))):
        with pytest.raises(ReelRouteError, match="is closed"):
            ask()


def test_swapping_releases_leaves_no_threads_behind(
    store: Store, opened: Open, slow: SlowClient
) -> None:
    slow.go_on.set()
    store.promote("v0", **cascade_fields())
    router = opened(store)
    for n in range(1, 6):
        router.route_many([f"{HARD} {n} {i}" for i in range(4)])
        store.promote(f"v{n}", **cascade_fields())
        router.refresh()
    until(lambda: not threads("reelroute-bedrock"), str(threads()))


def test_a_forgotten_router_stops_following(store: Store) -> None:
    until(lambda: not threads("reelroute-follow"))
    store.promote("one")
    router = Router.from_release(store.uri, follow_seconds=3600)
    gone = weakref.ref(router)
    del router

    def ended() -> bool:
        gc.collect()
        return gone() is None and not threads("reelroute-follow")

    until(ended)
