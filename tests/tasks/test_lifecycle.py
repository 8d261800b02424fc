"""The life of models: looked at before anything is bought."""

from __future__ import annotations

import logging

import pytest

from configs.settings import load_settings
from deployments.embedded.faults import THROTTLING
from deployments.embedded.models.catalogue import LEGACY_TEACHER, RETIRED_TEACHER
from flows.pipeline import pipeline
from reelroute.errors import ConfigError
from tasks.lifecycle import (
    check_lifecycles,
    configured_models,
    documented_pairs,
    foundation_models,
)
from tests.support import CallsSince, Place, fault

TEACHER = "embedded.teacher-v1:0"
BUYING = ("Converse", "CreateModelCustomizationJob", "CreateEvaluationJob")


@pytest.mark.usefixtures("prefect_server")
def test_a_run_with_a_model_past_its_end_buys_nothing(place: Place, calls: CallsSince) -> None:
    config = place.profile(models__distillation_teacher=RETIRED_TEACHER)
    state = pipeline(config=config, return_state=True)
    assert state.is_failed()
    assert f"distillation teacher {RETIRED_TEACHER} is past its end of life" in state.message
    assert f"live here: {TEACHER} → embedded.light-student-v1:0" in state.message
    assert calls.count("GetFoundationModel") >= 1
    assert calls.count(*BUYING) == 0
    assert list(place.storage().keys("")) == []


def test_all_models_past_their_end_are_named(place: Place) -> None:
    typed = place.settings(
        models__teacher__id=RETIRED_TEACHER,
        models__judge__id="us.amazon.nova-premier-v1:0",
    )
    with pytest.raises(ConfigError) as refusal:
        check_lifecycles(typed)
    assert f"the teacher {RETIRED_TEACHER} is past its end of life (Leg" in str(refusal.value)
    assert "the judge us.amazon.nova-premier-v1:0 is past its end" in str(refusal.value)


def test_a_legacy_model_is_a_warning(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "reelroute"):
        check_lifecycles(place.settings(models__teacher__id=LEGACY_TEACHER))
    (said,) = caplog.messages
    assert f"the teacher {LEGACY_TEACHER} is LEGACY: Legacy since 20" in said


def test_a_life_that_can_not_be_looked_up_is_a_warning(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "reelroute"), fault(place.aws, THROTTLING):
        check_lifecycles(place.settings())
    assert len(caplog.messages) == len(configured_models(place.settings()))
    assert "ThrottlingException" in caplog.messages[0]


def test_the_published_solutions_teacher_has_ended() -> None:
    models = configured_models(load_settings("configs/seed.yaml"))
    assert models["us.amazon.nova-premier-v1:0"] == "teacher and distillation teacher"


@pytest.mark.parametrize(
    ("named", "models"),
    [
        (TEACHER, [TEACHER]),
        (f"us.{TEACHER}", [TEACHER]),
        (f"arn:aws:bedrock:us-east-1:123456789012:inference-profile/us.{TEACHER}", [TEACHER]),
        (f"arn:aws:bedrock:us-east-1::foundation-model/{TEACHER}", [TEACHER]),
        ("arn:aws:bedrock:us-east-1:123456789012:custom-model-deployment/abcdefghijkl", []),
    ],
)
def test_a_profiles_models_are_found_behind_their_names(
    named: str, models: list[str], place: Place
) -> None:
    assert foundation_models(place.aws.client("bedrock"), named) == models


@pytest.mark.parametrize("profile", ["configs/local.yaml", "configs/aws.yaml", "configs/seed.yaml"])
def test_the_profiles_pairs_are_documented(profile: str) -> None:
    models = load_settings(profile).models
    teacher = models.distillation_teacher.removeprefix("us.")
    student = models.student.customization_id.removesuffix(":128k")
    assert (teacher, student) in set(documented_pairs())
