"""Routers: always weights, whatever the model says; and always a word on who answered."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from threading import Event
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.embedded.restyle import STYLES, restyle
from reelroute.errors import AwsError, ReelRouteError, ReleaseError
from reelroute.release import Prompt, Release, ReleasePointer
from reelroute.routers import MAX_QUERY_CHARACTERS, BedrockRouter, QueryError, Router, RulesRouter
from reelroute.rubric import percents
from reelroute.weights import MODALITIES, RoutingWeights
from tasks.releases import POINTER_KEY, current_pointer, move_pointer, write_release
from tasks.storage import aws_access
from tests.conftest import Finished
from tests.support import TEACHER, CallsSince, Place, fault

GOOD = json.dumps(
    {"visual": 0.1, "audio": 0.7, "transcription": 0.0, "metadata": 0.2, "reasoning": "a bark"}
)
queries = st.text(min_size=1, max_size=200).filter(lambda text: bool(text.split()))
cue_words = st.lists(
    st.sampled_from(
        ["red", "sunset", "music", "barking", "said", "interview", "season", "episode 7", "2024"]
    ),
    max_size=12,
).map(lambda found: "thing " + " ".join(found))


# --- rules -------------------------------------------------------------------------------------


@given(query=st.one_of(queries, cue_words))
def test_rules_always_give_weights_on_the_grid_that_add_up_to_one(query: str) -> None:
    weights = RulesRouter().route(query)
    assert sum(percents(weights)) == 100
    assert all(percent % 5 == 0 for percent in percents(weights))
    assert weights.router == "rules"
    assert weights.reasoning
    assert RulesRouter().route(query) == weights


@pytest.mark.parametrize(
    ("query", "channel"),
    [
        ("aerial shot of a red car driving", "visual"),
        ("loud barking and thunder noise", "audio"),
        ("CEO discussing and explaining the debate", "transcription"),
        ("season 3 episode 7 of the documentary", "metadata"),
    ],
)
def test_cue_words_move_their_channel_and_are_named(query: str, channel: str) -> None:
    weights = RulesRouter().route(query)
    assert weights.dominant == channel
    assert f"for {channel}" in weights.reasoning


@given(query=st.sampled_from(["", " ", "\n\t", "x" * (MAX_QUERY_CHARACTERS + 1)]))
def test_what_is_no_query_is_refused(query: str) -> None:
    with pytest.raises(QueryError):
        RulesRouter().route(query)


# --- a student in Bedrock ----------------------------------------------------------------------


class Client:
    """Answers with given texts, the last for ever."""

    def __init__(self, *texts: str | None) -> None:
        self.texts = list(texts)
        self.asked: list[dict[str, Any]] = []

    def converse(self, **request: Any) -> dict[str, Any]:
        self.asked.append(request)
        text = self.texts.pop(0) if len(self.texts) > 1 else self.texts[0]
        message = {"message": {"content": [{"text": text}]}} if text is not None else {}
        return {"output": message}


def bedrock(client: Any) -> BedrockRouter:
    return BedrockRouter(client, "arn", Prompt.of("the prompt"), 300)


def test_the_student_is_asked_as_it_was_trained() -> None:
    client = Client(GOOD)
    weights = bedrock(client).route("  dog   barking ")
    assert weights.as_dict() == {
        "visual": 0.1,
        "audio": 0.7,
        "transcription": 0.0,
        "metadata": 0.2,
    }
    assert (weights.reasoning, weights.router) == ("a bark", "bedrock")
    (request,) = client.asked
    assert request["system"] == [{"text": "the prompt"}]
    assert request["messages"] == [{"role": "user", "content": [{"text": "dog barking"}]}]
    assert request["inferenceConfig"] == {"maxTokens": 300, "temperature": 0.0}


@pytest.mark.parametrize("style", STYLES)
def test_a_spoilt_answer_is_mended_or_replaced_and_the_router_says_so(style: str) -> None:
    weights = bedrock(Client(restyle(GOOD, style))).route("dog barking")
    assert sum(weights.values()) == pytest.approx(1)
    if style == "fenced":
        assert weights.router == "bedrock (repaired: code fence)"
        assert weights.audio == 0.7
    elif style == "five-channels":
        assert "extra keys ignored" in weights.router or weights.router == "rules"
    else:
        assert weights.router == "rules"
        assert "The student's answer can't be read: " in weights.reasoning


@pytest.mark.parametrize("text", [None, "", " ", "null", "[" * 30_000, '{"visual": 1e999}', "{}"])
def test_no_answer_is_too_bad(text: str | None) -> None:
    assert bedrock(Client(text)).route("dog barking").router == "rules"


@given(text=st.text(max_size=300))
def test_no_text_makes_it_raise(text: str) -> None:
    weights = bedrock(Client(text)).route("dog barking")
    assert sum(weights.values()) == pytest.approx(1)


@pytest.mark.parametrize("style", STYLES)
def test_a_model_that_turns_bad_in_service_does_no_harm(style: str, place: Place) -> None:
    router = BedrockRouter(
        place.aws.client("bedrock-runtime"), TEACHER, Prompt.of("the prompt"), 300
    )
    with fault(place.aws, "teacher-answers", style=style):
        answers = router.route_many(["dog barking loudly", "sunset over mountains"])
    for weights in answers:
        assert sum(weights.values()) == pytest.approx(1)
        assert weights.router != "bedrock"


def test_a_model_that_cannot_be_reached_is_an_error_of_its_own(place: Place) -> None:
    router = BedrockRouter(place.aws.client("bedrock-runtime"), "nobody", Prompt.of("p"), 300)
    with pytest.raises(AwsError, match="asking nobody"):
        router.route("a dog")


def test_many_queries_keep_their_order() -> None:
    class Echo:
        def converse(self, **request: Any) -> Any:
            text = request["messages"][0]["content"][0]["text"]
            answer = json.dumps({**json.loads(GOOD), "reasoning": text})
            return {"output": {"message": {"content": [{"text": answer}]}}}

    asked = [f"query {n}" for n in range(40)]
    assert [w.reasoning for w in bedrock(Echo()).route_many(asked)] == asked


# --- the router of the current release ---------------------------------------------------------

Open = Callable[..., Any]


@pytest.fixture
def release(finished: Finished) -> Release:
    current = current_pointer(finished.run.storage)
    assert current is not None
    stored = finished.run.storage.get(f"releases/{current.pointer.version}.json")
    assert stored is not None
    return Release.model_validate_json(stored.data)


def promote(place: Place, release: Release) -> ReleasePointer:
    storage = place.storage()
    ref = write_release(storage, release)
    return move_pointer(storage, current_pointer(storage), ref, "promote")


@pytest.fixture
def opened(place: Place, release: Release) -> Iterator[Open]:
    """The router of a release in this place, which looks at the pointer only when told."""
    promote(place, release)
    routers = []

    def open_it(**how: Any) -> Any:
        uri = f"s3://{place.bucket}/{POINTER_KEY}"
        arguments = {"follow_seconds": None, "deadline_ms": None, **how}
        router = Router.from_release(uri, aws_access(place.settings()), **arguments)
        routers.append(router)
        return router

    yield open_it
    for router in routers:
        router.close()


def test_a_release_routes_and_fuses(opened: Open) -> None:
    weights = opened().route("CEO discussing quarterly earnings")
    assert isinstance(weights, RoutingWeights)
    assert weights.router == "bedrock"
    fused = weights.fuse({m: {"clip-1": 1.0, "clip-2": 0.0} for m in MODALITIES})
    assert fused == {"clip-1": pytest.approx(1), "clip-2": 0}


def test_an_answer_is_remembered(opened: Open, calls: CallsSince) -> None:
    router = opened()
    first = router.route("a dog")
    assert router.route(" a  dog ") == first
    assert router.route_many(["a dog", "a cat", "a dog"])[0] == first
    assert calls.asked() == 2


def test_with_no_memory_every_query_is_asked(opened: Open, calls: CallsSince) -> None:
    router = opened(cache_size=0)
    router.route("a dog")
    router.route("a dog")
    assert calls.asked() == 2


def test_a_new_release_is_taken_up_and_what_was_remembered_is_forgotten(
    opened: Open, place: Place, release: Release, calls: CallsSince
) -> None:
    router = opened()
    router.route("a dog")
    assert router.refresh() is False
    promote(place, release.model_copy(update={"version": "next-1"}))
    assert router.refresh() is True
    assert router.release.version == "next-1"
    router.route("a dog")
    assert calls.asked() == 2


def test_a_broken_new_release_leaves_the_old_one_at_work(
    opened: Open, place: Place, release: Release
) -> None:
    router = opened()
    promote(place, release.model_copy(update={"version": "next-1"}))
    place.storage().put("releases/next-1.json", b"{}")
    with pytest.raises(ReleaseError, match="hash differs"):
        router.refresh()
    place.storage().put(POINTER_KEY, b"half a poin")
    with pytest.raises(ReleaseError, match="is not a release pointer"):
        router.refresh()
    assert router.release == release
    assert router.route("a dog").router == "bedrock"


def test_where_the_model_cannot_be_reached_rules_answer_and_say_why(
    opened: Open, place: Place
) -> None:
    router = opened()
    with fault(place.aws, "wrong-credentials"):
        weights = router.route("dog barking")
        many = router.route_many(["dog barking", "sunset"])
    assert weights.router == "rules"
    assert "AWS refused the credentials" in weights.reasoning
    assert [w.router for w in many] == ["rules", "rules"]
    assert router.route("dog barking").router == "bedrock"  # a stopgap is not remembered


def test_without_fallback_it_is_an_error(opened: Open, place: Place) -> None:
    router = opened(fallback=False)
    with fault(place.aws, "wrong-credentials"), pytest.raises(AwsError):
        router.route("a dog")


@pytest.fixture
def stuck(monkeypatch: pytest.MonkeyPatch) -> Iterator[Event]:
    """Students that answer only when let go."""
    go_on = Event()

    def route(self: BedrockRouter, query: str) -> RoutingWeights:
        go_on.wait(60)
        return RulesRouter().route(query)

    monkeypatch.setattr(BedrockRouter, "route", route)
    yield go_on
    go_on.set()


def test_past_the_deadline_rules_answer(opened: Open, stuck: Event) -> None:
    router = opened(deadline_ms=5)
    weights = router.route("a dog")
    assert weights.router == "rules"
    assert "no answer within 5 ms" in weights.reasoning
    assert [w.router for w in router.route_many(["a cat", "a cow"])] == ["rules", "rules"]
    with pytest.raises(ReelRouteError, match="no answer within 5 ms"):
        opened(deadline_ms=5, fallback=False).route("a dog")


@pytest.mark.parametrize("query", ["", "x" * 1001])
def test_what_is_no_query_is_refused_whatever_the_fallback(query: str, opened: Open) -> None:
    with pytest.raises(QueryError):
        opened().route(query)
    with pytest.raises(QueryError):
        opened().route_many(["a dog", query])


def test_it_can_be_awaited(opened: Open) -> None:
    router = opened()
    assert asyncio.run(router.aroute("a dog")) == router.route("a dog")
    assert asyncio.run(router.aroute_many(["a dog", "a cat"])) == router.route_many(
        ["a dog", "a cat"]
    )


def test_the_pointer_is_followed_in_the_background(
    opened: Open, place: Place, release: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    from reelroute.routers.following import ReleaseRouter

    taken_up = Event()
    refresh = ReleaseRouter.refresh

    def noticed(self: Any) -> bool:
        try:
            return refresh(self)
        finally:
            if self.release.version == "next-1":
                taken_up.set()

    monkeypatch.setattr(ReleaseRouter, "refresh", noticed)
    with opened(follow_seconds=0.01) as router:
        promote(place, release.model_copy(update={"version": "next-1"}))
        assert taken_up.wait(60)
        assert router.release.version == "next-1"
