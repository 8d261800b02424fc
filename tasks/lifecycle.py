"""The life of foundation models: active, legacy with its dates, or past its end."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Any

import yaml

from configs.settings import CONFIGS, Settings
from reelroute.aws import error_code, speaking
from reelroute.errors import AwsError, ConfigError
from tasks.base import logger
from tasks.storage import aws_access

#: An inference profile's id is a model's after a geography, as in us.amazon.nova-pro-v1:0.
_PROFILE = re.compile(r"[a-z-]+\.(?P<model>[a-z0-9-]+\.[a-z].*)")
_PROFILE_ARN = re.compile(
    r"arn:aws[a-z-]*:bedrock:[^:]*:\d{12}:(application-)?inference-profile/.+"
)
_MODEL_ARN = re.compile(r"arn:aws[a-z-]*:bedrock:[^:]*::foundation-model/(?P<model>.+)")


@dataclass(frozen=True, slots=True)
class Lifecycle:
    """What the service says of a foundation model's life.

    Attributes:
        model_id: without geography.
        name: as people know it, with its provider.
        status: ACTIVE or LEGACY.
        legacy: since when it is not for new users, where that is known.
        end: from when on it answers no more, where that is known.
    """

    model_id: str
    name: str
    status: str
    legacy: datetime | None
    end: datetime | None

    def ended(self, now: datetime) -> bool:
        """Whether it is past its end."""
        return self.end is not None and self.end <= now

    @property
    def dates(self) -> str:
        """Its dates in words, as far as they are known."""
        known = [
            f"{what} {moment:%Y-%m-%d}"
            for what, moment in (("Legacy since", self.legacy), ("end of life", self.end))
            if moment
        ]
        return ", ".join(known) or "no dates given"


def configured_models(settings: Settings) -> dict[str, str]:
    """The profile's models: what they are for, by id; one that serves twice is named once."""
    models = settings.models
    teaches = settings.distill.customization == "distillation"
    uses = (
        (models.teacher.id, "teacher"),
        (models.student.id, "student"),
        (models.student.customization_id, "student"),
        (models.large_baseline.id, "large baseline"),
        (models.judge.id, "judge"),
        (models.distillation_teacher if teaches else "", "distillation teacher"),
    )
    found: dict[str, list[str]] = {}
    for model_id, use in uses:
        if not model_id:
            continue
        roles = found.setdefault(model_id, [])
        if use not in roles:
            roles.append(use)
    return {model_id: " and ".join(roles) for model_id, roles in found.items()}


def foundation_models(bedrock: Any, model_id: str) -> list[str]:
    """The foundation models behind what a profile names, without their regions.

    An inference profile stands for one model in several regions. What is neither a foundation
    model nor an inference profile (a custom model's deployment) has none.

    Raises:
        AwsError: the inference profile can't be looked up.
    """
    if match := _MODEL_ARN.fullmatch(model_id):
        return [match["model"]]
    profile = _PROFILE.fullmatch(model_id)
    if profile and profile["model"] in _ended():
        return [profile["model"]]
    if profile or _PROFILE_ARN.fullmatch(model_id):
        with speaking(f"looking up the inference profile {model_id}"):
            answer = bedrock.get_inference_profile(inferenceProfileIdentifier=model_id)
        arns = (model["modelArn"].rpartition("/")[2] for model in answer["models"])
        return list(dict.fromkeys(arns))
    return [] if model_id.startswith("arn:") else [model_id]


def lifecycle(bedrock: Any, model_id: str) -> Lifecycle:
    """A foundation model's life.

    Raises:
        AwsError: the service doesn't know it or can't be asked.
    """
    try:
        with speaking(f"looking up the model {model_id}"):
            details = bedrock.get_foundation_model(modelIdentifier=model_id)["modelDetails"]
    except AwsError as error:
        if model_id in _ended() and unknown(error):
            return Lifecycle(model_id, model_id, "LEGACY", None, _ended()[model_id])
        raise
    life = details.get("modelLifecycle", {})
    provider, name = details.get("providerName", ""), details.get("modelName", model_id)
    return Lifecycle(
        model_id,
        name if name.startswith(provider) else f"{provider} {name}",
        life.get("status", "ACTIVE"),
        life.get("legacyTime"),
        life.get("endOfLifeTime"),
    )


def unknown(error: AwsError) -> bool:
    """Whether the service says that it doesn't know a model."""
    code = error_code(error.__cause__ or error)
    return code in ("ResourceNotFoundException", "ValidationException")


@cache
def _documented() -> dict[str, Any]:
    path = CONFIGS / "distillation_pairs.yaml"
    documented: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return documented


def _ended() -> dict[str, datetime]:
    """Models whose end is documented, in case the service doesn't know them any more."""
    return {
        model_id: datetime(day.year, day.month, day.day, tzinfo=UTC)
        for model_id, day in _documented()["ended"].items()
    }


def documented_pairs() -> Iterator[tuple[str, str]]:
    """Teacher and student of each distillation that Bedrock documents."""
    for pair in _documented()["pairs"]:
        yield from ((pair["teacher"], student) for student in pair["students"])


def living_pairs(bedrock: Any, now: datetime) -> list[tuple[str, str]]:
    """The documented pairs whose models this region offers and that are active."""
    alive: dict[str, bool] = {}

    def lives(model_id: str) -> bool:
        if model_id not in alive:
            try:
                found = lifecycle(bedrock, model_id)
                alive[model_id] = found.status == "ACTIVE" and not found.ended(now)
            except AwsError:
                alive[model_id] = False
        return alive[model_id]

    return [pair for pair in documented_pairs() if lives(pair[0]) and lives(pair[1])]


def said(pairs: list[tuple[str, str]]) -> str:
    """Pairs in words."""
    return ", ".join(f"{teacher} → {student}" for teacher, student in pairs) or "none here"


def check_lifecycles(settings: Settings) -> None:
    """Refuse a profile with a model past its end of life, before anything is bought.

    A model in its Legacy state is logged as a warning, and one that can't be looked up too: the
    service itself says no to what it can't do.

    Raises:
        ConfigError: a model is past its end; the message names what is left.
    """
    bedrock, now = aws_access(settings).client("bedrock"), datetime.now(UTC)
    ended = []
    for model_id, use in configured_models(settings).items():
        try:
            lives = [lifecycle(bedrock, found) for found in foundation_models(bedrock, model_id)]
        except AwsError as error:
            logger().warning("the life of the %s is not known: %s", use, error)
            continue
        for life in lives:
            if life.ended(now):
                ended.append(f"the {use} {model_id} is past its end of life ({life.dates})")
            elif life.status != "ACTIVE":
                logger().warning("the %s %s is %s: %s", use, model_id, life.status, life.dates)
    if ended:
        raise ConfigError(
            f"{'; '.join(ended)}. Name another one under `models` in the profile. Documented pairs "
            f"of teacher and student that live here: {said(living_pairs(bedrock, now))}"
        )
