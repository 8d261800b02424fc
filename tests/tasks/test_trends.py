"""Trends: one page over all runs and releases, from the records in the bucket."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner

from flows.cli import trends
from reelroute.errors import ReelRouteError
from tasks.trends import ReleaseTrend, RunTrend, read_trends, trends_page
from tests.conftest import Finished
from tests.support import Place, record
from tests.tasks.reporting import factory

HOSTILE = "<script>alert(1)</script> ![x](https://example.com/x.png) \x1b[31mred\u202e"


def run_trend(run_id: str, outcome: str = "promoted", evaluated: bool = True) -> RunTrend:
    return RunTrend(
        run_id=run_id,
        created_at=datetime(2026, 1, 5, tzinfo=UTC),
        status="completed",
        candidates=factory.summary().benchmark if evaluated else (),
        outcome=outcome,
        usd=1.5,
        simulated=True,
        minutes=6.25,
    )


def test_a_finished_run_and_its_release_are_read_from_their_records(finished: Finished) -> None:
    runs, releases = read_trends(finished.run.storage)
    (run,) = [run for run in runs if run.run_id == finished.run.run_id]
    assert {scores.name for scores in run.candidates} >= {"base-student", "distilled-student"}
    assert run.outcome.startswith("promoted: ")
    assert run.usd == pytest.approx(finished.run.manifest().cost.usd)
    assert run.minutes > 0
    assert sum(release.current for release in releases) == 1
    assert releases[-1].rubric is not None


def test_a_run_that_failed_early_has_its_reason_and_no_scores(place: Place) -> None:
    run = place.run("run-1")
    run.write_record(record(run, "label", status="failed", error="the plan can't be filled"))
    (trend,), releases = read_trends(place.storage())
    assert (trend.status, trend.outcome, trend.candidates) == (
        "failed",
        "the plan can't be filled",
        (),
    )
    assert releases == []


def test_the_page_needs_nothing_beside_it_and_shows_every_run_and_release() -> None:
    release = ReleaseTrend("a-1", "local", 4.11, datetime(2026, 1, 5, tzinfo=UTC), True)
    page = trends_page([run_trend("run-1"), run_trend("run-2")], [release], "s3://bucket")
    assert page.count("data:image/png;base64,") == 5
    assert not re.search(r'(?:src|href)="(?!data:|#)', page)
    assert "<script" not in page
    for shown in ("run-1", "run-2", "a-1", "4.11", "~1.5000", "s3://bucket"):
        assert shown in page


def test_runs_without_an_evaluation_have_no_charts_of_quality() -> None:
    page = trends_page([run_trend("run-1", evaluated=False)], [], "s3://bucket")
    assert page.count("data:image/png;base64,") == 2
    assert "Releases</h2>" not in page


def test_what_a_record_says_is_text_and_nothing_else() -> None:
    page = trends_page([run_trend("run-1", outcome=HOSTILE)], [], "s3://bucket")
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert" in page
    assert "\x1b" not in page
    assert "\u202e" not in page


def test_the_command_writes_the_page_where_it_is_told(finished: Finished, tmp_path: Path) -> None:
    page = tmp_path / "new" / "trends.html"
    done = CliRunner().invoke(trends, ["--config", finished.config, "--output", str(page)])
    assert done.exit_code == 0, done.output
    assert finished.run.run_id in page.read_text(encoding="utf-8")
    assert str(page) in done.output


def test_without_runs_there_is_a_sentence(place: Place) -> None:
    done = CliRunner().invoke(trends, ["--config", place.profile()])
    assert isinstance(done.exception, ReelRouteError)
    assert "there are no runs in s3://" in str(done.exception)
