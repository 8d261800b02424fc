"""Converse: one turn of a conversation with a foundation model or a deployment."""

from __future__ import annotations

import math
import time
from itertools import pairwise
from typing import Any, Final

from deployments.embedded.bedrock.deployments import Deployment, find_deployment
from deployments.embedded.bedrock.errors import ServiceError, invalid, not_found
from deployments.embedded.bedrock.provisioned import Provisioned, find_provisioned
from deployments.embedded.bedrock.state import Bedrock
from deployments.embedded.calls import Call
from deployments.embedded.faults import MODEL_ANSWERS, TEACHER_ANSWERS
from deployments.embedded.models.answers import RoutingModel
from deployments.embedded.models.catalogue import TEACHER, foundation_model
from deployments.embedded.restyle import STYLES, restyle
from deployments.embedded.tokens import CHARACTERS_A_TOKEN, simulated_tokens

_CUSTOM_MODEL: Final = ":custom-model/"
_DEPLOYMENT: Final = ":custom-model-deployment/"
_PROVISIONED: Final = ":provisioned-model/"


def converse(bedrock: Bedrock, params: dict[str, Any], call: Call) -> dict[str, Any]:
    """Converse.

    The model answers the first user turn: a request to repair an answer repeats the
    conversation, and its last turn only complains.
    """
    started = time.perf_counter()
    call.model_id = params["modelId"]
    turns = _turns(params.get("messages", []))
    call.hash_text("\n".join(text for _, text in turns))
    text = _model(bedrock, params["modelId"]).answer(turns[0][1])
    if foundation_id(params["modelId"]) == TEACHER:
        text = _spoilt(bedrock, TEACHER_ANSWERS, text, call)
    text = _spoilt(bedrock, MODEL_ANSWERS, text, call)
    limit = params.get("inferenceConfig", {}).get("maxTokens")
    cut = limit is not None and simulated_tokens(len(text)) > limit
    if cut:
        text = text[: limit * CHARACTERS_A_TOKEN]
    asked = sum(len(block.get("text", "")) for block in params.get("system", []))
    tokens_in = simulated_tokens(asked + sum(len(turn) for _, turn in turns))
    tokens_out = simulated_tokens(len(text))
    return {
        "output": {"message": {"role": "assistant", "content": [{"text": text}]}},
        "stopReason": "max_tokens" if cut else "end_turn",
        "usage": {
            "inputTokens": tokens_in,
            "outputTokens": tokens_out,
            "totalTokens": tokens_in + tokens_out,
        },
        "metrics": {"latencyMs": math.ceil(1000 * (time.perf_counter() - started))},
    }


def foundation_id(model_id: str) -> str | None:
    """The foundation model that a `modelId` names, if it names one."""
    model = foundation_model(model_id)
    return model.model_id if model else None


def _turns(messages: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Role and text of each turn, once the conversation is one."""
    turns = []
    for number, message in enumerate(messages):
        texts = []
        for position, block in enumerate(message["content"]):
            place = f"messages.{number}.content.{position}"
            if "text" not in block:
                raise invalid(f"The embedded models read text only; {place} holds none.")
            if not block["text"].strip():
                raise invalid(
                    f"The text field in the ContentBlock object at {place} is blank. "
                    "Add text to the text field, and try again."
                )
            texts.append(block["text"])
        if not texts:
            raise invalid(f"The content field of the Message object at messages.{number} is empty.")
        turns.append((message["role"], "\n".join(texts)))
    if not turns or turns[0][0] != "user":
        raise invalid("A conversation must start with a user message.")
    if turns[-1][0] != "user":
        raise invalid("A conversation must end with a user message.")
    if any(a[0] == b[0] for a, b in pairwise(turns)):
        raise invalid("A conversation must alternate between user and assistant roles.")
    return turns


def _model(bedrock: Bedrock, model_id: str) -> RoutingModel:
    if _DEPLOYMENT in model_id:
        found = find_deployment(bedrock, model_id)
        return _serving(bedrock, f"custom model deployment {model_id}", found, "Active")
    if _PROVISIONED in model_id:
        bought = find_provisioned(bedrock, model_id)
        return _serving(bedrock, f"Provisioned Throughput {model_id}", bought, "InService")
    if _CUSTOM_MODEL in model_id:
        raise invalid(
            f"Invocation of model ID {model_id} with on-demand throughput isn't supported. "
            "Retry your request with the ARN of a custom model deployment or of Provisioned "
            "Throughput."
        )
    offered = foundation_model(model_id)
    if offered is None:
        raise invalid(f"The provided model identifier is invalid: {model_id}")
    if offered.retired:
        raise not_found("This model version has reached the end of its life.")
    return bedrock.models.model(offered.model_id)


def _serving(
    bedrock: Bedrock, named: str, found: Deployment | Provisioned | None, ready: str
) -> RoutingModel:
    """The model behind what serves it, once that is there."""
    if found is None or found.status == "Failed":
        raise not_found(f"The {named} {'has failed' if found else 'does not exist'}.")
    if found.status == "Creating":
        raise ServiceError(
            "ModelNotReadyException", f"The {named} is Creating: try again when it is {ready}."
        )
    model = bedrock.custom_models.get(found.model_arn)
    if model is None:
        raise not_found(f"The custom model {found.model_arn} does not exist.")
    return model.student


def _spoilt(bedrock: Bedrock, kind: str, text: str, call: Call) -> str:
    hit = bedrock.faults.draw(kind, call.service, call.operation)
    if hit is None:
        return text
    style = hit.fault.style
    if style == "mixed":
        style = STYLES[(hit.hits - 1) % len(STYLES)]
    spoilt = restyle(text, style)
    if spoilt != text:
        call.fault = f"{kind}:{style}"
    return spoilt
