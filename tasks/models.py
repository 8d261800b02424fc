"""Asking a model through Bedrock's Converse, with its bill."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from configs.settings import ModelPrice, ModelSettings
from data_contracts.runs import Cost
from reelroute.aws import speaking
from tasks.answers import Answer, AnswerStore, request_key
from tasks.cost import CostMeter, estimate_tokens
from tasks.pacing import Pacer


@dataclass(frozen=True, slots=True)
class Reply:
    """A model's answer.

    Attributes:
        latency_ms: request to answer at the client, in milliseconds; waiting for the quota is
            not in it.
    """

    text: str
    input_tokens: int
    output_tokens: int
    latency_ms: float

    @classmethod
    def of(cls, answer: Mapping[str, Any], latency_ms: float) -> Reply:
        """The reply in an answer of Converse, also of one in a batch job's output.

        Raises:
            LookupError, TypeError, AttributeError: it is no such answer.
        """
        content = answer["output"].get("message", {}).get("content", [])
        text = storable("".join(block.get("text", "") for block in content))
        usage = answer["usage"]
        return cls(text, int(usage["inputTokens"]), int(usage["outputTokens"]), latency_ms)


def storable(text: str) -> str:
    """The text with what UTF-8 can't hold (halves of surrogate pairs) made visible."""
    return text.encode("utf-8", errors="backslashreplace").decode()


@dataclass(frozen=True)
class Model:
    """A model that can be asked; thread-safe as its client is.

    Attributes:
        model_id: a foundation model, an inference profile, or a deployment's ARN.
        pacer: keeps its calls below the model's quota, if it has one.
    """

    client: Any
    model_id: str
    settings: ModelSettings
    price: ModelPrice
    meter: CostMeter
    pacer: Pacer | None = None

    def body(
        self,
        system: str,
        turns: Sequence[str],
        *,
        max_tokens: int | None = None,
        temperature: float | None = None,
    ) -> dict[str, Any]:
        """A request's body, as Converse and a batch job's record take it.

        Args:
            system: the prompt.
            turns: user, assistant, user, …: an odd number of texts.
        """
        heat = self.settings.temperature if temperature is None else temperature
        return {
            "system": [{"text": system}],
            "messages": [
                {"role": "assistant" if i % 2 else "user", "content": [{"text": text}]}
                for i, text in enumerate(turns)
            ],
            "inferenceConfig": {
                "maxTokens": max_tokens or self.settings.max_tokens,
                "temperature": heat,
            },
        }

    def ask(
        self,
        system: str,
        turns: Sequence[str],
        *,
        max_tokens: int | None = None,
        temperature: float | None = None,
    ) -> Reply:
        """Ask once. An answer that the service held back (a filter, a stop) is the empty text.

        Args:
            system: the prompt.
            turns: user, assistant, user, …: an odd number of texts.

        Raises:
            BudgetExceeded: the call could pass the run's budget.
            AwsError: it failed (RetryableAwsError where a later try may help).
        """
        body = self.body(system, turns, max_tokens=max_tokens, temperature=temperature)
        limit = body["inferenceConfig"]["maxTokens"]
        characters = len(system) + sum(map(len, turns))
        most = estimate_tokens(characters) + limit
        with self.meter.call(self.price, characters, limit) as bill:
            with self.pacer.call(most) if self.pacer else nullcontext() as pace:
                started = time.perf_counter()
                with speaking(f"asking {self.model_id}"):
                    answer = self.client.converse(modelId=self.model_id, **body)
                reply = Reply.of(answer, (time.perf_counter() - started) * 1000)
                if pace:
                    retries = answer.get("ResponseMetadata", {}).get("RetryAttempts", 0)
                    pace.settle(reply.input_tokens + reply.output_tokens, retries=retries)
            bill.settle(reply.input_tokens, reply.output_tokens)
        return reply


@dataclass(frozen=True)
class Buyer:
    """Who buys answers: a run's attempt at a stage, whoever of its starts it was."""

    run_id: str
    attempt: int

    def is_of(self, answer: Answer) -> bool:
        """Whether this attempt has bought the answer."""
        return (answer.run_id, answer.attempt) == (self.run_id, self.attempt)

    def bought(self, answers: Iterable[Answer], price: ModelPrice) -> Cost:
        """What of these answers this attempt has bought, also before a kill."""
        total = Cost(simulated=price.simulated)
        for answer in answers:
            if self.is_of(answer):
                total += Cost(
                    calls=answer.calls,
                    input_tokens=answer.input_tokens,
                    output_tokens=answer.output_tokens,
                    usd=_usd(answer, price),
                )
        return total


def _usd(answer: Answer, price: ModelPrice) -> float:
    inputs, outputs = answer.batch_input_tokens, answer.batch_output_tokens
    on_demand = price.usd(answer.input_tokens - inputs, answer.output_tokens - outputs)
    return on_demand + price.batch_usd(inputs, outputs)


def ask_once(model: Model, prompt: str, query: str, store: AnswerStore, buyer: Buyer) -> Answer:
    """The stored answer to a query, or a new one, which is stored before it is used.

    Raises:
        BudgetExceeded: the call could pass the run's budget.
        AwsError: it failed (RetryableAwsError where a later try may help).
    """
    key = request_key(model.model_id, prompt, query)
    answer = store.get(key)
    if answer is None:
        reply = model.ask(prompt, [query])
        answer = Answer(
            key=key,
            status="usable",
            texts=(reply.text,),
            input_tokens=reply.input_tokens,
            output_tokens=reply.output_tokens,
            latency_ms=reply.latency_ms,
            run_id=buyer.run_id,
            attempt=buyer.attempt,
        )
        store.put(answer)
    return answer
