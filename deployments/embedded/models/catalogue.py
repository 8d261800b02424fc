"""Which foundation models the embedded AWS offers."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache, cached_property
from threading import RLock
from typing import Any, Final

from deployments.embedded.models.answers import RoutingModel
from deployments.embedded.models.base_student import BaseStudent
from deployments.embedded.models.corpus import recorded_answers
from deployments.embedded.models.embeddings import static_embeddings
from deployments.embedded.models.judge import DirectJudge
from deployments.embedded.models.large_baseline import LargeBaseline, without_held_out
from deployments.embedded.models.nearest import NearestAnswers
from deployments.embedded.models.teacher import Teacher

TEACHER: Final = "embedded.teacher-v1:0"
LIGHT_STUDENT: Final = "embedded.light-student-v1:0"
LARGE_BASELINE: Final = "embedded.large-baseline-v1:0"
RUBRIC_JUDGE: Final = "embedded.rubric-judge-v1:0"
#: Models that a profile had better not hold on to: one nears its end, one doesn't answer any more.
LEGACY_TEACHER: Final = "embedded.legacy-teacher-v1:0"
RETIRED_TEACHER: Final = "embedded.retired-teacher-v1:0"

_START_OF_LIFE: Final = datetime(2026, 1, 1, tzinfo=UTC)
#: How long a Legacy model is so before its end.
_LEGACY_TIME: Final = timedelta(days=180)
#: The geographies whose inference profiles stand for a model in several regions.
_GEOGRAPHIES: Final = {"us": ("us-east-1", "us-west-2")}


@dataclass(frozen=True, slots=True)
class FoundationModel:
    """What the service says about a foundation model.

    Attributes:
        model_id: `provider.name-version`.
        name: at most 20 characters.
        customizations: the kinds of customization job that take it as the base model.
        judges: whether an evaluation job can name it as the evaluator.
        days_left: days until the end of its life, negative after it; None where no end is set.
    """

    model_id: str
    name: str
    customizations: tuple[str, ...] = ()
    judges: bool = False
    days_left: int | None = None

    @property
    def retired(self) -> bool:
        """Whether it is past its end of life."""
        return self.days_left is not None and self.days_left < 0

    def arn(self, region: str) -> str:
        """The model's ARN in a region."""
        return f"arn:aws:bedrock:{region}::foundation-model/{self.model_id}"

    def details(self, region: str) -> dict[str, Any]:
        """The model as `GetFoundationModel` and `ListFoundationModels` show it."""
        return {
            "modelArn": self.arn(region),
            "modelId": self.model_id,
            "modelName": self.name,
            "providerName": "embedded",
            "inputModalities": ["TEXT"],
            "outputModalities": ["TEXT"],
            "responseStreamingSupported": False,
            "customizationsSupported": list(self.customizations),
            "inferenceTypesSupported": ["ON_DEMAND"],
            "modelLifecycle": self._lifecycle(),
        }

    def _lifecycle(self) -> dict[str, Any]:
        if self.days_left is None:
            return {"status": "ACTIVE", "startOfLifeTime": _START_OF_LIFE}
        today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        end = today + timedelta(days=self.days_left)
        return {
            "status": "LEGACY",
            "startOfLifeTime": _START_OF_LIFE,
            "legacyTime": end - _LEGACY_TIME,
            "endOfLifeTime": end,
        }


FOUNDATION_MODELS: Final = (
    FoundationModel(TEACHER, "Teacher"),
    FoundationModel(LIGHT_STUDENT, "Light student", customizations=("DISTILLATION", "FINE_TUNING")),
    FoundationModel(LARGE_BASELINE, "Large baseline"),
    FoundationModel(RUBRIC_JUDGE, "Rubric judge", judges=True),
    FoundationModel(LEGACY_TEACHER, "Legacy teacher", days_left=90),
    FoundationModel(RETIRED_TEACHER, "Retired teacher", days_left=-30),
)


def foundation_model(identifier: str) -> FoundationModel | None:
    """The model with this id or ARN."""
    model_id = identifier.rsplit("foundation-model/", 1)[-1]
    return next((model for model in FOUNDATION_MODELS if model.model_id == model_id), None)


def inference_profile(identifier: str) -> tuple[FoundationModel, tuple[str, ...]] | None:
    """The model and the regions that an inference profile's id or ARN stands for."""
    geography, _, model_id = identifier.rpartition("/")[2].partition(".")
    model = foundation_model(model_id)
    regions = _GEOGRAPHIES.get(geography)
    return (model, regions) if model and regions else None


class RoutingModels:
    """The foundation models that answer, each loaded when it is first asked."""

    def __init__(self) -> None:
        self._loading = RLock()

    def model(self, model_id: str) -> RoutingModel:
        """The model that answers for a foundation model's id.

        Raises:
            KeyError: no such model, or it is past its end of life.
        """
        with self._loading:
            match model_id:
                case "embedded.teacher-v1:0" | "embedded.legacy-teacher-v1:0":
                    return self._teacher
                case "embedded.light-student-v1:0":
                    return self._base_student
                case "embedded.large-baseline-v1:0":
                    return self._large_baseline
                case "embedded.rubric-judge-v1:0":
                    return DirectJudge()
        raise KeyError(model_id)

    def load(self) -> None:
        """Load them all, so that no call pays for it."""
        for model in FOUNDATION_MODELS:
            if not model.retired:
                self.model(model.model_id)

    @cached_property
    def _teacher(self) -> Teacher:
        memory = recorded_answers()
        return Teacher(memory, NearestAnswers(memory, static_embeddings()))

    @cached_property
    def _base_student(self) -> BaseStudent:
        return BaseStudent(static_embeddings())

    @cached_property
    def _large_baseline(self) -> LargeBaseline:
        memory = without_held_out(recorded_answers())
        return LargeBaseline(NearestAnswers(memory, static_embeddings()))


@cache
def routing_models() -> RoutingModels:
    """The models of this process: they don't change, so every server shares them."""
    return RoutingModels()
