"""The local student in the distill stage: trained from the run's dataset in a subprocess."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from configs.settings import ROOT, Settings
from data_contracts.runs import StageRecord, StoredFile
from reelroute.errors import ConfigError, StageError
from reelroute.problems import first_problem
from reelroute.release import LocalModel, ModelFile
from tasks.base import Progress, StageContext, logger, stage_task
from tasks.storage import Storage

#: Prefix of the local student's files in the distill stage's record.
FILE_PREFIX = "local "


@dataclass(frozen=True)
class LocalStudent:
    """A trained local student in the run's folder.

    Attributes:
        fingerprint: hash of all that the training depended on.
        files: by name; together they are the model's folder.
        metrics: of the training's own development rows.
        reused: whether an earlier run's identical model is taken.
    """

    fingerprint: str
    files: dict[str, StoredFile]
    metrics: dict[str, Any]
    reused: bool = False


def check_training(settings: Settings) -> None:
    """Raise ConfigError if the profile's training settings are wrong, before anything starts."""
    from reelroute.student.settings import TrainSettings

    if "local" not in settings.distill.students:
        return
    try:
        TrainSettings.model_validate(settings.distill.local)
    except ValidationError as error:
        raise ConfigError(f"`distill.local`: {first_problem(error)}") from None


def local_fingerprint(stage: StageContext) -> str:
    """What the trained model depends on: the rows, the settings and the training's code."""
    code = hashlib.sha256()
    for source in sorted((ROOT / "reelroute" / "student").glob("*.py")):
        code.update(source.read_bytes())
    depends_on = {
        "rows": stage.upstream["validate"].files["train"].sha256,
        "settings": stage.settings.distill.local,
        "code": code.hexdigest(),
    }
    return hashlib.sha256(json.dumps(depends_on, sort_keys=True).encode()).hexdigest()


@stage_task
def find_identical_student(stage: StageContext) -> LocalStudent | None:
    """The student that an earlier run trained from the same inputs, copied into this run."""
    fingerprint = local_fingerprint(stage)
    stored = stage.storage.get(_registry_key(fingerprint))
    if stored is None:
        return None
    known = json.loads(stored.data)
    files = {name: StoredFile.model_validate(file) for name, file in known["files"].items()}
    if not all(stage.storage.verify(file) for file in files.values()):
        return None
    copied = {
        name: stage.storage.put_file(_key(stage, name), stage.storage.read(file), _BINARY)
        for name, file in files.items()
    }
    return LocalStudent(fingerprint, copied, known["metrics"], reused=True)


@stage_task
def train_local_student(stage: StageContext) -> LocalStudent:
    """Train the local student on the run's training rows.

    Raises:
        StageError: the training ended without a model, with its own sentence.
    """
    progress = Progress("distill-local", "the local student is trained", 100)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = folder / "train.jsonl"
        rows.write_bytes(stage.read("validate", "train"))
        out = folder / "model"
        settings = json.dumps(stage.settings.distill.local)
        card = _train(rows, out, settings, progress)
        files = {
            path.name: stage.storage.put_file(_key(stage, path.name), path.read_bytes(), _BINARY)
            for path in sorted(out.iterdir())
            if path.is_file()
        }
    student = LocalStudent(local_fingerprint(stage), files, card["metrics"])
    known = {
        "files": {name: file.model_dump() for name, file in files.items()},
        "metrics": student.metrics,
        "run_id": stage.run.run_id,
    }
    stage.storage.put(_registry_key(student.fingerprint), json.dumps(known).encode(), _JSON)
    return student


def student_files(record: StageRecord) -> dict[str, StoredFile]:
    """The local student's files of a distill record, by their names in the model's folder."""
    return {
        name.removeprefix(FILE_PREFIX): file
        for name, file in record.files.items()
        if name.startswith(FILE_PREFIX)
    }


def fetch_student(storage: Storage, record: StageRecord, folder: Path) -> Path | None:
    """The local student's folder on this machine, or None where the run has none."""
    files = student_files(record)
    for name, file in files.items():
        (folder / name).write_bytes(storage.read(file))
    return folder if files else None


def local_model(record: StageRecord) -> LocalModel:
    """The run's local student as a release names it."""
    return LocalModel(
        fingerprint=record.resources["local_fingerprint"],
        files=tuple(
            ModelFile(name=name, sha256=file.sha256, bytes=file.bytes)
            for name, file in sorted(student_files(record).items())
        ),
    )


def publish_student(storage: Storage, record: StageRecord, model: LocalModel) -> None:
    """Copy the run's local student beside the releases, where it stays."""
    for name, file in student_files(record).items():
        storage.put_file(f"releases/{model.place(name)}", storage.read(file), _BINARY)


def _train(rows: Path, out: Path, settings: str, progress: Progress) -> dict[str, Any]:
    command = [sys.executable, "-m", "reelroute.student.command"]
    command += ["--rows", str(rows), "--out", str(out), "--settings", settings]
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=errors, stdin=subprocess.DEVNULL
        )
        try:
            last: dict[str, Any] = {}
            for record in _records(process):
                last = record
                if "progress" in record:
                    _show(record["progress"], progress)
            process.wait()
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        if "card" in last:
            progress.show(100)
            card: dict[str, Any] = last["card"]
            return card
        errors.seek(0)
        said = errors.read().decode(errors="replace").strip().splitlines()
    why = last.get("error") or (said[-1] if said else f"exit code {process.returncode}")
    raise StageError(f"the local student was not trained: {why}")


def _records(process: subprocess.Popen[bytes]) -> Iterator[dict[str, Any]]:
    assert process.stdout is not None
    for line in process.stdout:
        try:
            record = json.loads(line)
        except ValueError:
            continue  # a library's own words
        if isinstance(record, dict):
            yield record


def _show(epoch: dict[str, Any], progress: Progress) -> None:
    text = (
        f"local student: epoch {epoch['epoch']} of {epoch['epochs']}, "
        f"rubric {epoch['dev']['rubric']:.2f} on its development rows"
    )
    logger().info("%s, %.0f s", text, epoch["seconds"])
    progress.show(round(100 * epoch["epoch"] / max(epoch["epochs"], 1)), text)


_BINARY = "application/octet-stream"
_JSON = "application/json"


def _key(stage: StageContext, name: str) -> str:
    return stage.run.key(f"model/{name}")


def _registry_key(fingerprint: str) -> str:
    return f"models/local-{fingerprint}.json"
