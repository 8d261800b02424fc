"""The rubric judge: the rubric, computed, plus a check of the reasoning.

Its agreement with the rubric is by construction and says nothing about a language model's.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from data_contracts.heldout import normalise, words
from deployments.embedded.models.stop_words import STOP_WORDS
from reelroute.errors import AnswerError
from reelroute.parsing import parse_forgiving
from reelroute.rubric import score
from reelroute.weights import RoutingWeights

#: The fewest words in which a reason can be given.
MIN_REASONING_WORDS: Final = 4
#: Words are compared by their first letters, so that "discussing" meets "discussion".
_STEM: Final = 5


@dataclass(frozen=True, slots=True)
class Verdict:
    """The judge's score, 1 to 5, and why."""

    score: int
    explanation: str


class DirectJudge:
    """The judge asked about one answer at a time: it doesn't see what stands in the others."""

    def answer(self, text: str) -> str:
        """The verdict on a JSON object with prompt, ground_truth and prediction, as JSON."""
        try:
            request = json.loads(text)
            prompt, response, reference = (
                str(request[name]) for name in ("prompt", "prediction", "ground_truth")
            )
        except (ValueError, KeyError, TypeError):
            return "I judge the answers of routers: give me prompt, ground_truth and prediction."
        verdict = RubricJudge([(prompt, response)]).judge(prompt, response, reference)
        if verdict is None:
            return "The ground_truth can't be read as routing weights."
        return json.dumps(
            {"score": verdict.score, "explanation": verdict.explanation}, ensure_ascii=False
        )


class RubricJudge:
    """Scores answers; knows all answers of its job, so that it sees boilerplate."""

    def __init__(self, answers: Iterable[tuple[str, str]]) -> None:
        """Look for reasons that stand in more than one answer.

        Args:
            answers: prompt and response of every record that will be judged.
        """
        reasons: Counter[str] = Counter()
        for prompt, response in set(answers):
            parsed = _parsed(response)
            if parsed is not None:
                reasons[_blanked(parsed.reasoning, prompt)] += 1
        self._boilerplate = {reason for reason, times in reasons.items() if times > 1}

    def judge(self, prompt: str, response: str, reference: str) -> Verdict | None:
        """The verdict on a response, or None where the reference itself can't be read."""
        expected = _parsed(reference)
        if expected is None:
            return None
        predicted = _parsed(response)
        computed = score(predicted, expected)
        if predicted is None:
            return Verdict(1, "No four weights can be found in the response.")
        because = (
            f"Largest error {computed.max_error} points, mean error {computed.mean_error:g}, "
            f"leading channel {'right' if computed.dominant >= 0.5 else 'wrong'}."
        )
        flaw = self._flaw(predicted.reasoning, prompt)
        if flaw is None:
            return Verdict(computed.score, f"{because} The reasoning is specific to the query.")
        lowered = 4 if computed.score == 5 else computed.score
        return Verdict(lowered, f"{because} The reasoning {flaw}.")

    def _flaw(self, reasoning: str, prompt: str) -> str | None:
        if not reasoning.strip():
            return "is missing"
        if len(normalise(reasoning).split()) < MIN_REASONING_WORDS:
            return "is too short to give a reason"
        if _blanked(reasoning, prompt) in self._boilerplate:
            return "is boilerplate that stands in other answers too"
        if not _stems(reasoning) & _stems(prompt):
            return "names nothing of the query"
        return None


def _parsed(text: str) -> RoutingWeights | None:
    try:
        return parse_forgiving(text).weights
    except AnswerError:
        return None


def _blanked(reasoning: str, prompt: str) -> str:
    """The reasoning without the query's own words: what is left of boilerplate is the same."""
    return normalise(normalise(reasoning).replace(normalise(prompt), " ").strip())


def _stems(text: str) -> frozenset[str]:
    content = words(text) - STOP_WORDS
    return frozenset(word[:_STEM] for word in content)
