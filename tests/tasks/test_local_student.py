"""The local student in the distill stage; the training itself is tested in its own room."""

from __future__ import annotations

import json
import stat
import sys
from pathlib import Path
from typing import Any

import pytest

from reelroute.errors import ConfigError, StageError
from tasks.base import StageContext
from tasks.local_student import (
    FILE_PREFIX,
    check_training,
    fetch_student,
    find_identical_student,
    local_fingerprint,
    local_model,
    publish_student,
    student_files,
    train_local_student,
)
from tests.support import Place, corpus_rows, jsonl, record

pytestmark = pytest.mark.usefixtures("prefect_server")


def distilling(place: Place, run_id: str = "run-1", rows: int = 3, **settings: Any) -> StageContext:
    run = place.run(run_id)
    file = run.put_text("dataset/train.jsonl", jsonl(corpus_rows(rows)))
    validate = record(run, "validate", files={"train": file})
    return place.stage(
        "distill",
        run=run,
        settings=place.settings(**settings),
        upstream={"validate": validate},
    )


@pytest.fixture
def trainer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Puts a script in the place of the training's process."""

    def install(*lines: str) -> None:
        script = tmp_path / "trainer"
        script.write_text("\n".join([f"#!{sys.executable}", "import sys, os", *lines]))
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setattr(sys, "executable", str(script))

    return install


OUT = "out = sys.argv[sys.argv.index('--out') + 1]; os.makedirs(out)"
MODEL = "open(out + '/model.onnx', 'w').write('weights')"
EPOCH = {"epoch": 1, "epochs": 1, "seconds": 2, "dev": {"rubric": 4.0}}
WORDS = [
    "print('a library says hello')",
    f"print({json.dumps(json.dumps({'progress': EPOCH}))})",
    f"print({json.dumps(json.dumps({'card': {'metrics': {'rubric': 4.0}}}))})",
]


def test_a_trained_student_is_stored_and_found_again_by_another_run(
    place: Place, trainer: Any
) -> None:
    trainer(OUT, MODEL, *WORDS)
    stage = distilling(place)
    assert find_identical_student(stage) is None
    student = train_local_student(stage)
    assert (student.metrics, student.reused) == ({"rubric": 4.0}, False)
    assert stage.storage.read(student.files["model.onnx"]) == b"weights"

    other = distilling(place, "run-2")
    found = find_identical_student(other)
    assert found is not None
    assert (found.fingerprint, found.reused) == (student.fingerprint, True)
    assert found.files["model.onnx"].key.startswith("runs/run-2/model/")
    assert find_identical_student(distilling(place, "run-3", rows=4)) is None

    stage.storage.put(student.files["model.onnx"].key, b"altered")
    assert find_identical_student(other) is None


def test_the_fingerprint_follows_rows_and_settings(place: Place) -> None:
    base = local_fingerprint(distilling(place))
    assert base == local_fingerprint(distilling(place, "run-2"))
    assert base != local_fingerprint(distilling(place, rows=4))
    assert base != local_fingerprint(distilling(place, distill__local={"seed": 9}))


@pytest.mark.parametrize(
    ("last", "said"),
    [
        (
            f"print({json.dumps(json.dumps({'error': 'the rows are too few'}))}); sys.exit(1)",
            "the rows are too few",
        ),
        ("sys.exit('killed by nobody')", "killed by nobody"),
        ("sys.exit(3)", "exit code 3"),
    ],
)
def test_a_training_that_ends_without_a_model_is_one_sentence(
    last: str, said: str, place: Place, trainer: Any
) -> None:
    trainer(last)
    with pytest.raises(StageError) as error:
        train_local_student(distilling(place))
    assert str(error.value) == f"the local student was not trained: {said}"


def test_wrong_training_settings_are_refused_before_anything_starts(place: Place) -> None:
    check_training(place.settings(distill__students=["local"]))
    wrong = {"distill__students": ["local"], "distill__local": {"epocks": 3}}
    with pytest.raises(ConfigError, match=r"`distill\.local`: epocks"):
        check_training(place.settings(**wrong))
    check_training(place.settings(distill__students=["bedrock"], distill__local={"epocks": 3}))


def test_a_students_files_are_fetched_and_published_whole(place: Place, tmp_path: Path) -> None:
    stage = distilling(place)
    file = stage.storage.put_file(stage.run.key("model/model.onnx"), b"weights", "text/plain")
    done = record(
        stage.run,
        "distill",
        files={f"{FILE_PREFIX}model.onnx": file},
        resources={"local_fingerprint": "f" * 64},
    )
    assert student_files(done) == {"model.onnx": file}
    assert fetch_student(stage.storage, done, tmp_path) == tmp_path
    assert (tmp_path / "model.onnx").read_bytes() == b"weights"
    model = local_model(done)
    publish_student(stage.storage, done, model)
    (named,) = model.files
    stored = stage.storage.get(f"releases/{model.place(named.name)}")
    assert stored is not None
    assert stored.data == b"weights"
    assert fetch_student(stage.storage, record(stage.run, "distill"), tmp_path) is None
