"""A student behind a deployment: whatever it says, weights; whatever AWS says, a sentence."""

from __future__ import annotations

import dataclasses
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.embedded.restyle import STYLES, restyle
from reelroute.aws import AwsAccess
from reelroute.errors import AwsError, ReelRouteError, RetryableAwsError
from reelroute.release import Prompt
from reelroute.routers import BedrockRouter, Deadline, QueryError
from tests.reelroute.routers.conftest import SlowClient, bedrock_model, until
from tests.support import TEACHER, Place, fault

GOOD = json.dumps(
    {"visual": 0.1, "audio": 0.7, "transcription": 0.0, "metadata": 0.2, "reasoning": "a bark"}
)


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
    # By this production is told from evaluation in the invocation logs.
    assert request["requestMetadata"] == {"reelroute": "production"}


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


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"output": {}},
        {"output": None},
        {"output": {"message": {"content": None}}},
        {"output": {"message": {"content": [{}]}}},
        {"output": {"message": {"content": [{"text": None}]}}},
        {"output": {"message": {"content": [{"reasoningContent": {"text": "hm"}}]}}},
        None,
        "no dictionary",
    ],
)
def test_an_answer_of_no_known_shape_is_a_bad_answer(answer: Any) -> None:
    class Odd:
        def converse(self, **request: Any) -> Any:
            return answer

    weights = bedrock(Odd()).route("dog barking")
    assert weights.router == "rules"
    assert "The student's answer can't be read: " in weights.reasoning


def test_text_is_found_beside_blocks_of_other_kinds() -> None:
    class Thinking:
        def converse(self, **request: Any) -> Any:
            blocks = [{"reasoningContent": {}}, {"text": GOOD[:20]}, {"text": GOOD[20:]}]
            return {"output": {"message": {"content": blocks}}}

    assert bedrock(Thinking()).route("dog barking").router == "bedrock"


def test_a_client_that_breaks_is_an_error_of_our_own() -> None:
    class Broken:
        def converse(self, **request: Any) -> Any:
            raise ZeroDivisionError("oops")

    with pytest.raises(ReelRouteError, match="asking arn: ZeroDivisionError: oops"):
        bedrock(Broken()).route("a dog")


def test_what_is_no_query_is_refused_before_anything_is_asked() -> None:
    client = Client(GOOD)
    for queries in (["a dog", ""], ["x" * 1001]):
        with pytest.raises(QueryError):
            bedrock(client).route_many(queries)
    assert client.asked == []


def test_one_query_without_an_answer_does_not_cost_the_others_theirs() -> None:
    class Choosy(Client):
        def converse(self, **request: Any) -> Any:
            if "cow" in request["messages"][0]["content"][0]["text"]:
                raise ValueError("no cows")
            return super().converse(**request)

    dog, cow = bedrock(Choosy(GOOD)).attempt_many(["a dog", "a cow"])
    assert not isinstance(dog, ReelRouteError)
    assert isinstance(cow, ReelRouteError)


def test_the_deadline_bounds_calls_in_flight_and_those_queued_behind_them(
    slow: SlowClient,
) -> None:
    router = bedrock(slow)
    asked = [f"query {n}" for n in range(3 * BedrockRouter.IN_FLIGHT)]
    deadline = Deadline.after(30)
    attempts = router.attempt_many(asked, deadline)
    assert {str(attempt) for attempt in attempts} == {"no answer within 30 ms"}
    assert deadline.seconds_left() == 0
    slow.go_on.set()
    assert not isinstance(router.attempt_many(["a dog"], Deadline.after(30_000))[0], Exception)
    # What was still queued when its deadline passed was never asked.
    assert len(slow.asked) <= BedrockRouter.IN_FLIGHT + 1
    router.close()


def test_a_closed_router_says_so_and_its_threads_end(slow: SlowClient) -> None:
    def threads() -> int:
        return sum(t.name.startswith("reelroute-bedrock") for t in threading.enumerate())

    until(lambda: threads() == 0)
    router = bedrock(slow)
    router.attempt_many(["a dog", "a cat"], Deadline.after(1))
    assert threads() > 0
    router.close()
    router.close()
    slow.go_on.set()
    until(lambda: threads() == 0, "threads are left")
    (attempt,) = router.attempt_many(["a dog"])
    assert "is closed" in str(attempt)


def test_the_model_is_asked_in_its_own_region_within_the_timeout(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[AwsAccess] = []
    monkeypatch.setattr(AwsAccess, "client", lambda self, service: asked.append(self))
    model = bedrock_model().model_copy(update={"region": "eu-central-1"})
    of_model, prompt = BedrockRouter.of_model, Prompt.of("p")
    of_model(model, prompt, AwsAccess(region="us-east-1"), 5)
    of_model(model, prompt, AwsAccess(read_timeout_seconds=2), 0.01)
    of_model(model, prompt, AwsAccess(read_timeout_seconds=2))
    assert {access.region for access in asked} == {"eu-central-1"}
    assert [access.read_timeout_seconds for access in asked] == [5, 1, 2]


class Throttling(BaseHTTPRequestHandler):
    """A Bedrock that throttles every second call, beginning with the first."""

    calls = 0

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        type(self).calls += 1
        throttled = self.calls % 2
        found = {
            "output": {"message": {"role": "assistant", "content": [{"text": GOOD}]}},
            "stopReason": "end_turn",
            "usage": {"inputTokens": 9, "outputTokens": 9, "totalTokens": 18},
            "metrics": {"latencyMs": 1},
        }
        body = json.dumps({"message": "slow down"} if throttled else found).encode()
        self.send_response(429 if throttled else 200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        if throttled:
            self.send_header("x-amzn-errortype", "ThrottlingException")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def throttling(monkeypatch: pytest.MonkeyPatch) -> Iterator[AwsAccess]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "anybody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setattr(Throttling, "calls", 0)
    with ThreadingHTTPServer(("127.0.0.1", 0), Throttling) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield AwsAccess(endpoint_url=f"http://127.0.0.1:{server.server_port}", max_attempts=2)
        server.shutdown()


def test_a_throttled_call_is_tried_again(throttling: AwsAccess) -> None:
    router = BedrockRouter.of_model(bedrock_model(), Prompt.of("the prompt"), throttling)
    assert router.route("dog barking loudly").router == "bedrock"
    assert Throttling.calls == 2


def test_a_call_that_stays_throttled_is_an_error(throttling: AwsAccess) -> None:
    access = dataclasses.replace(throttling, max_attempts=1)
    router = BedrockRouter.of_model(bedrock_model(), Prompt.of("the prompt"), access)
    with pytest.raises(RetryableAwsError, match="asking arn: ThrottlingException"):
        router.route("dog barking loudly")
