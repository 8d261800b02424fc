"""The local student and the cascade on it."""

from __future__ import annotations

import asyncio
import builtins
import logging
import sys
from collections.abc import Sequence
from typing import Any

import pytest

from reelroute.errors import ReelRouteError
from reelroute.limited_log import PAUSE_SECONDS, LimitedLog
from reelroute.routers import CascadeRouter, LocalRouter, QueryError, Router, RulesRouter
from reelroute.routers.base import Attempt, Deadline
from reelroute.weights import RoutingWeights
from tests.reelroute.routers.conftest import HARD, FakeStudent

REAL_OF_FOLDER = LocalRouter.of_folder


def local(name: str = "local") -> LocalRouter:
    return LocalRouter(FakeStudent(name))  # type: ignore[arg-type]


def test_queries_are_asked_with_single_spaces_and_in_their_order() -> None:
    router = local()
    router.route("  a \n dog ")
    router.route_many(["c", " b "])
    assert router.model.asked == ["a dog", "c", "b"]  # type: ignore[attr-defined]
    assert router.is_remote is False


def test_what_is_no_query_is_refused() -> None:
    for queries in ([""], ["a dog", " "], ["x" * 1001]):
        with pytest.raises(QueryError):
            local().route_many(queries)


def test_it_can_be_awaited() -> None:
    router = local()
    for ask in (router, CascadeRouter(router, RulesRouter(), 0.1), RulesRouter()):
        assert asyncio.run(ask.aroute("a dog")).router
        assert len(asyncio.run(ask.aroute_many(["a dog", HARD]))) == 2


def test_an_answer_of_a_trained_student_is_explained_when_asked(
    tiny: LocalRouter, monkeypatch: pytest.MonkeyPatch
) -> None:
    from reelroute.student import explain

    asked = []
    real = explain.attribute

    def counted(*how: Any) -> Any:
        asked.append(how)
        return real(*how)

    monkeypatch.setattr(explain, "attribute", counted)
    weights = tiny.route("applause and thunder in the harbour")
    assert (weights.router, asked) == ("local", [])
    assert "Audio leads with" in weights.reasoning
    assert len(asked) == 1


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def refusing(name: str, *how: Any) -> Any:
        if name == "numpy":
            raise ModuleNotFoundError("No module named 'numpy'", name="numpy")
        return real(name, *how)

    for module in [name for name in sys.modules if name.startswith("reelroute.student")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setattr(builtins, "__import__", refusing)
    with pytest.raises(ReelRouteError, match=r"numpy is missing.*reelroute\[local\]"):
        REAL_OF_FOLDER("anywhere")


# --- the cascade -------------------------------------------------------------------------------


class Behind(Router):
    """Answers as told, and keeps what it was asked."""

    name = "behind"

    def __init__(self, answer: RoutingWeights | Exception) -> None:
        self.answer = answer
        self.asked: list[Sequence[str]] = []

    @property
    def is_remote(self) -> bool:
        return True

    def route(self, query: str) -> RoutingWeights:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def attempt_many(
        self, queries: Sequence[str], deadline: Deadline | None = None
    ) -> list[Attempt]:
        self.asked.append(queries)
        return super().attempt_many(queries, deadline)


ANSWER = RoutingWeights.uniform(router="behind")


def test_only_what_the_local_student_is_unsure_of_is_passed_on_and_that_together() -> None:
    behind = Behind(ANSWER)
    cascade = CascadeRouter(local(), behind, 0.1)
    answers = cascade.route_many(["easy", f"{HARD} 1", "simple", f"{HARD} 2"])
    assert [w.router for w in answers] == ["local", "behind", "local", "behind"]
    assert behind.asked == [[f"{HARD} 1", f"{HARD} 2"]]
    assert cascade.route("easy").router == "local"
    assert cascade.route(HARD) == ANSWER
    assert cascade.is_remote is True


def test_an_error_at_the_threshold_is_not_passed_on() -> None:
    behind = Behind(ANSWER)
    assert CascadeRouter(local(), behind, 0.2).route(HARD).router == "local"
    assert behind.asked == []


@pytest.mark.parametrize("why", [ReelRouteError("no answer within 5 ms")])
def test_where_the_one_behind_fails_the_local_answer_stands_and_says_so(
    why: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    cascade = CascadeRouter(local(), Behind(why), 0.1)
    assert cascade.route(HARD).router == "local (instead of behind)"
    assert caplog.messages == ["no answer within 5 ms: answered by the local student"]


def test_an_outage_behind_is_said_now_and_then(caplog: pytest.LogCaptureFixture) -> None:
    cascade = CascadeRouter(local(), Behind(ReelRouteError("throttled")), 0.1)
    now = [0.0]
    cascade._warnings = LimitedLog(logging.getLogger("reelroute"), clock=lambda: now[0])
    for _ in range(42):
        cascade.route(HARD)
    cascade.route_many([f"{HARD} 1", f"{HARD} 2"])
    now[0] = PAUSE_SECONDS
    cascade.route(HARD)
    said = "throttled: answered by the local student"
    assert caplog.messages == [said, f"{said} (and 42 more times)"]


def test_where_the_one_behind_cannot_be_read_the_local_answer_stands() -> None:
    cascade = CascadeRouter(local(), Behind(RulesRouter().route("a dog")), 0.1)
    assert cascade.route(HARD).router == "local (instead of behind)"
    assert cascade.route("easy").router == "local"


def test_a_cascade_of_routers_in_this_process_does_not_wait_for_the_network() -> None:
    assert CascadeRouter(local(), RulesRouter(), 0.1).is_remote is False
