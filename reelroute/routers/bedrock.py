"""The distilled student in Bedrock."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any, Final

from reelroute.aws import AwsAccess, speaking
from reelroute.errors import AnswerError, ReelRouteError
from reelroute.parsing import parse_forgiving
from reelroute.release import BedrockModel, Prompt
from reelroute.routers.base import Attempt, Deadline, Router, check_query
from reelroute.routers.rules import RulesRouter
from reelroute.weights import RoutingWeights

_log = logging.getLogger("reelroute")

#: No call is cut shorter than this by the HTTP client, whatever the deadline: a deadline passes
#: by itself, and connections that are torn down and built anew help nobody.
_LEAST_SECONDS: Final = 1.0
#: Tells the calls of production from all others in Bedrock's invocation logs.
REQUEST_METADATA: Final = {"reelroute": "production"}


class BedrockRouter(Router):
    """A distilled student behind a deployment, asked as it was trained.

    An answer that even the forgiving parser can't read is replaced by the rules router's;
    `weights.router` then says `rules`, and what a repair mended stands behind the name.

    Args:
        client: of `bedrock-runtime`; its timeouts and retries hold for each call.
        deployment_arn: what is asked.
        prompt: the system text.
        max_tokens: of an answer.
    """

    name = "bedrock"
    #: Calls in flight together; the others wait their turn, as far as their deadline lets them.
    IN_FLIGHT: Final = 32

    def __init__(self, client: Any, deployment_arn: str, prompt: Prompt, max_tokens: int) -> None:
        self._client = client
        self._deployment_arn = deployment_arn
        self._prompt = prompt
        self._max_tokens = max_tokens
        self._rules = RulesRouter()
        self._pool = ThreadPoolExecutor(self.IN_FLIGHT, thread_name_prefix="reelroute-bedrock")

    @classmethod
    def of_model(
        cls,
        model: BedrockModel,
        prompt: Prompt,
        access: AwsAccess,
        timeout_seconds: float | None = None,
    ) -> BedrockRouter:
        """The router of a release's model, asked in its region with the release's prompt.

        Args:
            model: the model.
            prompt: the release's.
            access: how AWS is reached; throttled and failed calls are tried again, up to
                `access.max_attempts` times.
            timeout_seconds: of each try, at least 1 and at most the access's own.
        """
        access = replace(access, region=model.region, max_connections=cls.IN_FLIGHT)
        if timeout_seconds is not None:
            limit = max(_LEAST_SECONDS, timeout_seconds)
            access = replace(
                access,
                connect_timeout_seconds=min(limit, access.connect_timeout_seconds),
                read_timeout_seconds=min(limit, access.read_timeout_seconds),
            )
        client = access.client("bedrock-runtime")
        return cls(client, model.deployment_arn, prompt, model.max_tokens)

    @property
    def is_remote(self) -> bool:
        """It is."""
        return True

    def route(self, query: str) -> RoutingWeights:
        """The student's weights of the query."""
        return _weights(self._ask(check_query(query)))

    def route_many(self, queries: Sequence[str]) -> list[RoutingWeights]:
        """The weights of many queries, a few calls in flight together."""
        return [_weights(attempt) for attempt in self.attempt_many(queries)]

    def attempt_many(
        self, queries: Sequence[str], deadline: Deadline | None = None
    ) -> list[Attempt]:
        """The student's weights of each query, or why there are none by the deadline.

        A call that hasn't begun by then is never made; one in flight ends by itself.
        """
        texts = [check_query(query) for query in queries]
        try:
            waiting = [self._pool.submit(self._ask, text, deadline) for text in texts]
        except RuntimeError:  # the pool is shut down
            return [ReelRouteError(f"the router of {self._deployment_arn} is closed")] * len(texts)
        return [_in_time(future, deadline) for future in waiting]

    def close(self) -> None:
        """Let go of threads; calls in flight end, waiting ones are not made."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _ask(self, text: str, deadline: Deadline | None = None) -> Attempt:
        """What the student says, whatever happens; past the deadline it is not asked."""
        if deadline and not deadline.seconds_left():
            return _too_late(deadline)
        try:
            with speaking(f"asking {self._deployment_arn}"):
                answer = self._client.converse(
                    modelId=self._deployment_arn,
                    system=[{"text": self._prompt.text}],
                    messages=[{"role": "user", "content": [{"text": text}]}],
                    inferenceConfig={"maxTokens": self._max_tokens, "temperature": 0.0},
                    requestMetadata=REQUEST_METADATA,
                )
        except ReelRouteError as error:
            return error
        except Exception as error:
            _log.exception("asking %s", self._deployment_arn)
            return ReelRouteError(f"asking {self._deployment_arn}: {type(error).__name__}: {error}")
        try:
            parsed = parse_forgiving(_text_of(answer))
        except AnswerError as error:
            rules = self._rules.route(text)
            reasoning = f"{rules.reasoning} (The student's answer can't be read: {error}.)"
            return rules.model_copy(update={"reasoning": reasoning})
        repairs = f" (repaired: {', '.join(parsed.repairs)})" if parsed.repairs else ""
        return parsed.weights.model_copy(update={"router": self.name + repairs})


def _text_of(answer: Any) -> str:
    """The text of a Converse answer, of whatever shape.

    Raises:
        AnswerError: it holds none.
    """
    try:
        blocks = answer["output"]["message"]["content"]
        return "".join(block["text"] for block in blocks if "text" in block)
    except (KeyError, TypeError) as error:
        raise AnswerError("it holds no text") from error


def _in_time(waiting: Future[Attempt], deadline: Deadline | None) -> Attempt:
    try:
        return waiting.result(timeout=None if deadline is None else deadline.seconds_left())
    except TimeoutError:
        waiting.cancel()
        return _too_late(deadline)
    except CancelledError:
        return ReelRouteError("the router was closed before its turn")


def _too_late(deadline: Deadline | None) -> ReelRouteError:
    allowed = f" within {deadline.milliseconds:g} ms" if deadline else ""
    return ReelRouteError(f"no answer{allowed}")


def _weights(attempt: Attempt) -> RoutingWeights:
    if isinstance(attempt, ReelRouteError):
        raise attempt
    return attempt
