"""The promote stage: the gate, and the release pointer."""

from __future__ import annotations

from flows.stage import stage_flow
from tasks.base import StageContext, StageResult
from tasks.gate import decide
from tasks.promote import (
    build_release,
    promote_release,
    read_summary,
    release_still_there,
    show_decision,
)


@stage_flow(
    "promote",
    reads=("distill", "deploy", "evaluate"),
    settings=("promote",),
    prompts=("router",),
    still_there=release_still_there,
)
def promote(stage: StageContext) -> StageResult:
    """Let the gate decide; move the release pointer, or leave it and say why."""
    summary = read_summary(stage)
    decision = decide(summary, stage.settings.promote)
    release = build_release(stage, summary)
    outcome = promote_release(stage, release, decision)
    files = show_decision(stage, decision, outcome)
    return StageResult(
        summary=outcome.sentence(),
        files=files,
        resources={"current_release": outcome.version or ""},
        metrics={"action": outcome.action, "gate_passed": decision.passed},
    )
