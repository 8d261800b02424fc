"""Releases of students in Bedrock, in S3, against the embedded AWS."""

from __future__ import annotations

import pytest

from reelroute.errors import AwsError
from reelroute.routers import Router
from reelroute.weights import MODALITIES
from tasks.releases import POINTER_KEY
from tasks.storage import aws_access
from tests.conftest import Finished
from tests.reelroute.routers.conftest import HARD, Open, Store, bedrock_model, store_in_s3
from tests.support import TEACHER, CallsSince, Place, fault


@pytest.fixture
def released(place: Place) -> Store:
    """A release that asks the teacher, which is there without a pipeline."""
    store = store_in_s3(place)
    store.promote("one", router="bedrock", local=None, bedrock=bedrock_model(TEACHER))
    return store


def test_the_release_of_a_pipeline_routes_and_fuses(finished: Finished) -> None:
    settings = finished.place.settings()
    uri = f"s3://{finished.place.bucket}/{POINTER_KEY}"
    with Router.from_release(uri, aws_access(settings), deadline_ms=None) as router:
        weights = router.route("CEO discussing quarterly earnings")
    assert weights.router == "bedrock"
    fused = weights.fuse({m: {"clip-1": 1.0, "clip-2": 0.0} for m in MODALITIES})
    assert fused == {"clip-1": pytest.approx(1), "clip-2": 0}


def test_an_answer_that_is_remembered_is_not_asked_again(
    released: Store, opened: Open, calls: CallsSince
) -> None:
    router = opened(released)
    first = router.route("a dog")
    assert router.route(" a  dog ") == first
    assert router.route_many(["a dog", "a cat", "a dog"])[0] == first
    assert calls.asked() == 2


def test_where_the_model_cannot_be_reached_rules_answer_and_say_why(
    released: Store, opened: Open, place: Place
) -> None:
    router = opened(released)
    with fault(place.aws, "wrong-credentials"):
        weights = router.route("dog barking")
        many = router.route_many(["dog barking", "sunset"])
        with pytest.raises(AwsError):  # the pointer can't be read either; the release stays
            router.refresh()
        with pytest.raises(AwsError):
            opened(released, fallback=False)
    assert weights.router == "rules"
    assert "AWS refused the credentials" in weights.reasoning
    assert [w.router for w in many] == ["rules", "rules"]
    assert router.route("dog barking").router == "bedrock"  # a stopgap is not remembered


def test_without_fallback_a_model_that_cannot_be_reached_is_an_error(
    released: Store, opened: Open, place: Place
) -> None:
    router = opened(released, fallback=False)
    with fault(place.aws, "wrong-credentials"), pytest.raises(AwsError):
        router.route("a dog")


def test_a_cascade_asks_bedrock_for_what_is_hard_alone(
    released: Store, opened: Open, calls: CallsSince
) -> None:
    released.promote("two", router="cascade", pass_on_above=0.1, bedrock=bedrock_model(TEACHER))
    router = opened(released)
    answers = router.route_many(["a dog", f"a {HARD} dog", "a cat"])
    assert [w.router for w in answers] == ["two", "bedrock", "two"]
    assert calls.asked() == 1
