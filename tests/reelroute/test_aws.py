"""AWS's answers: damaged ones are asked for again, and never taken for empty ones."""

from __future__ import annotations

import pytest

from reelroute.aws import AwsAccess, speaking
from reelroute.errors import RetryableAwsError
from tests.support import CallsSince, Place, fault, hits_of

DAMAGED_FIRST = next(seed for seed in range(99) if hits_of("broken-json", seed) == [True, False])


@pytest.fixture
def access(place: Place) -> AwsAccess:
    aws = place.aws
    return AwsAccess(
        aws.region, aws.endpoint_url, aws.credentials_file, aws.profile, max_attempts=2
    )


def test_a_damaged_answer_is_asked_for_again(
    access: AwsAccess, place: Place, calls: CallsSince
) -> None:
    bedrock = access.client("bedrock")
    good = bedrock.list_foundation_models()["modelSummaries"]
    with fault(place.aws, "broken-json", rate=0.5, seed=DAMAGED_FIRST):
        assert bedrock.list_foundation_models()["modelSummaries"] == good
    assert calls.count("ListFoundationModels") == 3


def test_an_answer_that_stays_damaged_is_an_error_and_no_empty_listing(
    access: AwsAccess, place: Place
) -> None:
    with (
        fault(place.aws, "broken-json"),
        pytest.raises(RetryableAwsError, match=r"listing models: 500: .* arrived damaged"),
        speaking("listing models"),
    ):
        access.client("bedrock").list_foundation_models()
