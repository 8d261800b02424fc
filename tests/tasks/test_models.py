"""Asking a model: one call, one bill, the text as it came."""

from __future__ import annotations

from typing import Any

import pytest

from configs.settings import ModelPrice, ModelSettings
from reelroute.errors import AwsError, BudgetExceeded
from tasks.cost import CostMeter
from tasks.models import Model
from tests.support import TEACHER, CallsSince, Place, fault

PRICE = ModelPrice(input=1.0, output=2.0, simulated=True)


class Client:
    """Answers with a given message and keeps what it was asked."""

    def __init__(self, message: dict[str, Any] | None) -> None:
        self.output = {"message": message} if message is not None else {}
        self.asked: list[dict[str, Any]] = []

    def converse(self, **request: Any) -> dict[str, Any]:
        self.asked.append(request)
        return {"output": self.output, "usage": {"inputTokens": 7, "outputTokens": 3}}


def model(client: Any, budget: float = 100.0, model_id: str = TEACHER) -> Model:
    return Model(client, model_id, ModelSettings(id=model_id), PRICE, CostMeter(budget))


def test_turns_alternate_and_the_prompt_is_the_system_text() -> None:
    client = Client({"content": [{"text": "yes"}]})
    model(client).ask("prompt", ["one", "two", "three"])
    (request,) = client.asked
    assert request["system"] == [{"text": "prompt"}]
    assert [(m["role"], m["content"]) for m in request["messages"]] == [
        ("user", [{"text": "one"}]),
        ("assistant", [{"text": "two"}]),
        ("user", [{"text": "three"}]),
    ]
    assert request["inferenceConfig"] == {"maxTokens": 300, "temperature": 0.0}


def test_one_call_may_have_another_limit_and_temperature() -> None:
    client = Client({"content": [{"text": "yes"}]})
    model(client).ask("prompt", ["one"], max_tokens=9, temperature=0.5)
    assert client.asked[0]["inferenceConfig"] == {"maxTokens": 9, "temperature": 0.5}


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ({"content": [{"text": "a"}, {"text": "b"}]}, "ab"),
        ({"content": [{"image": {}}, {"text": "b"}]}, "b"),
        ({"content": []}, ""),
        ({}, ""),
        (None, ""),
    ],
)
def test_an_answer_that_was_held_back_is_the_empty_text(
    message: dict[str, Any] | None, text: str
) -> None:
    assert model(Client(message)).ask("prompt", ["one"]).text == text


def test_the_bill_is_what_the_service_counted() -> None:
    asked = model(Client({"content": [{"text": "yes"}]}))
    reply = asked.ask("prompt", ["one"])
    assert (reply.input_tokens, reply.output_tokens) == (7, 3)
    assert reply.latency_ms >= 0
    assert asked.meter.cost.usd == pytest.approx(0.013)
    assert asked.meter.cost.simulated


def test_past_the_budget_the_model_is_not_asked(place: Place, calls: CallsSince) -> None:
    with pytest.raises(BudgetExceeded):
        model(place.aws.client("bedrock-runtime"), budget=0.001).ask("prompt", ["one"])
    assert calls.asked() == 0


def test_the_teacher_answers_through_converse(place: Place) -> None:
    reply = model(place.aws.client("bedrock-runtime")).ask("prompt", ["dog barking loudly"])
    assert '"audio"' in reply.text
    assert reply.output_tokens > 0


def test_an_unknown_model_is_one_sentence_that_names_it(place: Place) -> None:
    with pytest.raises(AwsError, match=r"asking nobody\.model"):
        model(place.aws.client("bedrock-runtime"), model_id="nobody.model").ask("p", ["one"])


def test_a_call_that_was_refused_costs_nothing(place: Place) -> None:
    asked = model(place.aws.client("bedrock-runtime"))
    with fault(place.aws, "wrong-credentials"), pytest.raises(AwsError):
        asked.ask("prompt", ["one"])
    assert asked.meter.cost.calls == 0
