"""The gate: whether a candidate may become the release. Pure; the reasons are sentences."""

from __future__ import annotations

from dataclasses import dataclass

from configs.settings import PromoteSettings
from data_contracts.evaluation import (
    BASE_STUDENT,
    CURRENT_RELEASE,
    DISTILLED_STUDENT,
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
    """The gate's conditions, all of which must hold."""

    checks: tuple[GateCheck, ...]

    @property
    def passed(self) -> bool:
        """Whether the candidate may become the release."""
        return all(check.passed for check in self.checks)

    def why_not(self) -> str:
        """The conditions that do not hold."""
        return "; ".join(check.sentence() for check in self.checks if not check.passed)


def decide(summary: EvaluationSummary, settings: PromoteSettings) -> GateDecision:
    """Judge the distilled student on the benchmark.

    Raises:
        StageError: the evaluation lacks the student, the base student, or, where there is a
            current release, the difference to it.
    """
    student, base = summary.candidate(DISTILLED_STUDENT), summary.candidate(BASE_STUDENT)
    if student is None or base is None:
        raise StageError("the evaluation lacks the distilled or the base student: run it again")
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
            f"above the base student's upper bound {base.rubric_interval[1]:.2f}",
        ),
        GateCheck(
            "latency",
            student.latency_ms.p95 <= settings.max_p95_latency_ms,
            f"p95 {student.latency_ms.p95:.1f} ms",
            f"at most {settings.max_p95_latency_ms:g} ms",
        ),
    ]
    if summary.candidate(CURRENT_RELEASE):
        difference = next(
            (
                d
                for d in summary.differences
                if (d.candidate, d.against) == (DISTILLED_STUDENT, CURRENT_RELEASE)
            ),
            None,
        )
        if difference is None:
            raise StageError("the evaluation lacks the difference to the release: run it again")
        low, high = difference.interval
        checks.append(
            GateCheck(
                "no worse than the current release",
                low >= -settings.max_regression,
                f"paired difference {difference.mean:+.3f} (95% {low:+.3f} to {high:+.3f})",
                f"lower bound not below {-settings.max_regression:+.2f}",
            )
        )
    return GateDecision(tuple(checks))
