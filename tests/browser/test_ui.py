"""The Prefect UI in a real browser, as the engineer who operates the pipeline uses it.

Minutes long, so only on request: `make browser`. With SCREENSHOTS set, the pictures
of the README are taken anew.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prefect.client.schemas.objects import FlowRun

from configs.settings import ROOT, load_settings
from data_contracts.runs import STAGES
from deployments.embedded.aws import EmbeddedAws
from deployments.embedded.provision import make_bucket
from flows.inputs import derive_run_id
from reelroute.aws import AwsAccess
from tasks.runs import Run
from tasks.storage import Storage
from tests.hostile import EVIL, HOSTILE
from tests.stack import Stack, free_port, until
from tests.support import fault

pytestmark = [pytest.mark.browser, pytest.mark.timeout(1800)]

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
BUCKET = "reelroute-local"
CONFIG = "configs/local.yaml"
OVERRIDES = '{"label.size": 300, "distill.students": ["bedrock"]}'
MAX_BYTES = 300_000


@pytest.fixture(scope="module")
def stack(session_aws: EmbeddedAws, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The local profile as it is, deployed, with a worker; where things are is in the variables."""
    port = free_port()
    stack = Stack(
        tmp_path_factory.mktemp("stack"),
        port,
        {
            "REELROUTE__PREFECT__API_URL": f"http://127.0.0.1:{port}/api",
            "REELROUTE__AWS__ENDPOINT_URL": session_aws.endpoint_url,
            "REELROUTE__AWS__CREDENTIALS_FILE": str(session_aws.credentials_file),
            "REELROUTE__SCHEDULE__ACTIVE": "false",
        },
    )
    access = AwsAccess(
        "us-east-1", session_aws.endpoint_url, session_aws.credentials_file, "embedded"
    )
    make_bucket(access.client("s3"), BUCKET)
    try:
        stack.start_server()
        stack.deploy(CONFIG)
        stack.start_worker(CONFIG)
        yield stack
    finally:
        stack.close()


@pytest.fixture(scope="module")
def page(stack: Stack) -> Iterator[Any]:
    """A page of a headless browser."""
    if CHROMIUM is None:
        pytest.skip("there is no chromium on this machine")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport={"width": 1440, "height": 1000})
        page.set_default_timeout(60_000)
        yield page
        browser.close()


@pytest.fixture
def picture(page: Any, tmp_path: Path) -> Any:
    """Takes a picture of the page as it is shown."""
    folder = ROOT / "docs" / "images" if "SCREENSHOTS" in os.environ else tmp_path

    def take(name: str) -> None:
        page.wait_for_timeout(2500)  # until animations have ended
        path = folder / f"{name}.png"
        page.screenshot(path=path)
        assert path.stat().st_size < MAX_BYTES

    return take


def stack_storage(stack: Stack) -> Storage:
    """The bucket that the stack's runs work in."""
    return Storage(
        load_settings(
            CONFIG,
            {
                "aws.endpoint_url": stack.more["REELROUTE__AWS__ENDPOINT_URL"],
                "aws.credentials_file": stack.more["REELROUTE__AWS__CREDENTIALS_FILE"],
            },
        )
    )


def open_deployment(stack: Stack, page: Any, name: str) -> None:
    with stack.client() as prefect:
        found = prefect.read_deployment_by_name(f"{name}/local")
    page.goto(f"{stack.url}/deployments/deployment/{found.id}")


def open_form(page: Any) -> None:
    page.get_by_role("button", name="Run", exact=True).click()
    page.get_by_text("Custom run").click()
    page.get_by_role("button", name="Submit").wait_for()


def submit(stack: Stack, page: Any, name: str) -> FlowRun:
    """Submit the form; the flow run that it started."""
    before = {run.id for run in flow_runs(stack, name)}
    # A click that comes before the form is ready is lost; the form that took one goes away.
    for _ in range(4):
        page.get_by_role("button", name="Submit").click()
        try:
            page.wait_for_url(
                lambda url: "/deployment/" not in url or "/run" not in url, timeout=15_000
            )
            break
        except playwright.TimeoutError:
            if any(run.id not in before for run in flow_runs(stack, name)):
                break

    def started() -> FlowRun | None:
        return next((run for run in flow_runs(stack, name) if run.id not in before), None)

    return until(f"the form has started {name}", started)


def flow_runs(stack: Stack, flow_name: str) -> list[FlowRun]:
    from prefect.client.schemas.filters import FlowFilter, FlowFilterName

    with stack.client() as prefect:
        return list(
            prefect.read_flow_runs(flow_filter=FlowFilter(name=FlowFilterName(any_=[flow_name])))
        )


def open_tab(page: Any, name: str) -> None:
    page.locator("li.p-tab", has_text=name).click()


def open_artifact(stack: Stack, page: Any, key: str) -> None:
    """The newest artifact of a key, by way of the key's history."""
    page.goto(f"{stack.url}/artifacts/key/{key}")
    page.locator("a[href*='/artifacts/artifact/']").first.click()
    page.wait_for_url("**/artifacts/artifact/**")


@pytest.fixture(scope="module")
def retried(stack: Stack, page: Any, session_aws: EmbeddedAws) -> dict[str, Any]:
    """A run started from the UI's form, broken by a fault, retried in the UI until it is done."""
    session_aws.faults.clear()
    shown: dict[str, Any] = {}
    open_deployment(stack, page, "pipeline")
    open_form(page)
    shown["form"] = page.inner_text("body")
    page.get_by_text("dict", exact=True).click()
    page.locator(".p-code-input__textarea").first.fill(OVERRIDES)
    shown["form picture"] = page.screenshot()
    with fault(session_aws, "teacher-answers", style="prose"):
        run = submit(stack, page, "pipeline")
        page.goto(f"{stack.url}/runs/flow-run/{run.id}")
        assert stack.ended(run).state_name == "Failed"
    page.get_by_text("Failed", exact=True).first.wait_for()
    page.wait_for_timeout(2500)
    shown["failed"] = page.inner_text("body")
    shown["failed picture"] = page.screenshot()
    page.get_by_role("button", name="Retry").first.click()
    page.get_by_role("button", name="Retry").last.click()

    def again() -> FlowRun | None:
        found = stack.flow_run(run)
        return found if found.state_name == "Completed" else None

    shown["run"] = until("the retried run is done", again, 600)
    return shown


def test_the_form_has_a_help_text_for_every_parameter(retried: dict[str, Any]) -> None:
    for text in (
        "The profile, relative to the checkout.",
        "A run to go on with; empty starts a new one.",
        "Settings that differ from the profile",
        "Own queries, a line each, in place of written ones",
        "Run stages again even where nothing has changed.",
    ):
        assert text in retried["form"]


def test_a_broken_stage_says_what_to_do_without_a_stack_trace(retried: dict[str, Any]) -> None:
    assert "label: the label plan can't be filled" in retried["failed"]
    assert "Lower the cell in the plan" in retried["failed"]
    assert "Traceback" not in retried["failed"]


def test_retry_goes_on_with_the_same_run_and_every_stage_ends(
    retried: dict[str, Any], stack: Stack, page: Any, picture: Any
) -> None:
    run = retried["run"]
    assert run.run_count == 2
    run_id = derive_run_id(str(run.id))
    page.goto(f"{stack.url}/runs/flow-run/{run.id}")
    page.get_by_text(f"pipeline {run_id}").first.wait_for()
    picture("prefect-pipeline")
    open_tab(page, "Subflow Runs")
    for name in STAGES:
        page.get_by_role("link", name=f"{name} {run_id}").first.wait_for()
    picture("prefect-retry")
    assert stack.stage_states(run) == dict.fromkeys(STAGES, "Completed")


def test_the_artifacts_show_stages_scores_report_and_gate(
    retried: dict[str, Any], stack: Stack, page: Any, picture: Any
) -> None:
    run_id = derive_run_id(str(retried["run"].id))
    open_artifact(stack, page, "pipeline")
    page.get_by_text(f"s3://{BUCKET}/runs/{run_id}/").first.wait_for()
    picture("prefect-artifacts")
    open_artifact(stack, page, "evaluation")
    page.get_by_text("distilled-student").first.wait_for()
    open_artifact(stack, page, "evaluation-report")
    chart = page.locator("img[src^='data:image/png']").first
    chart.wait_for()
    assert chart.evaluate("image => image.naturalWidth") > 0
    picture("prefect-report")
    open_artifact(stack, page, "gate")
    page.get_by_text(re.compile("is the release")).first.wait_for()


def test_pictures_of_form_and_failure_fit_the_readme(retried: dict[str, Any]) -> None:
    for name in ("form", "failed"):
        data = retried[f"{name} picture"]
        assert len(data) < MAX_BYTES
        if "SCREENSHOTS" in os.environ:
            (ROOT / "docs" / "images" / f"prefect-{name}.png").write_bytes(data)


def test_hostile_text_is_shown_as_text_in_report_and_ui(
    retried: dict[str, Any], stack: Stack, page: Any, picture: Any, tmp_path: Path
) -> None:
    """Neither the UI nor the page runs it, loads anything for it, or makes a link of it."""
    asked: list[str] = []
    dialogs: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
    shown = [kind.format("in heavy rain") for kind in HOSTILE]
    overrides = {
        "label.size": 300,
        "distill.students": ["bedrock"],
        "evaluate.demo_queries": shown,
    }
    run = stack.ended(stack.trigger("pipeline/local", overrides=overrides), 600)
    assert run.state_name == "Completed", run.state
    open_artifact(stack, page, "evaluation-report")
    first = page.get_by_text("<script>alert(1)</script> goalkeeper saves in heavy rain").first
    first.scroll_into_view_if_needed()
    picture("prefect-hostile")
    links = page.locator("a").evaluate_all("links => links.map(link => link.href)")
    record = Run(stack_storage(stack), derive_run_id(str(run.id))).completed("evaluate")
    report = tmp_path / "report.html"
    report.write_bytes(stack_storage(stack).read(record.files["page"]))
    page.goto(report.as_uri())
    page.get_by_text("<script>alert(1)</script> goalkeeper saves in heavy rain").first.wait_for()
    links += page.locator("a").evaluate_all("links => links.map(link => link.href)")
    assert dialogs == []
    assert [url for url in [*asked, *links] if EVIL.search(url)] == []


def test_the_page_of_trends_shows_its_charts(
    retried: dict[str, Any], stack: Stack, page: Any, picture: Any, tmp_path: Path
) -> None:
    file = tmp_path / "trends.html"
    command = [sys.executable, "-m", "reelroute.cli", "trends", "--output", str(file)]
    subprocess.run(command, cwd=ROOT, env=stack.environment(), check=True)
    page.goto(file.as_uri())
    charts = page.locator("figure img")
    assert charts.count() == 5
    assert all(charts.evaluate_all("all => all.map(image => image.naturalWidth > 0)"))
    picture("trends-page")


def test_each_stage_alone_runs_on_a_run_from_before_the_servers_restart(
    retried: dict[str, Any], stack: Stack, page: Any, picture: Any
) -> None:
    run_id = derive_run_id(str(retried["run"].id))
    stack.stop("worker")
    stack.stop("server")
    stack.start_server()
    stack.start_worker(CONFIG)
    for name in STAGES:
        open_deployment(stack, page, name)
        open_form(page)
        field = page.locator("label, .p-label, div").filter(has_text="The run whose stage is run.")
        field.last.wait_for()
        page.locator("textarea").first.fill(run_id)
        ended = stack.ended(submit(stack, page, name))
        assert ended.parameters["run_id"] == run_id
        assert ended.state_name in ("Skipped", "Completed"), ended.state
    page.goto(f"{stack.url}/deployments")
    page.get_by_text("promote").first.wait_for()
    picture("prefect-deployments")
