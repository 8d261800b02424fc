"""The gate: whether a candidate may become the release. Pure; the reasons are sentences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from configs.settings import PromoteSettings
from data_contracts.evaluation import (
    BASE_STUDENT,
    CURRENT_RELEASE,
    EvaluationSummary,
)
from reelroute.errors import StageError


@dataclass(frozen=True, slots=True)
class GateCheck:
    """One condition of the gate, with what was seen and what is required."""

    name: str
    passed: bool
    observed: str
    required: str

    def sentence(self) -> str:
        """The condition as a sentence."""
        return f"{self.name}: {self.observed}, required {self.required}"


@dataclass(frozen=True, slots=True)
class GateDecision:
    """The gate's conditions for one candidate, all of which must hold."""

    candidate: str
    checks: tuple[GateCheck, ...]

    @property
    def passed(self) -> bool:
        """Whether the candidate may become the release."""
        return all(check.passed for check in self.checks)

    def why_not(self) -> str:
        """The conditions that do not hold."""
        return "; ".join(check.sentence() for check in self.checks if not check.passed)


def decide(summary: EvaluationSummary, settings: PromoteSettings, candidate: str) -> GateDecision:
    """Judge a candidate on the benchmark.

    Raises:
        StageError: the evaluation lacks the candidate, the base student, or, where there is a
            current release, the difference to it.
    """
    student, base = summary.candidate(candidate), summary.candidate(BASE_STUDENT)
    if student is None or base is None:
        raise StageError(f"the evaluation lacks {candidate} or {BASE_STUDENT}: run it again")
    checks = [
        GateCheck(
            "valid rate",
            student.valid_rate >= settings.valid_rate_min,
            f"{student.valid_rate:.1%}",
            f"at least {settings.valid_rate_min:.1%}",
        ),
        GateCheck(
            "rubric above the base student",
            student.rubric_interval[0] > base.rubric_interval[1],
            f"lower bound {student.rubric_interval[0]:.2f}",
            f"above {base.rubric_interval[1]:.2f}, its upper bound",
        ),
        GateCheck(
            "latency",
            student.latency_ms.p95 <= settings.max_p95_latency_ms,
            f"p95 {student.latency_ms.p95:.1f} ms",
            f"at most {settings.max_p95_latency_ms:g} ms",
        ),
    ]
    if summary.candidate(CURRENT_RELEASE):
        difference = summary.difference(candidate, CURRENT_RELEASE)
        if difference is None:
            raise StageError("the evaluation lacks the difference to the release: run it again")
        low, high = difference.interval
        checks.append(
            GateCheck(
                "no worse than the current release",
                low >= -settings.max_regression,
                f"difference {difference.mean:+.3f} ({low:+.3f} to {high:+.3f})",
                f"lower bound at least {-settings.max_regression:+.2f}",
            )
        )
    return GateDecision(candidate, tuple(checks))


def choose(decisions: Sequence[GateDecision], summary: EvaluationSummary) -> GateDecision:
    """Of several candidates the one to promote, or to refuse if none passes the gate.

    The first that passes, in the profile's order of preference, unless a later one that passes
    is better on the rubric beyond the paired bootstrap interval.

    Args:
        decisions: at least one, in the order of preference.
        summary: with the differences of the candidates.
    """
    passed = [decision for decision in decisions if decision.passed]
    if not passed:
        return max(decisions, key=lambda decision: _rubric(summary, decision.candidate))
    chosen = passed[0]
    for other in passed[1:]:
        difference = summary.difference(other.candidate, chosen.candidate)
        if difference and difference.interval[0] > 0:
            chosen = other
    return chosen


def _rubric(summary: EvaluationSummary, candidate: str) -> float:
    scores = summary.candidate(candidate)
    return scores.rubric if scores else 0.0
