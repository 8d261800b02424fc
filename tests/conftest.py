"""One embedded AWS and one Prefect server for the session; a fresh bucket for each test."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

_HOME = Path(tempfile.mkdtemp(prefix="reelroute-tests-"))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


_API_URL = f"http://127.0.0.1:{_free_port()}/api"

_CALLS = os.environ.get("REELROUTE_RECORD_CALLS", str(_HOME / "calls"))

# Nothing of the user's own environment reaches the tests. Prefect reads its settings when it is
# imported, so they are set before any test module is.
for _variable in list(os.environ):
    if _variable.startswith(("PREFECT_", "REELROUTE", "AWS_")):
        del os.environ[_variable]
os.environ |= {
    "PREFECT_HOME": str(_HOME / "prefect"),
    "PREFECT_API_URL": _API_URL,
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_CLOUD_ENABLE_ORCHESTRATION_TELEMETRY": "false",
    "PREFECT_LOGGING_LEVEL": "ERROR",
    "PREFECT_LOGGING_TO_API_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "REELROUTE_RECORD_CALLS": _CALLS,
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": str(_HOME / "no-aws-config"),
    "AWS_SHARED_CREDENTIALS_FILE": str(_HOME / "no-aws-credentials"),
}

from deployments.embedded.aws import EmbeddedAws  # noqa: E402
from deployments.embedded.calls import Call  # noqa: E402
from deployments.embedded.credentials import PROFILE, REGION  # noqa: E402
from deployments.embedded.process import end  # noqa: E402
from deployments.embedded.provision import make_bucket  # noqa: E402
from reelroute.aws import AwsAccess  # noqa: E402
from tasks.runs import Run  # noqa: E402
from tasks.storage import aws_access  # noqa: E402
from tests.support import CallsSince, Place  # noqa: E402

pytest_plugins = ("tests.conformance",)


def pytest_unconfigure() -> None:
    shutil.rmtree(_HOME, ignore_errors=True)


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[str]:
    """The address of a real Prefect server of the session's own."""
    port = _API_URL.removesuffix("/api").rpartition(":")[2]
    log = _HOME / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "prefect", "server", "start", "--no-services", "--port", port],
            env={key: value for key, value in os.environ.items() if key != "PREFECT_API_URL"},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        _wait_until_healthy(process, log)
        with pytest.MonkeyPatch.context() as patch:
            # At a flow run's end its heartbeat may sleep for a second yet.
            patch.setattr("prefect.flow_engine.BaseFlowRunEngine.heartbeat_seconds", None)
            yield _API_URL
    finally:
        end(process.pid)


def _wait_until_healthy(process: subprocess.Popen[bytes], log: Path) -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    pause = threading.Event()
    for _ in range(1200):
        assert process.poll() is None, log.read_text(encoding="utf-8", errors="replace")
        try:
            opener.open(f"{_API_URL}/health", timeout=2).close()
        except OSError:
            pause.wait(0.1)
        else:
            return
    raise AssertionError(f"no Prefect server: {log.read_text(encoding='utf-8', errors='replace')}")


@pytest.fixture(scope="session", autouse=True)
def _clients_are_made_once() -> Iterator[None]:
    """A client takes long to make and is thread-safe; those of `EmbeddedAws` are its own."""
    make = AwsAccess.client

    def own(service: str, endpoint_url: str, credentials_file: Path) -> Any:
        return make(
            AwsAccess(REGION, endpoint_url, credentials_file, PROFILE, max_attempts=1), service
        )

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(AwsAccess, "client", cache(make))
        patch.setattr("deployments.embedded.aws.client", own)
        yield


@pytest.fixture(scope="session")
def session_aws() -> Iterator[EmbeddedAws]:
    with EmbeddedAws(bucket="reelroute-tests") as aws:
        yield aws


@pytest.fixture
def embedded(session_aws: EmbeddedAws) -> Iterator[EmbeddedAws]:
    """The session's embedded AWS; what a test made fail works again after it."""
    yield session_aws
    session_aws.faults.clear()


def new_place(aws: EmbeddedAws, folder: Path, overrides: dict[str, Any] | None = None) -> Place:
    """A fresh bucket; `overrides` are settings that hold in all of this place."""
    place = Place(aws, _API_URL, folder, f"test-{uuid4().hex[:12]}", overrides or {})
    make_bucket(aws_access(place.settings()).client("s3"), place.bucket)
    return place


@pytest.fixture
def place(embedded: EmbeddedAws, tmp_path: Path) -> Place:
    """A fresh bucket, with factories for settings, runs and stages in it."""
    return new_place(embedded, tmp_path)


@pytest.fixture
def calls(embedded: EmbeddedAws) -> CallsSince:
    """The calls that the embedded AWS gets from here on."""
    return CallsSince(embedded)


@dataclass(frozen=True)
class Finished:
    """A pipeline that has run to its end; many tests read it, none changes it."""

    place: Place
    config: str
    run: Run
    flow_run_id: str
    message: str
    calls: Sequence[Call]


@pytest.fixture(scope="session")
def finished(
    session_aws: EmbeddedAws, prefect_server: str, tmp_path_factory: pytest.TempPathFactory
) -> Finished:
    """A small pipeline from the first stage to the last."""
    from flows.pipeline import pipeline
    from flows.start import derive_run_id

    session_aws.faults.clear()
    place = new_place(session_aws, tmp_path_factory.mktemp("finished"))
    config, since = place.profile(), CallsSince(session_aws)
    state = pipeline(config=config, return_state=True)
    assert state.is_completed(), state.message
    flow_run_id = str(state.state_details.flow_run_id)
    run = Run(place.storage(), derive_run_id(flow_run_id))
    return Finished(place, config, run, flow_run_id, state.message or "", since.all())
