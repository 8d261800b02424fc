"""Promote: the gate decides, the release is written, the pointer moves or stays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from prefect.artifacts import create_markdown_artifact
from prefect.events import emit_event

from configs.settings import Settings
from data_contracts.evaluation import (
    CASCADE,
    DISTILLED_STUDENT,
    LOCAL_STUDENT,
    EvaluationSummary,
)
from data_contracts.events import GATE_REFUSED, environment_resource
from data_contracts.runs import StageRecord, StoredFile
from reelroute.errors import ReleaseError, StageError
from reelroute.release import BedrockModel, Release, ReleasePointer, RouterKind, sha256
from tasks.base import StageContext, stage_task
from tasks.deploy import SERVING, deployment_status
from tasks.gate import GateDecision, decide
from tasks.local_student import local_model, publish_student
from tasks.releases import (
    current_pointer,
    load_release,
    move_pointer,
    write_release,
)
from tasks.stable import ask_directly, follow_pointer, lags
from tasks.storage import Storage

_ROUTERS: dict[str, RouterKind] = {
    LOCAL_STUDENT: "local",
    CASCADE: "cascade",
    DISTILLED_STUDENT: "bedrock",
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of the release pointer, and why."""

    action: Literal["promoted", "identical", "refused"]
    version: str | None
    reason: str

    def sentence(self) -> str:
        """What became of the pointer, as a sentence."""
        if self.action == "promoted":
            return f"promoted: {self.version} is the release ({self.reason})"
        kept = f"{self.version} stays the release" if self.version else "there is no release yet"
        return f"{self.action}: {kept} ({self.reason})"


def read_summary(stage: StageContext) -> EvaluationSummary:
    """The run's evaluation."""
    return EvaluationSummary.model_validate_json(stage.read("evaluate", "summary"))


def decide_all(stage: StageContext, summary: EvaluationSummary) -> list[GateDecision]:
    """The gate's decision on every candidate that the profile allows and the run has.

    Raises:
        StageError: the run has none of them.
    """
    settings = stage.settings.promote
    there = [name for name in settings.candidates if summary.candidate(name)]
    if not there:
        raise StageError(
            f"the run has none of the candidates {', '.join(settings.candidates)}: correct "
            "`promote.candidates` or `distill.students`"
        )
    return [decide(summary, settings, name) for name in there]


def build_release(stage: StageContext, summary: EvaluationSummary, candidate: str) -> Release:
    """The release of a candidate; the same run and evaluation give the same release."""
    settings = stage.settings
    distill, deploy = stage.upstream["distill"], stage.upstream["deploy"]
    scores = summary.candidate(candidate)
    if scores is None:
        raise StageError(f"the evaluation lacks {candidate}: run it again")
    router = _ROUTERS[candidate]
    bedrock = local = None
    if router != "local":
        bedrock = BedrockModel(
            deployment_arn=deploy.resources["deployment_arn"],
            model_arn=distill.resources["model_arn"],
            fingerprint=distill.resources["fingerprint"],
            region=settings.aws.region,
            max_tokens=settings.models.student.max_tokens,
        )
    if router != "bedrock":
        local = local_model(distill)
    release = Release(
        version="unnamed",
        run_id=stage.run.run_id,
        created_at=stage.upstream["evaluate"].ended_at,
        router=router,
        prompt=settings.prompt("router"),
        bedrock=bedrock,
        local=local,
        pass_on_above=summary.pass_on_above if router == "cascade" else None,
        evaluation=scores.model_dump(mode="json", exclude={"slices"}),
    )
    digest = sha256(release.to_bytes())[:8]
    return release.model_copy(update={"version": f"{stage.run.run_id}-{digest}"})


@stage_task
def promote_release(stage: StageContext, release: Release, decision: GateDecision) -> Outcome:
    """Move the pointer to the release, or leave it and say why.

    Raises:
        ReleaseError: the pointer was moved by somebody else meanwhile.
    """
    storage = stage.storage
    current = current_pointer(storage)
    if current:
        if current.pointer.version == release.version:
            return Outcome("promoted", release.version, "the pointer is there already")
        now = load_release(storage, current.pointer)
        if now.identity == release.identity:
            return Outcome(
                "identical", now.version, f"the model is identical to release {now.version}'s"
            )
    if not decision.passed:
        return Outcome("refused", current.pointer.version if current else None, decision.why_not())
    if release.local:
        publish_student(storage, stage.upstream["distill"], release.local)
    ref = write_release(storage, release)
    pointer = move_pointer(storage, current, ref, "promote")
    before = current.pointer.version if current else "none"
    return Outcome("promoted", release.version, f"serial {pointer.serial}, before it {before}")


@stage_task
def show_decision(
    stage: StageContext, decisions: Sequence[GateDecision], chosen: GateDecision, outcome: Outcome
) -> dict[str, StoredFile]:
    """The gate's conditions and the outcome as an artifact and as a file."""
    lines = [f"# {outcome.action.capitalize()}", "", outcome.sentence(), ""]
    for decision in decisions:
        word = "passes" if decision.passed else "does not pass"
        mark = " — chosen" if decision is chosen else ""
        lines += [
            f"## {decision.candidate} {word}{mark}",
            "",
            "| | condition | observed | required |",
            "|---|---|---|---|",
            *(
                f"| {'✅' if check.passed else '❌'} | {check.name} | {check.observed} "
                f"| {check.required} |"
                for check in decision.checks
            ),
            "",
        ]
    markdown = "\n".join(lines)
    create_markdown_artifact(
        key="gate", markdown=markdown, description="Whether the run's model may be the release"
    )
    return {"gate": stage.run.put_text("promote/gate.md", markdown, "text/markdown")}


def announce_refusal(stage: StageContext, chosen: GateDecision, outcome: Outcome) -> None:
    """Let Prefect's automations know that the gate kept the run's model from the release."""
    emit_event(
        event=GATE_REFUSED,
        resource=environment_resource(stage.settings.environment),
        payload={
            "message": f"run {stage.run.run_id}: {outcome.sentence()}",
            "run_id": stage.run.run_id,
            "candidate": chosen.candidate,
            "release": outcome.version,
            "failed": [check.name for check in chosen.checks if not check.passed],
        },
    )


def roll_back(settings: Settings, storage: Storage) -> tuple[str, ReleasePointer]:
    """Move the pointer back to the release before the current one.

    Returns:
        the version that was left, and the pointer as it is now.

    Raises:
        ReleaseError: there is none before, its deployment is gone, or the pointer was moved
            by somebody else meanwhile.
    """
    current = current_pointer(storage)
    if current is None:
        raise ReleaseError("there is no release to roll back: `reelroute run` makes the first")
    if not current.pointer.history:
        raise ReleaseError(f"{current.pointer.version} is the first release, none is before it")
    to = current.pointer.history[0]
    release = load_release(storage, to)
    if release.bedrock:
        status = deployment_status(settings, release.bedrock.deployment_arn)
        if status not in SERVING:
            raise ReleaseError(
                f"release {to.version}'s deployment {release.bedrock.deployment_arn} is {status}; "
                "the pointer stays. Run the pipeline again to make a new release"
            )
    return current.pointer.version, move_pointer(storage, current, to, "rollback")


def roll_back_with_stable(settings: Settings, storage: Storage, say: Callable[[str], None]) -> None:
    """Move the pointer back, and have the stable deployment, if there is one, follow.

    Where that was begun and killed before the deployment followed, only the rest is done.

    Args:
        say: told each step once it is done.

    Raises:
        ReleaseError: as `roll_back`.
        StageError: the pointer has moved, and the stable deployment could not follow.
    """
    current = current_pointer(storage)
    if current and current.pointer.action == "rollback" and lags(settings, storage):
        say(f"the pointer was moved back to {current.pointer.version} before")
    else:
        left, pointer = roll_back(settings, storage)
        say(f"rolled back from {left} to {pointer.version} (serial {pointer.serial})")
    if settings.deploy.mode == "stable":
        stable = follow_pointer(settings, storage, ask_directly(settings))
        if stable:
            say(stable.sentence())


def release_still_there(settings: Settings, record: StageRecord) -> bool:
    """Whether the pointer still agrees with what the record says of it, and is followed."""
    storage = Storage(settings)
    current = current_pointer(storage)
    version = current.pointer.version if current else ""
    return version == record.resources.get("current_release", "") and not lags(settings, storage)
