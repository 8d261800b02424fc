"""The distilled student in Bedrock."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from reelroute.aws import AwsAccess, speaking
from reelroute.errors import AnswerError
from reelroute.parsing import parse_forgiving
from reelroute.release import BedrockModel, Prompt
from reelroute.routers.base import Router, check_query
from reelroute.routers.rules import RulesRouter
from reelroute.weights import RoutingWeights


class BedrockRouter(Router):
    """A distilled student behind a deployment, asked as it was trained.

    An answer that even the forgiving parser can't read is replaced by the rules router's;
    `weights.router` then says `rules`, and what a repair mended stands behind the name.
    """

    name = "bedrock"
    is_remote = True
    _IN_FLIGHT: Final = 8

    def __init__(self, client: Any, deployment_arn: str, prompt: Prompt, max_tokens: int) -> None:
        self._client = client
        self._deployment_arn = deployment_arn
        self._prompt = prompt
        self._max_tokens = max_tokens
        self._rules = RulesRouter()

    @classmethod
    def of_model(cls, model: BedrockModel, prompt: Prompt, access: AwsAccess) -> BedrockRouter:
        """The router of a release's model, asked with the release's prompt."""
        client = access.client("bedrock-runtime")
        return cls(client, model.deployment_arn, prompt, model.max_tokens)

    def route(self, query: str) -> RoutingWeights:
        """The student's weights of the query."""
        text = check_query(query)
        with speaking(f"asking {self._deployment_arn}"):
            answer = self._client.converse(
                modelId=self._deployment_arn,
                system=[{"text": self._prompt.text}],
                messages=[{"role": "user", "content": [{"text": text}]}],
                inferenceConfig={"maxTokens": self._max_tokens, "temperature": 0.0},
            )
        content = answer["output"].get("message", {}).get("content", [])
        try:
            parsed = parse_forgiving("".join(block.get("text", "") for block in content))
        except AnswerError as error:
            rules = self._rules.route(text)
            reasoning = f"{rules.reasoning} (The student's answer can't be read: {error}.)"
            return rules.model_copy(update={"reasoning": reasoning})
        repairs = f" (repaired: {', '.join(parsed.repairs)})" if parsed.repairs else ""
        return parsed.weights.model_copy(update={"router": self.name + repairs})

    def route_many(self, queries: Sequence[str]) -> list[RoutingWeights]:
        """The weights of many queries, a few calls in flight together."""
        with ThreadPoolExecutor(self._IN_FLIGHT) as pool:
            return list(pool.map(self.route, queries))
