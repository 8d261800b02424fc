"""The trials: a run under one kind of fault, and runs that are killed at seeded instants."""

from __future__ import annotations

import random
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from benchmarks.chaos.invariants import Disturbance, Findings, Undisturbed, asked, examine, made
from benchmarks.chaos.results import differences, results
from benchmarks.chaos.start import Ended, Start
from benchmarks.chaos.world import RUN_ID, Site, World
from data_contracts.runs import STAGES
from deployments.embedded import faults
from deployments.embedded.faults import KINDS, Faults

#: A run that has not completed after so many starts never will.
MAX_STARTS: Final = 12
#: No start takes so long.
MAX_SECONDS: Final = 300.0
_POLL: Final = 0.005
#: Jobs and deployments that a run makes: a fault of theirs must hit one of so few.
_MADE: Final = 5
_BEGUN: Final = re.compile(rf"Beginning subflow run '(\w+) {RUN_ID}'")


@dataclass(frozen=True)
class FaultTrial:
    """How a run is disturbed by a kind of fault, and what must become of it.

    Attributes:
        mended: what makes the run complete: nothing but further starts, the fault's end (access
            is granted, keys are renewed), or somebody who removes what is stuck.
        same_results: whether the run must come to the undisturbed one's results.
        runs: how many runs it takes; a fault of jobs has few calls that it can hit.
        how: further arguments of the fault.
        settings: of the run, by dotted name.
        says: what a start that failed must say.
    """

    mended: Literal["by starts", "by its end", "by hand"] = "by starts"
    same_results: bool = True
    runs: int = 1
    how: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    says: str = ""


_SHORT_WAITS: Final = {
    "distill.max_hours": 6 / 3600,
    "deploy.max_minutes": 6 / 60,
    "evaluate.max_hours": 6 / 3600,
}
#: Kind to trial.
FAULTS: Final[dict[str, FaultTrial]] = {
    faults.THROTTLING: FaultTrial(),
    faults.SERVER_ERROR: FaultTrial(),
    faults.SERVER_ERROR_AFTER: FaultTrial(),
    faults.DROPPED: FaultTrial(),
    faults.DROPPED_AFTER: FaultTrial(),
    faults.CUT_OFF: FaultTrial(),
    faults.BROKEN_JSON: FaultTrial(),
    faults.SLOW: FaultTrial(how={"seconds": 0.5}),
    faults.FAILED_JOBS: FaultTrial(runs=3, says="ended as Failed"),
    faults.STUCK_JOBS: FaultTrial("by hand", runs=3, settings=_SHORT_WAITS, says="is still"),
    faults.DENIED_MODELS: FaultTrial("by its end", says="access denied"),
    faults.WRONG_CREDENTIALS: FaultTrial("by its end", says="AWS refused the credentials"),
    faults.EXPIRED_CREDENTIALS: FaultTrial("by its end", says="credentials have expired"),
    faults.TEACHER_ANSWERS: FaultTrial(same_results=False),
    faults.MODEL_ANSWERS: FaultTrial(same_results=False),
}


@dataclass
class Row:
    """A row of the table."""

    name: str
    runs: int = 0
    starts: int = 0
    kills: int = 0
    hits: int = 0
    extra_calls: int = 0
    allowed: int = 0
    seconds: float = 0.0
    violations: list[str] = field(default_factory=list)

    def add(self, findings: Findings) -> None:
        """Enter what was found in a run."""
        self.runs += 1
        self.extra_calls += findings.extra_calls
        self.allowed += findings.allowed
        self.violations += findings.violations


def settled(world: World) -> Undisturbed:
    """The second of two runs that nothing disturbs: the first is slow in everything.

    Raises:
        SystemExit: they don't complete, or differ; there is nothing to compare with.
    """
    first, second = undisturbed(world), undisturbed(world)
    differing = differences(second.results, first.results)
    if differing:
        raise SystemExit(f"two runs without any disturbance differ: {differing}")
    return second


def undisturbed(world: World) -> Undisturbed:
    """A run that nothing disturbs.

    Raises:
        SystemExit: it doesn't complete, or breaks an invariant.
    """
    site = world.site()
    started, watch = site.start(), Watch(site)

    def look() -> bool:
        watch.look()
        return False

    _wait(started, look)
    ended = started.wait(1)
    if ended.state != "COMPLETED":
        raise SystemExit(f"a run without any disturbance ended as {ended}; its log: {site.log}")
    calls = site.calls()
    found = Undisturbed(results(site.objects()), asked(calls), watch.seconds())
    findings = examine(site, found, Disturbance())
    if findings.violations:
        raise SystemExit(f"a run without any disturbance breaks invariants: {findings.violations}")
    return found


class Watch:
    """Reads in a start's log which stage it is in."""

    def __init__(self, site: Site) -> None:
        self._log = site.log
        self._from = site.log.stat().st_size if site.log.exists() else 0
        self._seen: dict[str, float] = {}

    def look(self) -> str | None:
        """The stage that has begun last in this start, or None."""
        if self._log.exists():
            text = self._log.read_bytes()[self._from :].decode(errors="replace")
            for stage in _BEGUN.findall(text):
                self._seen.setdefault(stage, time.monotonic())
        return list(self._seen)[-1] if self._seen else None

    def seconds(self) -> dict[str, float]:
        """How long each stage took, up to now."""
        begun = [*self._seen.values(), time.monotonic()]
        return {
            stage: following - own
            for (stage, own), following in zip(self._seen.items(), begun[1:], strict=True)
        }


def fault_trial(world: World, kind: str, base: Undisturbed, rate: float, seed: int) -> Row:
    """Runs under one kind of fault, each started again until it has completed.

    Args:
        world: where.
        kind: one of `FAULTS`.
        base: what is compared with.
        rate: the share of calls that are hit.
        seed: decides which.
    """
    trial, row = FAULTS[kind], Row(kind)
    begun = time.monotonic()
    for number in range(trial.runs):
        site = world.site(trial.settings)
        how = {"rate": rate, "seed": _telling_seed(kind, rate, seed + 1000 * number), **trial.how}
        site.aws.faults.set(kind, **how)
        for _ in range(MAX_STARTS):
            row.starts += 1
            ended = site.start().wait(MAX_SECONDS)
            if ended.state == "COMPLETED":
                break
            row.violations += _unsaid(ended, trial, kind)
            if trial.mended == "by its end":
                row.hits += _hits(site)
                site.aws.faults.clear()
            elif trial.mended == "by hand":
                _remove_stuck(site)
        else:
            row.violations.append(f"not completed after {MAX_STARTS} starts: {ended.message}")
        row.hits += _hits(site)
        site.aws.faults.clear()
        disturbance = Disturbance(
            same_results=trial.same_results, may_fail=True, spoils=not trial.same_results
        )
        row.add(examine(site, base, disturbance))
    row.seconds = time.monotonic() - begun
    if not row.hits:
        row.violations.append("the fault has hit no call")
    return row


def _telling_seed(kind: str, rate: float, seed: int) -> int:
    """The seed itself or, where few calls can be hit, the next one that hits one of them."""
    if kind not in (faults.FAILED_JOBS, faults.STUCK_JOBS):
        return seed
    service, operation = KINDS[kind].services[0], KINDS[kind].operations[0]
    while True:
        dice = Faults()
        dice.set(kind, rate=rate, seed=seed)
        if any(dice.draw(kind, service, operation) for _ in range(_MADE)):
            return seed
        seed += 1


def _unsaid(ended: Ended, trial: FaultTrial, kind: str) -> Iterator[str]:
    if ended.state == "FAILED" and trial.says in ended.message:
        return
    yield f"{kind}: ended as {ended.state}: {ended.message!r}, which doesn't say {trial.says!r}"


def _hits(site: Site) -> int:
    return sum(int(entry["hits"]) for entry in site.aws.faults.on())


def _remove_stuck(site: Site) -> None:
    """What an operator does about jobs and deployments that don't end."""
    bedrock = site.aws.client("bedrock")
    for one in made(site):
        if one.kind == "customization job" and one.status == "InProgress":
            bedrock.stop_model_customization_job(jobIdentifier=one.arn)
        elif one.kind == "evaluation job" and one.status == "InProgress":
            bedrock.stop_evaluation_job(jobIdentifier=one.arn)
        elif one.kind == "deployment" and one.status == "Creating":
            bedrock.delete_custom_model_deployment(customModelDeploymentIdentifier=one.arn)


def kill_trial(
    world: World,
    base: Undisturbed,
    kills: int,
    seed: int,
    say: Callable[[str], None] = lambda text: None,
    kills_a_run: int = 6,
) -> tuple[Row, Counter[str]]:
    """Runs that are killed at random instants, spread over the stages, and started again.

    Args:
        world: where.
        base: what is compared with; its stages' times say when to kill.
        kills: how many in all.
        seed: decides the instants.
        say: told of every run.
        kills_a_run: how often one run is killed before it may complete.

    Returns:
        the table's row, and how many kills hit each stage.
    """
    dice, row, hit = random.Random(seed), Row("SIGKILL"), Counter[str]()
    pace = 1.0  # how long stages take now, as a share of what they took undisturbed
    begun = time.monotonic()
    while row.kills < kills:
        wanted = min(kills_a_run, kills - row.kills)
        # Stages that were hit the least come first; in a run the earlier stage is killed first.
        order = sorted(STAGES, key=lambda stage: (hit[stage], dice.random()))
        targets = sorted(
            (order[n % len(order)] for n in range(wanted)), key=lambda stage: STAGES.index(stage)
        )
        site, in_flight, killed = world.site(), 0, []
        ended = Ended("Killed", "")
        for target in targets:
            row.starts += 1
            started = site.start()
            stage = kill_in(started, Watch(site), target, pace * base.seconds[target], dice)
            if stage != target:
                pace *= 0.8
            if stage is None:
                ended = started.wait(MAX_SECONDS)
                break
            killed.append(stage)
            in_flight += _concurrency(site, stage)
        while ended.state == "Killed" and row.starts < MAX_STARTS * (row.runs + 1):
            row.starts += 1
            ended = site.start().wait(MAX_SECONDS)
        row.kills += len(killed)
        hit.update(killed)
        if ended.state != "COMPLETED":
            row.violations.append(f"killed in {killed}, it ended as {ended}")
        findings = examine(site, base, Disturbance(calls_in_flight=in_flight))
        row.add(findings)
        say(
            f"  killed in {', '.join(killed) or 'no stage'}: {ended.state.lower()}, "
            f"{findings.extra_calls} calls repeated; {'; '.join(findings.violations) or 'fine'}"
        )
    row.seconds = time.monotonic() - begun
    return row, hit


def kill_in(
    started: Start, watch: Watch, target: str, seconds: float, dice: random.Random
) -> str | None:
    """Kill a start at a random instant of a stage, which takes about so many seconds.

    Returns:
        the stage that it was in, or None if it had ended before.
    """
    _wait(started, lambda: watch.look() == target)
    _wait(started, lambda: False, dice.random() * seconds)
    if not started.runs:
        return None
    stage = watch.look()
    started.kill()
    return stage


def _wait(started: Start, until: Callable[[], bool], seconds: float = MAX_SECONDS) -> None:
    """Wait until a start has ended, `until` is true, or so many seconds have passed."""
    ends = time.monotonic() + seconds
    while started.runs and not until() and time.monotonic() < ends:
        time.sleep(_POLL)


def _concurrency(site: Site, stage: str) -> int:
    """The model calls that a stage has in flight together."""
    settings = site.settings
    return {
        "label": settings.label.at_work,
        "deploy": 1,
        "evaluate": settings.evaluate.concurrency,
    }.get(stage, 0)
