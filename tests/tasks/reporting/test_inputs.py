import pytest

from reelroute.errors import ConfigError
from tasks.reporting.inputs import PublishedFigures
from tests.tasks.reporting import factory


def test_the_committed_figures_are_those_of_the_source() -> None:
    student, haiku = factory.published_figures().candidates
    assert (student.judge, student.mean_latency_ms, student.output_format) == (
        4.0,
        833,
        "consistent JSON",
    )
    assert student.usd_per_1k_input_tokens == (0.000035, 0.000035)
    assert student.usd_per_1k_output_tokens == (0.00014, 0.00014)
    assert (haiku.judge, haiku.mean_latency_ms, haiku.output_format) == (4.0, 1741, "inconsistent")
    assert haiku.usd_per_1k_input_tokens == (0.0008, 0.001)
    assert haiku.usd_per_1k_output_tokens == (0.004, 0.005)


def test_the_configured_steps_leave_three_quarters_to_the_published_large_router() -> None:
    published = factory.published_figures()
    router = published.candidates[1].mean_latency_ms
    others = sum(published.search_steps.milliseconds.values())
    assert router / (router + others) == pytest.approx(0.75, abs=0.005)
    assert "configured" in published.search_steps.note


def test_a_wrong_document_is_refused_with_the_key_that_is_wrong() -> None:
    document = factory.published_figures().model_dump()
    document["candidates"][0]["judge"] = 7
    with pytest.raises(ConfigError, match=r"published\.yaml: candidates\.0\.judge: .*5"):
        PublishedFigures.from_document(document)


def test_an_unknown_key_is_refused() -> None:
    document = {**factory.published_figures().model_dump(), "sources": "typo"}
    with pytest.raises(ConfigError, match="sources"):
        PublishedFigures.from_document(document)


def test_a_price_range_must_ascend() -> None:
    document = factory.published_figures().model_dump()
    document["candidates"][1]["usd_per_1k_input_tokens"] = (0.001, 0.0008)
    with pytest.raises(ConfigError, match="put the lower first"):
        PublishedFigures.from_document(document)


@pytest.mark.parametrize("document", [None, [], "text"])
def test_a_document_that_is_no_mapping_is_refused(document: object) -> None:
    with pytest.raises(ConfigError, match="the document"):
        PublishedFigures.from_document(document)
