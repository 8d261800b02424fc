"""The pipeline's own artifact: one a run, kept up to date, with the way to what the run left."""

from __future__ import annotations

from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId

from data_contracts.runs import STAGES
from flows.overview import KEY, files_link
from tests.conftest import Finished
from tests.support import Place


def overviews(flow_run_id: str) -> list[str]:
    with get_client(sync_client=True) as prefect:
        only = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[UUID(flow_run_id)]))
        found = prefect.read_artifacts(artifact_filter=only)
    return [str(artifact.data) for artifact in found if artifact.key == KEY]


def test_a_run_has_one_overview_that_shows_every_stage_as_it_ended(finished: Finished) -> None:
    (shown,) = overviews(finished.flow_run_id)
    for name in STAGES:
        assert f"| {name} | Completed | 1 |" in shown


def test_it_names_files_report_and_what_was_made_in_aws(finished: Finished) -> None:
    (shown,) = overviews(finished.flow_run_id)
    run = finished.run
    assert f"`s3://{run.storage.bucket}/{run.prefix}`" in shown
    assert run.completed("evaluate").files["page"].key in shown
    deployment = run.completed("deploy").resources["deployment_arn"]
    assert deployment.rpartition("/")[2] in shown


def test_on_aws_the_files_are_a_link_into_the_console(place: Place) -> None:
    run, settings = place.run("run-1"), place.settings()
    on_aws = settings.model_copy(
        update={"aws": settings.aws.model_copy(update={"endpoint_url": None})}
    )
    shown = files_link(run, on_aws)
    assert (
        f"](https://s3.console.aws.amazon.com/s3/buckets/{place.bucket}"
        "?region=us-east-1&prefix=runs%2Frun-1%2F)" in shown
    )


def test_it_ends_with_what_all_attempts_have_bought_beside_the_budget(finished: Finished) -> None:
    (shown,) = overviews(finished.flow_run_id)
    cost = finished.run.manifest().cost
    assert f"| all attempts | | | | {cost.usd:.4f} sim. | of a budget of $100; " in shown
    assert f"{cost.calls:,} calls, {cost.input_tokens + cost.output_tokens:,} tokens |" in shown
