"""Releases in a folder or in S3 whose models are a line of text, loaded as students.

All that a release router does with them is real: pointers, hashes, the files' way to this
machine. Only the last step is replaced, so that neither training nor ONNX Runtime is needed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from threading import Event
from typing import Any, Final

import pytest

from reelroute.aws import AwsAccess
from reelroute.release import (
    BedrockModel,
    LocalModel,
    ModelFile,
    Prompt,
    Release,
    ReleasePointer,
    ReleaseRef,
    sha256,
)
from reelroute.routers import LocalRouter, Router
from reelroute.student import Prediction, StudentError
from reelroute.weights import RoutingWeights
from tasks.storage import aws_access
from tests.support import Place

NOW: Final = datetime(2026, 1, 5, 9, tzinfo=UTC)
MODEL: Final = "model.txt"
#: What a model's file says where it must not load.
BROKEN: Final = "broken"
#: Queries with this word are those that the students are not sure of.
HARD: Final = "hard"


class FakeStudent:
    """Answers under the name that its file holds."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.asked: list[str] = []

    def predict(self, queries: Sequence[str]) -> list[Prediction]:
        self.asked += queries
        weights = RoutingWeights(
            visual=0.7, audio=0.1, transcription=0.1, metadata=0.1, router=self.name
        )
        return [Prediction(weights, 4.0, 0.2 if HARD in query else 0.01, 0.0) for query in queries]


def load_fake(folder: str | Path) -> LocalRouter:
    name = (Path(folder) / MODEL).read_text()
    if name.startswith(BROKEN):
        raise StudentError(f"{folder} can't be loaded")
    return LocalRouter(FakeStudent(name))  # type: ignore[arg-type]


@dataclass
class Store:
    """A place for releases: how files get there, and what a router opens."""

    uri: str
    put: Callable[[str, bytes], None]
    delete: Callable[[str], None]
    access: AwsAccess = field(default_factory=AwsAccess)
    serial: int = 0

    def model(self, name: str) -> LocalModel:
        """A model in the store; its answers say `name`."""
        data = name.encode()
        file = ModelFile(name=MODEL, sha256=sha256(data), bytes=len(data))
        model = LocalModel(fingerprint=sha256(b"model " + data), files=(file,))
        self.put(model.place(MODEL), data)
        return model

    def release(self, version: str, name: str | None = None, **fields: Any) -> Release:
        """A release in the store, not pointed at; its local student answers as its version."""
        release = Release.model_validate(
            {
                "version": version,
                "run_id": "run-1",
                "created_at": NOW,
                "router": "local",
                "prompt": Prompt.of("the prompt"),
                "local": self.model(name or version),
                **fields,
            }
        )
        self.put(f"{version}.json", release.to_bytes())
        return release

    def pointer(self, release: Release, **fields: Any) -> ReleasePointer:
        """The pointer to a release, not written."""
        self.serial += 1
        return ReleasePointer.model_validate(
            {
                "version": release.version,
                "sha256": sha256(release.to_bytes()),
                "serial": self.serial,
                "moved_at": NOW,
                "action": "promote",
                **fields,
            }
        )

    def point(self, release: Release, **fields: Any) -> None:
        self.put("current.json", self.pointer(release, **fields).to_bytes())

    def promote(self, version: str, **fields: Any) -> Release:
        release = self.release(version, **fields)
        self.point(release)
        return release

    def roll_back(self, to: Release) -> None:
        ref = ReleaseRef(version="later", sha256="0")
        self.point(to, action="rollback", history=(ref,))


def cascade_fields(**fields: Any) -> dict[str, Any]:
    """What makes a release a cascade that passes on what is hard."""
    return {"router": "cascade", "bedrock": bedrock_model(), "pass_on_above": 0.1, **fields}


def bedrock_model(deployment: str = "arn") -> BedrockModel:
    return BedrockModel(
        deployment_arn=deployment,
        model_arn="model",
        fingerprint="f",
        region="us-east-1",
        max_tokens=300,
    )


def store_in(folder: Path) -> Store:
    folder.mkdir()

    def put(name: str, data: bytes) -> None:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}")
        partial.write_bytes(data)
        partial.replace(path)

    return Store(str(folder / "current.json"), put, lambda name: (folder / name).unlink())


def store_in_s3(place: Place) -> Store:
    storage = place.storage()
    return Store(
        f"s3://{place.bucket}/releases/current.json",
        lambda name, data: storage.put(f"releases/{name}", data),
        lambda name: storage.delete([f"releases/{name}"]),
        aws_access(place.settings()),
    )


@pytest.fixture(autouse=True)
def fake_models(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Local models are `FakeStudent`s, kept in this test's own folder."""
    monkeypatch.setattr(LocalRouter, "of_folder", staticmethod(load_fake))
    monkeypatch.setenv("REELROUTE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return store_in(tmp_path / "releases")


Open = Callable[..., Any]


@pytest.fixture
def opened() -> Iterator[Open]:
    """Opens routers of a store that look at the pointer only when told; closes them."""
    routers: list[Router] = []

    def open_it(store: Store, **how: Any) -> Any:
        arguments = {"follow_seconds": None, "deadline_ms": None, **how}
        router = Router.from_release(store.uri, store.access, **arguments)
        routers.append(router)
        return router

    yield open_it
    for router in routers:
        router.close()


class SlowClient:
    """A Bedrock that holds every call until it is let go."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.go_on = Event()
        self.asked: list[str] = []

    def converse(self, **request: Any) -> dict[str, Any]:
        self.asked.append(request["messages"][0]["content"][0]["text"])
        assert self.go_on.wait(60)
        return {"output": {"message": {"content": [{"text": self.text}]}}}


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Iterator[SlowClient]:
    """What every client asks, whatever its service."""
    client = SlowClient(
        '{"visual": 0, "audio": 1, "transcription": 0, "metadata": 0, "reasoning": "a bark"}'
    )
    monkeypatch.setattr(AwsAccess, "client", lambda *_: client)
    yield client
    client.go_on.set()


def until(holds: Callable[[], Any], what: str = "", seconds: float = 30) -> None:
    """Wait until something holds."""
    pause, end = Event(), time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, what or "it never came to hold"
        pause.wait(0.002)
