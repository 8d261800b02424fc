"""Cleanup: what no kept release or run needs, first as a plan, then removed step by step.

A thing of AWS is an environment's own if its name begins as the environment's names do and its
tags say so; nothing else is ever touched. Releases, the label store and whatever lies outside of
`runs/` stay.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from botocore.exceptions import ClientError

from configs.settings import Settings
from data_contracts.runs import RunParameters
from reelroute.aws import error_code, speaking
from reelroute.errors import StageError
from reelroute.release import Release
from tasks.base import RUN_TAG, environment_tags, name_prefix
from tasks.deploy import deployment_status
from tasks.lease import holder_of
from tasks.releases import current_pointer, load_release
from tasks.runs import RUNS_PREFIX, Run
from tasks.storage import Storage, aws_access

_GONE = "ResourceNotFoundException"

Kind = Literal["deployment", "provisioned", "model", "run"]


@dataclass(frozen=True, slots=True)
class Removal:
    """One step of a cleanup.

    Attributes:
        name: the thing's name in AWS, or the run's id.
        target: its ARN, or the prefix of the run's folder.
        reason: why nothing needs it.
        stays: why it can't be removed yet all the same, or empty.
    """

    kind: Kind
    name: str
    target: str
    reason: str
    stays: str = ""

    def __str__(self) -> str:
        return f"{self.kind:11s} {self.name}: {self.stays or self.reason}"


@dataclass(frozen=True, slots=True)
class _Needed:
    """What must stay, and the runs that need not.

    Attributes:
        runs: ids of the runs that stay; what they have made stays with them.
        arns: models and deployments that kept releases and runs name, whoever made them.
        old_runs: ids of this environment's other runs, the oldest first.
        released: models and deployments that kept releases name.
        at_work: the run that holds the environment's lease, or empty.
    """

    runs: frozenset[str]
    arns: frozenset[str]
    old_runs: tuple[str, ...]
    released: frozenset[str]
    at_work: str


def plan_cleanup(settings: Settings, storage: Storage) -> list[Removal]:
    """What may go: deployments and Provisioned Throughput first, then models, then runs' folders.

    What stays: the current release and the `cleanup.keep` before it, the newest `cleanup.runs`
    runs, the run that holds the environment's lease, and all that these have made or use. Of
    Provisioned Throughput, which is billed while it is idle, only what releases name and what
    the run at work has bought stays. What a commitment binds is listed, and stays until then.

    Raises:
        ReleaseError: a release that is to be kept can't be read.
        StageError: a record, a run's parameters or the lease can't be read.
        AwsError: AWS can't be asked.
    """
    needed = _needed(settings, storage)
    used, deployments = set(), []
    for summary in _listed(settings, "list_custom_model_deployments", "modelDeploymentSummaries"):
        found = _removal(
            settings,
            needed,
            "deployment",
            str(summary["customModelDeploymentName"]),
            str(summary["customModelDeploymentArn"]),
        )
        if found:
            deployments.append(found)
        else:
            used.add(str(summary["modelArn"]))
    for summary in _listed(
        settings, "list_provisioned_model_throughputs", "provisionedModelSummaries"
    ):
        bought = _provisioned_removal(settings, needed, summary)
        if bought:
            deployments.append(bought)
        if bought is None or bought.stays:
            used |= {str(summary["modelArn"]), str(summary["desiredModelArn"])}
    models = []
    for summary in _listed(settings, "list_custom_models", "modelSummaries"):
        name, arn = str(summary["modelName"]), str(summary["modelArn"])
        if arn not in used and (found := _removal(settings, needed, "model", name, arn)):
            models.append(found)
    newest = f"no kept release's, and not among the newest {settings.cleanup.runs} runs"
    folders = [
        Removal("run", run_id, Run(storage, run_id).prefix, newest) for run_id in needed.old_runs
    ]
    return [*deployments, *models, *folders]


def remove(settings: Settings, storage: Storage, removal: Removal) -> None:
    """Do one step of the plan; what is gone already counts as done.

    Raises:
        StageError: it can't go yet, or a deployment, or objects of a run's folder, don't go.
        AwsError: AWS refuses, or can't be asked.
    """
    if removal.stays:
        raise StageError(f"{removal.kind} {removal.name} can't be removed: {removal.stays}")
    if removal.kind == "run":
        _remove_folder(storage, removal.target)
        return
    bedrock = aws_access(settings).client("bedrock")
    with speaking(f"deleting {removal.kind} {removal.name}"):
        try:
            if removal.kind == "deployment":
                bedrock.delete_custom_model_deployment(
                    customModelDeploymentIdentifier=removal.target
                )
            elif removal.kind == "provisioned":
                bedrock.delete_provisioned_model_throughput(provisionedModelId=removal.target)
            else:
                bedrock.delete_custom_model(modelIdentifier=removal.target)
        except ClientError as error:
            if error_code(error) != _GONE:
                raise
    if removal.kind in ("deployment", "provisioned"):
        _wait_until_gone(settings, removal)


def _needed(settings: Settings, storage: Storage) -> _Needed:
    releases = _kept_releases(settings, storage)
    runs = {release.run_id for release in releases}
    holder = holder_of(storage, settings.environment)
    if holder:
        runs.add(holder.run_id)
    mine: list[RunParameters] = []
    for run_id in storage.folders(RUNS_PREFIX):
        run = Run(storage, run_id)
        parameters = run.parameters()
        if parameters and parameters.environment == settings.environment:
            mine.append(parameters)
        elif any(storage.keys(run.prefix)):
            runs.add(run_id)
    mine.sort(key=lambda parameters: parameters.created_at)
    runs |= {parameters.run_id for parameters in mine[-settings.cleanup.runs :]}
    arns = {
        arn
        for release in releases
        if release.bedrock
        for arn in (release.bedrock.deployment_arn, release.bedrock.model_arn)
    }
    released = frozenset(arns)
    for record in [record for run_id in runs for record in Run(storage, run_id).records()]:
        arns.update(record.resources.values())
        runs |= {
            file.key.removeprefix(RUNS_PREFIX).partition("/")[0]
            for file in record.files.values()
            if file.key.startswith(RUNS_PREFIX)
        }
    old = tuple(parameters.run_id for parameters in mine if parameters.run_id not in runs)
    at_work = holder.run_id if holder else ""
    return _Needed(frozenset(runs), frozenset(arns), old, released, at_work)


def _kept_releases(settings: Settings, storage: Storage) -> list[Release]:
    """The current release and those before it that stay within reach."""
    current = current_pointer(storage)
    if current is None:
        return []
    refs = (current.pointer, *current.pointer.history[: settings.cleanup.keep])
    return [load_release(storage, ref) for ref in refs]


def _listed(settings: Settings, operation: str, summaries: str) -> Iterator[Mapping[str, Any]]:
    """All that a listing of Bedrock names, the account's other things too."""
    bedrock = aws_access(settings).client("bedrock")
    with speaking(operation.replace("_", " ").replace("list", "listing", 1)):
        for page in bedrock.get_paginator(operation).paginate():
            yield from page.get(summaries, ())


def _removal(
    settings: Settings, needed: _Needed, kind: Kind, name: str, arn: str
) -> Removal | None:
    """How a model or deployment goes, or None if it stays."""
    if arn in needed.arns:
        return None
    its_run = _made_by(settings, name, arn)
    if its_run is None or its_run in needed.runs:
        return None
    return Removal(kind, name, arn, f"no kept release or run uses it (made by run {its_run})")


def _provisioned_removal(
    settings: Settings, needed: _Needed, summary: Mapping[str, Any]
) -> Removal | None:
    """How Provisioned Throughput goes, why it can't yet, or None if it is needed."""
    name, arn = str(summary["provisionedModelName"]), str(summary["provisionedModelArn"])
    if arn in needed.released:
        return None
    its_run = _made_by(settings, name, arn)
    if its_run is None or its_run == needed.at_work:
        return None
    reason = f"no kept release uses it, and it is billed by the hour (bought by run {its_run})"
    left = _hours_committed(summary)
    if left <= 0:
        return Removal("provisioned", name, arn, reason)
    ends = summary["commitmentExpirationTime"]
    return Removal(
        "provisioned",
        name,
        arn,
        reason,
        f"{reason}, but it is committed until {ends:%Y-%m-%d %H:%M} UTC: AWS deletes it no "
        f"earlier and bills {summary['modelUnits']} model units for another {left:,.0f} hours",
    )


def _hours_committed(summary: Mapping[str, Any]) -> float:
    """For how many hours a commitment still binds."""
    ends: datetime | None = summary.get("commitmentExpirationTime")
    return (ends - datetime.now(UTC)).total_seconds() / 3600 if ends else 0.0


def _made_by(settings: Settings, name: str, arn: str) -> str | None:
    """The run of this environment that made a thing of AWS, or None if none did."""
    if not name.startswith(name_prefix(settings.environment, settings.storage.bucket)):
        return None
    tags = _tags(settings, arn)
    ours = environment_tags(settings.environment).items() <= tags.items()
    return tags.get(RUN_TAG) if ours else None


def _tags(settings: Settings, arn: str) -> dict[str, str]:
    """A resource's tags; none if it has gone meanwhile."""
    with speaking(f"reading the tags of {arn}"):
        try:
            answer = aws_access(settings).client("bedrock").list_tags_for_resource(resourceARN=arn)
        except ClientError as error:
            if error_code(error) == _GONE:
                return {}
            raise
    return {tag["key"]: tag["value"] for tag in answer["tags"]}


def _wait_until_gone(settings: Settings, removal: Removal) -> None:
    """A model can't be deleted before its deployment is gone."""
    limits = settings.deploy
    ends = time.monotonic() + limits.max_minutes * 60
    while (status := deployment_status(settings, removal.target)) != "gone":
        if time.monotonic() > ends:
            raise StageError(
                f"deployment {removal.name} is still {status} {limits.max_minutes:g} min after "
                "its deletion: look at it in the Bedrock console, then clean up again"
            )
        time.sleep(limits.poll_seconds)


def _remove_folder(storage: Storage, prefix: str) -> None:
    """Remove a run's folder; its parameters go last, so that until then it is a run."""
    parameters = f"{prefix}run.json"
    storage.delete([key for key in storage.keys(prefix) if key != parameters])
    left = [key for key in storage.keys(prefix) if key != parameters]
    if left:
        raise StageError(
            f"{len(left)} objects of {storage.uri(prefix)} were not deleted, as {left[0]}: "
            "grant the role in use s3:DeleteObject, then clean up again"
        )
    storage.delete([parameters])
