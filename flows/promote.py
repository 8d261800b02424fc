"""The promote stage: the gate, and the release pointer."""

from __future__ import annotations

from flows.stage import stage_flow
from tasks.base import StageContext, StageResult
from tasks.gate import choose
from tasks.promote import (
    announce_refusal,
    build_release,
    decide_all,
    promote_release,
    read_summary,
    release_still_there,
    show_decision,
)
from tasks.stable import follow_release


@stage_flow(
    "promote",
    reads=("distill", "deploy", "evaluate"),
    settings=("promote", "deploy.mode"),
    prompts=("router",),
    still_there=release_still_there,
)
def promote(stage: StageContext) -> StageResult:
    """Let the gate decide; move the release pointer, or leave it and say why."""
    summary = read_summary(stage)
    decisions = decide_all(stage, summary)
    chosen = choose(decisions, summary)
    release = build_release(stage, summary, chosen.candidate)
    outcome = promote_release(stage, release, chosen)
    if outcome.action == "refused":
        announce_refusal(stage, chosen, outcome)
    files = show_decision(stage, decisions, chosen, outcome)
    resources, followed = {"current_release": outcome.version or ""}, ""
    if stage.settings.deploy.mode == "stable" and outcome.version:
        stable = follow_release(stage)
        if stable:
            resources["stable_deployment_arn"] = stable.deployment_arn
        followed = "; " + (
            stable.sentence()
            if stable
            else "the stable deployment stays as it is: the release answers without Bedrock"
        )
    return StageResult(
        summary=f"{outcome.sentence()}{followed}",
        files=files,
        resources=resources,
        metrics={
            "action": outcome.action,
            "candidate": chosen.candidate,
            "gate_passed": chosen.passed,
        },
        cost=stage.meter.cost,
    )
