"""Untrusted text is text, and secrets stay where they are: a run on a hostile queries file.

Everything that the run left is read: its objects, its artifacts in Prefect, its log.
"""

from __future__ import annotations

import configparser
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from html.parser import HTMLParser
from itertools import count, islice
from pathlib import Path
from typing import Any

import psutil
import pytest
from markdown_it import MarkdownIt
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId

from data_contracts.heldout import is_held_out, near_benchmark
from deployments.embedded.aws import EmbeddedAws
from flows.inputs import derive_run_id
from flows.pipeline import pipeline
from flows.resume import stages_of
from reelroute.service.settings import ServiceSettings
from tasks.runs import Run
from tests.conftest import new_place
from tests.hostile import CONTROL, EVIL, HOSTILE
from tests.support import Place, corpus_rows

TOKEN = "marked-session-token"
WEBHOOK = "https://hooks.example.com/marked-webhook-secret"


def hostile_queries() -> list[str]:
    """Some of each kind that are trained on, and some that are held out and so shown in reports.

    They share few words, or those to be trained on would be withheld as near to the others.
    """
    trained = [kind.format("second half of a final in heavy rain") for kind in HOSTILE]
    assert not any(is_held_out(text) or near_benchmark(text) for text in trained)
    others = (
        kind.format(f"orchestra {n} tuning violins before concert")
        for n in count()
        for kind in HOSTILE
    )
    return [*trained, *islice((text for text in others if is_held_out(text)), 6)]


@dataclass
class Left:
    """What a run left behind."""

    run: Run
    message: str
    objects: dict[str, bytes]
    artifacts: list[tuple[str, str, Any]]
    log: str
    aws_log: str

    def everything(self) -> Iterator[tuple[str, str]]:
        """Each thing by a name, as text."""
        yield "log", self.log
        yield "boto3's log", self.aws_log
        for key, data in self.objects.items():
            yield key, data.decode("utf-8", errors="replace")
        for key, _, data in self.artifacts:
            yield f"artifact {key}", str(data)


class Log(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.setFormatter(logging.Formatter("%(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


@pytest.fixture(scope="module")
def left(
    session_aws: EmbeddedAws, prefect_server: str, tmp_path_factory: pytest.TempPathFactory
) -> Left:
    session_aws.faults.clear()
    folder = tmp_path_factory.mktemp("hostile")
    place = new_place(session_aws, folder)
    lines = [*(row.query for row in corpus_rows(120)), *hostile_queries(), *CONTROL]
    queries = folder / "queries.txt"
    queries.write_text("\n".join(lines) + "\n", encoding="utf-8")
    demo = {"evaluate.demo_queries": [kind.format(0) for kind in HOSTILE]}
    place.overrides["aws.credentials_file"] = str(temporary_credentials(session_aws, folder))
    log, aws_log = Log(), Log()
    with (
        pytest.MonkeyPatch.context() as patch,
        debugging(log, "prefect.flow_runs", "prefect.task_runs", "reelroute"),
        debugging(aws_log, "botocore.auth", "botocore.endpoint", "botocore.parsers"),
    ):
        patch.setenv("REELROUTE_NOTIFY_URL", WEBHOOK)
        state = pipeline(config=place.profile(**demo), queries_file=str(queries), return_state=True)
    assert state.is_completed(), state.message
    flow_run_id = state.state_details.flow_run_id
    assert flow_run_id is not None
    return Left(
        Run(place.storage(), derive_run_id(str(flow_run_id))),
        state.message or "",
        objects(place),
        artifacts(flow_run_id),
        "\n".join(log.lines),
        "\n".join(aws_log.lines),
    )


@contextmanager
def debugging(log: Log, *names: str) -> Iterator[None]:
    """What these loggers say at DEBUG, in a log."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.addHandler(log)
        logger.setLevel(logging.DEBUG)
    yield
    for logger, level in zip(loggers, levels, strict=True):
        logger.removeHandler(log)
        logger.setLevel(level)


def temporary_credentials(aws: EmbeddedAws, folder: Path) -> Path:
    """Those of the embedded AWS with a session token, as a role has one."""
    path = folder / "credentials"
    path.write_text(f"{aws.credentials_file.read_text()}aws_session_token = {TOKEN}\n")
    return path


def objects(place: Place) -> dict[str, bytes]:
    storage = place.storage()
    found = {key: storage.get(key) for key in storage.keys("")}
    return {key: stored.data for key, stored in found.items() if stored}


def artifacts(flow_run_id: Any) -> list[tuple[str, str, Any]]:
    with get_client(sync_client=True) as prefect:
        ids = [flow_run_id, *(run.id for run in stages_of(prefect, flow_run_id))]
        found = prefect.read_artifacts(
            artifact_filter=ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=ids))
        )
        return [(a.key or "", a.type or "", a.data) for a in found]


class Active(HTMLParser):
    """What of a page would run or load something."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        for name, value in attributes:
            runs = name.startswith("on") and "alert(1)" in (value or "")
            if runs or (name in ("src", "href") and EVIL.search(value or "")):
                self.found.append(f"<{tag} {name}={value}>")

    def handle_data(self, data: str) -> None:
        if self.cdata_elem == "script" and "alert(1)" in data:
            self.found.append(f"<script>{data[:60]}")


def test_the_hostile_queries_went_all_the_way(left: Left) -> None:
    label = left.run.completed("label").metrics
    assert label["asked"] == label["accepted"] + label["duplicates"] + label["quarantined"]
    assert label["quarantined"] >= 1
    train = left.run.storage.read(left.run.completed("validate").files["train"]).decode()
    assert "<script>alert(1)</script>" in train
    report = left.run.storage.read(left.run.completed("evaluate").files["page"]).decode()
    assert "&lt;script&gt;alert(1)&lt;/script&gt; goalkeeper" in report


def test_no_artifact_has_markup_of_theirs(left: Left) -> None:
    renderer = MarkdownIt("commonmark", {"html": True}).enable("table")
    kinds = {kind for _, kind, _ in left.artifacts}
    assert {"markdown", "table", "progress"} <= kinds
    for key, kind, data in left.artifacts:
        if kind == "markdown":
            assert Active(renderer.render(data)).found == [], key
        assert not re.search("[\x00\x1b\u202e]", str(data)), key


def test_no_page_runs_or_loads_anything_of_theirs(left: Left) -> None:
    pages = {key: data.decode() for key, data in left.objects.items() if key.endswith(".html")}
    assert len(pages) >= 2
    for key, page in pages.items():
        assert Active(page).found == [], key
        assert not re.search("[\x00\x1b\u202e]", page), key


def test_no_log_line_holds_a_terminals_codes_or_their_line_breaks(left: Left) -> None:
    assert "label: " in left.log
    assert not re.search("[\x00\x1b\u202e]", left.log)


def test_no_secret_is_in_a_log_an_artifact_or_an_object(
    left: Left, session_aws: EmbeddedAws
) -> None:
    credentials = configparser.ConfigParser()
    credentials.read(session_aws.credentials_file)
    (profile,) = credentials.sections()
    secrets = [credentials[profile]["aws_secret_access_key"], TOKEN, "marked-webhook-secret"]
    names = []
    for name, text in left.everything():
        names.append(name)
        assert not [secret for secret in secrets if secret in text], name
    assert len(names) > 30
    assert "x-amz-security-token:***" in left.aws_log


def test_what_is_started_listens_on_loopback_alone(
    prefect_server: str, session_aws: EmbeddedAws
) -> None:
    ports = {
        int(url.split(":")[2].split("/")[0]) for url in (prefect_server, session_aws.endpoint_url)
    }
    listening = [
        c.laddr
        for c in psutil.net_connections("inet")
        if c.status == psutil.CONN_LISTEN and c.laddr.port in ports
    ]
    assert {address.port for address in listening} == ports
    assert {address.ip for address in listening} == {"127.0.0.1"}
    assert ServiceSettings.model_fields["host"].default == "127.0.0.1"
