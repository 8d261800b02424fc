"""The stable deployment: one ARN that stays, and whose model follows the release pointer.

It is for clients that can't read the pointer. The pointer stays the truth: it moves first, and
the deployment is brought to agree with it afterwards, by promote, by `reelroute rollback`, and
by the next of them where one was killed in between. Each release keeps a deployment of its own
beside it, which evaluation asked before there was anything to promote and which never changes;
so what follows the pointer is never touched by what happens here.

The service changes a deployment's model asynchronously and without a token: the model before
answers meanwhile. So nothing is assumed: look, wait, compare, and only then ask for a change.
A model that answers badly through the stable deployment is taken back to the one before.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import ClientError
from pydantic import ValidationError

import tasks.base
from configs.settings import Settings
from data_contracts.queries import Frozen
from reelroute.aws import error_code, speaking
from reelroute.errors import StageError
from reelroute.problems import first_problem
from reelroute.release import Release
from tasks.answers import AnswerStore
from tasks.base import StageContext, environment_tags, logger, stage_task
from tasks.cost import CostMeter
from tasks.deploy import count_valid, deployment_status
from tasks.jobs import wait
from tasks.models import Buyer, Model, ask_once
from tasks.releases import current_pointer, load_release
from tasks.storage import Storage, aws_access

MARK_KEY = "deployments/stable.json"
#: How often it is brought to agree anew, where something else moved pointer or deployment.
_ROUNDS = 5
#: What the service says where the deployment is busy, or where somebody else was faster.
_BUSY = ("ConflictException", "ValidationException")

#: Asks a release's model through an ARN: the answer's text.
Ask = Callable[[Release, str], Callable[[str], str]]


class StableDeployment(Frozen):
    """What the stable deployment served when its smoke test last passed.

    Attributes:
        version: the release that it followed.
        model_arn: the release's model.
    """

    deployment_arn: str
    region: str
    version: str
    model_arn: str

    def sentence(self) -> str:
        """What it serves, as a sentence."""
        return f"the stable deployment {self.deployment_arn} serves release {self.version}"


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What the release pointer asks for; `serial` tells whether it has moved since."""

    release: Release
    model_arn: str
    serial: int


def stable_name(settings: Settings) -> str:
    """The deployment's name: one in an environment."""
    return tasks.base.stable_name(settings.environment, settings.storage.bucket)


def read_mark(storage: Storage) -> StableDeployment | None:
    """The deployment as it last passed its smoke test, or None before the first time.

    Raises:
        StageError: the file is not what was written.
    """
    stored = storage.get(MARK_KEY)
    if stored is None:
        return None
    try:
        return StableDeployment.model_validate_json(stored.data)
    except ValidationError as error:
        raise StageError(
            f"{storage.uri(MARK_KEY)} can't be read: {first_problem(error)}. Delete it: the next "
            "promotion or rollback writes it anew"
        ) from None


@stage_task
def follow_release(stage: StageContext) -> StableDeployment | None:
    """Bring the stable deployment to the release that the pointer names, and test it.

    Smoke answers are stored before they are used: a start after a kill asks only the missing
    ones.

    Returns:
        what it serves now, or None where the release has no model in Bedrock.

    Raises:
        StageError: it could not be brought there, or answered badly and was taken back.
    """
    buyer, stores = Buyer(stage.run.run_id, stage.attempt), []

    def ask(release: Release, arn: str) -> Callable[[str], str]:
        model = _model(stage.settings, release, arn, stage.meter)
        behind = release.bedrock.model_arn.rpartition("/")[2] if release.bedrock else ""
        prefix = f"promote/answers-a{stage.attempt}/{behind}"  # one ARN, but not one model
        store = AnswerStore(stage.storage, stage.run.key(prefix))
        stores.append(store)
        stage.meter.add(buyer.bought(store.values(), model.price), once=prefix)
        prompt = release.prompt.text
        return lambda query: ask_once(model, prompt, query, store, buyer).texts[-1]

    try:
        return follow_pointer(stage.settings, stage.storage, ask)
    finally:
        for store in stores:
            store.compact()


def ask_directly(settings: Settings) -> Ask:
    """Asks without a run, as `reelroute rollback` does: nothing is stored."""

    def ask(release: Release, arn: str) -> Callable[[str], str]:
        model = _model(settings, release, arn, CostMeter(settings.budget.usd_per_run))
        return lambda query: model.ask(release.prompt.text, [query]).text

    return ask


def follow_pointer(settings: Settings, storage: Storage, ask: Ask) -> StableDeployment | None:
    """Bring the stable deployment to agree with the pointer, however often that moves.

    Returns:
        what it serves now, or None where the release has no model in Bedrock.

    Raises:
        StageError: it could not be brought there, or answered badly and was taken back.
        AwsError: AWS can't be asked.
    """
    wanted = _wanted(storage)
    for _ in range(_ROUNDS):
        if wanted is None:
            return None
        seen = _find(settings)
        if seen and seen["status"] == "Failed":
            _clear_away(settings, seen)
            seen = None
        seen = seen or _create(settings, wanted.model_arn)
        if seen:
            seen = _settled(settings, seen)
            if seen["modelArn"] != wanted.model_arn:
                seen = _move(settings, seen, wanted)
        now = _wanted(storage)
        if seen and now == wanted and seen["modelArn"] == wanted.model_arn:
            return _tested(settings, storage, seen["customModelDeploymentArn"], wanted, ask)
        wanted = now
        time.sleep(settings.deploy.poll_seconds)
    raise StageError(
        f"deployment {stable_name(settings)} could not be brought to agree with the release "
        f"pointer in {_ROUNDS} rounds: something else moves it. The pointer is as it should be; "
        "run the promote stage again, or `reelroute rollback`"
    )


def lags(settings: Settings, storage: Storage) -> bool:
    """Whether the profile wants a stable deployment, and it doesn't serve the release."""
    if settings.deploy.mode != "stable":
        return False
    wanted, mark = _wanted(storage), read_mark(storage)
    if wanted is None:
        return False
    if mark is None or mark.version != wanted.release.version:
        return True
    seen = _find(settings)
    return seen is None or seen["modelArn"] != wanted.model_arn or _is_updating(seen)


def _wanted(storage: Storage) -> _Wanted | None:
    current = current_pointer(storage)
    if current is None:
        return None
    release = load_release(storage, current.pointer)
    if release.bedrock is None:
        return None
    return _Wanted(release, release.bedrock.model_arn, current.pointer.serial)


def _find(settings: Settings) -> Mapping[str, Any] | None:
    """The deployment as the service shows it now, or None where there is none."""
    name = stable_name(settings)
    bedrock = aws_access(settings).client("bedrock")
    with speaking(f"looking for deployment {name}"):
        pages = bedrock.get_paginator("list_custom_model_deployments").paginate(nameContains=name)
        for page in pages:
            for summary in page.get("modelDeploymentSummaries", ()):
                if summary["customModelDeploymentName"] == name:
                    return _look(settings, summary["customModelDeploymentArn"])
    return None


def _look(settings: Settings, arn: str) -> Mapping[str, Any] | None:
    try:
        seen: Mapping[str, Any] = (
            aws_access(settings)
            .client("bedrock")
            .get_custom_model_deployment(customModelDeploymentIdentifier=arn)
        )
    except ClientError as error:
        if error_code(error) == "ResourceNotFoundException":
            return None
        raise
    return seen


def _clear_away(settings: Settings, failed: Mapping[str, Any]) -> None:
    """Delete a deployment that never came to life, so that its name is free again."""
    arn = failed["customModelDeploymentArn"]
    logger().warning("deployment %s had failed (%s): it is made anew", arn, _reason(failed))
    with speaking(f"deleting deployment {arn}"):
        aws_access(settings).client("bedrock").delete_custom_model_deployment(
            customModelDeploymentIdentifier=arn
        )
    ends = time.monotonic() + settings.deploy.max_minutes * 60
    while deployment_status(settings, arn) != "gone":
        if time.monotonic() > ends:
            raise StageError(
                f"deployment {arn} had failed and does not go: delete it in the console"
            )
        time.sleep(settings.deploy.poll_seconds)


def _create(settings: Settings, model_arn: str) -> Mapping[str, Any] | None:
    """Create the deployment; None where somebody else was faster."""
    name = stable_name(settings)
    tags = {**environment_tags(settings.environment), "role": "stable"}
    bedrock = aws_access(settings).client("bedrock")
    with speaking(f"creating deployment {name}"):
        try:
            answer = bedrock.create_custom_model_deployment(
                modelDeploymentName=name,
                modelArn=model_arn,
                description="ReelRoute router whose model follows the release pointer",
                tags=[{"key": key, "value": value} for key, value in tags.items()],
            )
        except ClientError as error:
            if error_code(error) == "ConflictException":
                return None
            raise
    logger().info("stable deployment %s: %s", name, answer["customModelDeploymentArn"])
    return _settled(settings, {**answer, "status": "Creating"})


def _move(settings: Settings, seen: Mapping[str, Any], wanted: _Wanted) -> Mapping[str, Any] | None:
    """Change the model behind the ARN and wait; None where the deployment was busy.

    Raises:
        StageError: the service could not change it; the model before goes on answering.
    """
    arn, before = seen["customModelDeploymentArn"], seen["modelArn"]
    bedrock = aws_access(settings).client("bedrock")
    with speaking(f"updating deployment {arn}"):
        try:
            bedrock.update_custom_model_deployment(
                customModelDeploymentIdentifier=arn, modelArn=wanted.model_arn
            )
        except ClientError as error:
            if error_code(error) in _BUSY and _is_updating(_look(settings, arn)):
                return None
            raise
    logger().info("stable deployment %s: from %s to %s", arn, before, wanted.model_arn)
    seen = wait(
        bedrock,
        "DeploymentUpdated",
        {"customModelDeploymentIdentifier": arn},
        what=f"the update of deployment {arn}",
        poll_seconds=settings.deploy.poll_seconds,
        max_seconds=settings.deploy.max_minutes * 60,
    )
    details = seen["updateDetails"]
    failed = details["updateStatus"] == "UpdateFailed" and details["modelArn"] == wanted.model_arn
    if failed and seen["modelArn"] != wanted.model_arn:
        raise StageError(
            f"deployment {arn} could not be updated to {wanted.model_arn} ({_reason(seen)}); it "
            f"goes on with {seen['modelArn']}. {_what_next(wanted)}"
        )
    return seen


def _tested(
    settings: Settings, storage: Storage, arn: str, wanted: _Wanted, ask: Ask
) -> StableDeployment:
    """Ask a few real queries, unless this release passed before; note that it passed.

    Raises:
        StageError: the answers are bad; the model that passed last is back at work.
    """
    mark = read_mark(storage)
    now = StableDeployment(
        deployment_arn=arn,
        region=settings.aws.region,
        version=wanted.release.version,
        model_arn=wanted.model_arn,
    )
    if mark == now:
        return now
    try:
        count_valid(settings, arn, ask(wanted.release, arn))
    except StageError as problem:
        before = mark.model_arn if mark and mark.deployment_arn == arn else wanted.model_arn
        if before == wanted.model_arn:
            done = "No model before it is known"
        else:
            _return(settings, arn, before)
            done = f"The stable deployment was returned to {before}"
        raise StageError(f"{problem}. {done}. {_what_next(wanted)}") from problem
    storage.put(MARK_KEY, now.model_dump_json(indent=2).encode(), "application/json")
    return now


def _return(settings: Settings, arn: str, model_arn: str) -> None:
    """Bring back the model before."""
    back = {"customModelDeploymentIdentifier": arn}
    bedrock = aws_access(settings).client("bedrock")
    with speaking(f"returning deployment {arn} to {model_arn}"):
        bedrock.update_custom_model_deployment(**back, modelArn=model_arn)
    seen = wait(
        bedrock,
        "DeploymentUpdated",
        back,
        what=f"the return of deployment {arn}",
        poll_seconds=settings.deploy.poll_seconds,
        max_seconds=settings.deploy.max_minutes * 60,
    )
    if seen["modelArn"] != model_arn:
        raise StageError(
            f"deployment {arn} answers badly with {seen['modelArn']} and could not be returned to "
            f"{model_arn} ({_reason(seen)}): update it in the Bedrock console"
        )


def _settled(settings: Settings, seen: Mapping[str, Any]) -> Mapping[str, Any]:
    """The deployment once it is neither being created nor being updated."""
    if seen["status"] == "Active" and not _is_updating(seen):
        return seen
    arn = seen["customModelDeploymentArn"]
    return wait(
        aws_access(settings).client("bedrock"),
        "DeploymentActive" if seen["status"] != "Active" else "DeploymentUpdated",
        {"customModelDeploymentIdentifier": arn},
        what=f"deployment {arn}",
        poll_seconds=settings.deploy.poll_seconds,
        max_seconds=settings.deploy.max_minutes * 60,
    )


def _is_updating(seen: Mapping[str, Any] | None) -> bool:
    return bool(seen and (seen.get("updateDetails") or {}).get("updateStatus") == "Updating")


def _reason(seen: Mapping[str, Any]) -> str:
    return str(seen.get("failureMessage") or "the service gives no reason")


def _what_next(wanted: _Wanted) -> str:
    return (
        f"The release pointer is at {wanted.release.version}: run the promote stage again, or "
        "`reelroute rollback`"
    )


def _model(settings: Settings, release: Release, arn: str, meter: CostMeter) -> Model:
    student = settings.models.student
    limit = release.bedrock.max_tokens if release.bedrock else student.max_tokens
    return Model(
        client=aws_access(settings).client("bedrock-runtime"),
        model_id=arn,
        settings=student.model_copy(update={"max_tokens": limit}),
        price=settings.price(student),
        meter=meter,
    )
