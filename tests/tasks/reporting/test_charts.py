import io
from collections.abc import Callable

import pytest
from PIL import Image

from data_contracts.evaluation import BASE_STUDENT, EvaluationSummary
from tasks.reporting import charts
from tasks.reporting.content import FIGURES
from tests.tasks.reporting import factory

EMPTY = EvaluationSummary(run_id="run-1", benchmark=())
OF_SUMMARY = (charts.comparison, charts.slices, charts.quality_against_latency)


def size(png: bytes) -> tuple[int, int]:
    with Image.open(io.BytesIO(png)) as image:
        assert image.format == "PNG"
        return image.size


def test_every_chart_is_a_png_of_full_width_that_fits_an_artifact() -> None:
    drawn = charts.report_charts(factory.report(), factory.labelled_queries())
    assert drawn.keys() == FIGURES.keys()
    for name, png in drawn.items():
        assert size(png)[0] == 1350, name
        assert len(png) < charts.MAX_BYTES, name


def test_a_chart_grows_with_its_candidates() -> None:
    few = charts.comparison(factory.summary((BASE_STUDENT,)))
    assert size(few)[1] < size(charts.comparison(factory.summary()))[1]


def test_without_a_judge_the_comparison_shows_rubric_and_latency_alone() -> None:
    assert charts.comparison(factory.summary(judged=False)) != charts.comparison(factory.summary())


def test_the_same_data_gives_the_same_picture() -> None:
    assert charts.comparison(factory.summary()) == charts.comparison(factory.summary())


def test_charts_without_data_are_left_out() -> None:
    report = factory.report((BASE_STUDENT,), latency_steps={})
    assert charts.report_charts(report).keys() == {
        "comparison",
        "quality_against_latency",
        "slices",
    }
    assert charts.report_charts(factory.report(summary=EMPTY)) == {}


@pytest.mark.parametrize("chart", OF_SUMMARY)
def test_a_chart_of_nothing_is_refused(chart: Callable[[EvaluationSummary], bytes]) -> None:
    with pytest.raises(ValueError, match="drawn"):
        chart(EMPTY)


def test_a_distribution_of_no_examples_is_refused() -> None:
    with pytest.raises(ValueError, match="no labelled queries"):
        charts.weight_distribution([])


def test_a_latency_of_no_candidates_is_refused() -> None:
    with pytest.raises(ValueError, match="no candidates"):
        charts.latency_by_step({"search": 100}, [])


def test_instant_routers_and_many_steps_can_be_drawn() -> None:
    candidate = factory.summary((BASE_STUDENT,)).benchmark[0]
    instant = candidate.model_copy(
        update={"latency_ms": candidate.latency_ms.model_copy(update={"mean": 0.0})}
    )
    summary = EvaluationSummary(run_id="run-1", benchmark=(instant,))
    steps = {f"step {number}": 10.0 for number in range(9)}
    for png in (
        charts.comparison(summary),
        charts.quality_against_latency(summary),
        charts.latency_by_step(steps, [instant]),
        charts.latency_by_step({}, [candidate]),
    ):
        assert size(png)[0] == 1350


def test_a_candidates_colour_does_not_depend_on_who_else_is_there() -> None:
    alone = charts._colours(factory.summary((factory.LOCAL_STUDENT,)).benchmark)
    together = charts._colours(factory.summary().benchmark)
    assert alone[factory.LOCAL_STUDENT] == together[factory.LOCAL_STUDENT]
    assert len(set(together.values())) == len(together)
