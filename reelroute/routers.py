"""Routers: a query in, routing weights out.

`Router.from_release` gives the router of a release; `RulesRouter` is what is left when a model
gives no usable answer. `route` never raises because of a model's bad answer.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from reelroute.aws import AwsAccess, speaking
from reelroute.errors import AnswerError, ReelRouteError
from reelroute.parsing import parse_forgiving
from reelroute.release import Prompt, Release, open_release
from reelroute.weights import MODALITIES, Modality, RoutingWeights, round_to_grid

#: Longer queries are refused: they are no search queries, and every character is paid for.
MAX_QUERY_CHARACTERS: Final = 1_000


class Router(ABC):
    """Gives routing weights for a query; `weights.router` says which router answered."""

    @abstractmethod
    def route(self, query: str) -> RoutingWeights:
        """The weights of one query.

        Raises:
            ReelRouteError: the query is empty or too long, or the router can't be reached.
        """

    def route_many(self, queries: Sequence[str]) -> list[RoutingWeights]:
        """The weights of many queries, in their order.

        Raises:
            ReelRouteError: as `route`, for any of them.
        """
        return [self.route(query) for query in queries]

    @staticmethod
    def from_release(uri: str, access: AwsAccess | None = None) -> Router:
        """The router of the release that a pointer names.

        Args:
            uri: `s3://bucket/releases/current.json`, or the path of a file beside its release.
            access: how AWS is reached; without it, the standard AWS chain.

        Raises:
            ReleaseError: pointer or release are missing or fail their check.
            AwsError: AWS can't be reached.
        """
        access = access or AwsAccess()
        return BedrockRouter.of_release(open_release(uri, access), access)


def check_query(query: str) -> str:
    """The query with single spaces.

    Raises:
        ReelRouteError: it is empty or longer than `MAX_QUERY_CHARACTERS`.
    """
    text = " ".join(query.split())
    if not text:
        raise ReelRouteError("the query is empty")
    if len(text) > MAX_QUERY_CHARACTERS:
        raise ReelRouteError(
            f"the query has {len(text)} characters, at most {MAX_QUERY_CHARACTERS} are routed"
        )
    return text


class RulesRouter(Router):
    """Keyword rules: the fallback that needs no model.

    Each cue word adds to its channel; every channel starts with a small share, so that a query
    without cues leans on the picture and on titles, as most queries do.
    """

    name: Final = "rules"
    _START: Final[dict[Modality, float]] = {
        "visual": 0.45,
        "audio": 0.1,
        "transcription": 0.2,
        "metadata": 0.25,
    }
    _CUES: Final[dict[Modality, re.Pattern[str]]] = {
        "visual": re.compile(
            r"\b(red|blue|green|black|white|yellow|colou?r\w*|shot|aerial|drone|close-?up|slow "
            r"motion|sunset|sunrise|wearing|standing|walking|running|driving|holding|smiling|"
            r"landscape|silhouette|footage of)\b",
            re.IGNORECASE,
        ),
        "audio": re.compile(
            r"\b(sounds?|noise|music|song|singing|barking|cheer\w*|applause|laugh\w*|scream\w*|"
            r"loud\w*|whisper\w*|guitar|piano|drums?|bell|siren|thunder|engine|crying|hum\w*|"
            r"roar\w*|audio|melody)\b",
            re.IGNORECASE,
        ),
        "transcription": re.compile(
            r"\b(say\w*|said|talk\w*|discuss\w*|explain\w*|speech|interview\w*|quote|mention\w*|"
            r"tell\w*|ask\w*|answer\w*|debate|lecture|announc\w*|describ\w*|dialogue|narrat\w*|"
            r"speak\w*|argu\w*|story about)\b|[\"“”]",
            re.IGNORECASE,
        ),
        "metadata": re.compile(
            r"\b(season|episode|s\d+e\d+|part \d+|(19|20)\d\d|4k|1080p|hd|trailer|directed by|"
            r"starring|title|licen[cs]e\w*|full (game|movie|episode)|vol(ume)?|chapter|"
            r"documentary|uploaded|channel)\b",
            re.IGNORECASE,
        ),
    }

    def route(self, query: str) -> RoutingWeights:
        """The weights that the cue words of the query give."""
        text = check_query(query)
        found = {m: [c.group(0) for c in self._CUES[m].finditer(text)] for m in MODALITIES}
        raw: dict[str, float] = {m: self._START[m] + 0.6 * len(found[m]) for m in MODALITIES}
        cues = [f"{', '.join(words)} for {m}" for m, words in found.items() if words]
        reasoning = f"Cue words: {'; '.join(cues)}." if cues else "No cue words: the usual shares."
        return RoutingWeights(**round_to_grid(raw), reasoning=reasoning, router=self.name)


class BedrockRouter(Router):
    """A distilled student behind a deployment, asked as it was trained.

    An answer that even the forgiving parser can't read is replaced by the rules router's;
    `weights.router` then says `rules`, and what a repair mended stands behind the name.
    """

    name: Final = "bedrock"
    _IN_FLIGHT: Final = 8

    def __init__(self, client: Any, deployment_arn: str, prompt: Prompt, max_tokens: int) -> None:
        self._client = client
        self._deployment_arn = deployment_arn
        self._prompt = prompt
        self._max_tokens = max_tokens
        self._rules = RulesRouter()

    @classmethod
    def of_release(cls, release: Release, access: AwsAccess) -> BedrockRouter:
        """The router of a release."""
        model = release.bedrock
        return cls(
            access.client("bedrock-runtime"),
            model.deployment_arn,
            release.prompt,
            model.max_tokens,
        )

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
