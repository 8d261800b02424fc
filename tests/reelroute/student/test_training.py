"""The parts of the training that need no torch: settings, batches, calibration."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from reelroute.student.batches import padded, shuffled_batches
from reelroute.student.encoder import DEFAULT_SHA256
from reelroute.student.grid import LEVELS, OUTPUTS, Decoder
from reelroute.student.measure import dev_metrics, fit_line, fit_temperature
from reelroute.student.settings import TrainSettings


@given(st.lists(st.integers(2, 20), min_size=1, max_size=200), st.integers(1, 40))
@settings(deadline=None)
def test_every_row_is_in_exactly_one_batch(lengths: list[int], size: int) -> None:
    tokens = [[7] * length for length in lengths]
    batches = shuffled_batches(tokens, size, np.random.default_rng(0))
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(tokens)))
    assert max(len(batch) for batch in batches) <= size


def test_batches_hold_rows_of_about_one_length_and_differ_from_epoch_to_epoch() -> None:
    random = np.random.default_rng(0)
    tokens = [[7] * length for length in random.integers(4, 30, 2000)]
    first, second = (shuffled_batches(tokens, 32, random) for _ in range(2))
    ids = [padded(tokens, batch.tolist())[1] for batch in first]
    assert np.mean([mask.mean() for mask in ids]) > 0.95
    assert [batch.tolist() for batch in first] != [batch.tolist() for batch in second]


def test_padding_is_masked() -> None:
    ids, mask = padded([[5, 6], [7, 8, 9]], [1, 0])
    assert ids.tolist() == [[7, 8, 9], [5, 6, 0]]
    assert mask.tolist() == [[True, True, True], [True, True, False]]


def test_an_encoder_of_ones_own_is_not_held_to_the_pinned_hash() -> None:
    assert TrainSettings().encoder_sha256 == DEFAULT_SHA256
    assert TrainSettings(encoder="/models/mine").encoder_sha256 is None
    assert TrainSettings(encoder="/models/mine", encoder_sha256="ab").encoder_sha256 == "ab"


@pytest.mark.parametrize(
    "wrong", [{"epochs": 0}, {"learning_rate": -1}, {"dev_share": 0.9}, {"epoch": 3}]
)
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        TrainSettings(**wrong)


def test_the_temperature_undoes_overconfidence() -> None:
    # Half of the answers are wrong, whatever the student's certainty.
    decoder = Decoder.of_labels(np.array([[20, 0, 0, 0], [0, 20, 0, 0]]))
    outputs = np.zeros((200, OUTPUTS), dtype=np.float32)
    outputs[:, 20] = 1.5
    labels = np.array([[20, 0, 0, 0], [0, 20, 0, 0]] * 100)
    labels[:60] = [20, 0, 0, 0]
    share = (labels[:, 0] == 20).mean()
    fitted = decoder.calibrated(fit_temperature(decoder, outputs, labels))
    assert fitted.temperature > 1.2
    assert fitted.probabilities(outputs[:1]).max() == pytest.approx(share, abs=0.02)


def test_labels_that_the_decoder_does_not_know_leave_the_temperature() -> None:
    decoder = Decoder.of_labels(np.array([[20, 0, 0, 0]]))
    outputs = np.zeros((3, OUTPUTS), dtype=np.float32)
    assert fit_temperature(decoder, outputs, np.array([[0, 20, 0, 0]] * 3)) == 1.0


def test_metrics_are_the_rubrics() -> None:
    decoder = Decoder.of_labels(np.array([[10, 4, 4, 2], [12, 3, 3, 2], [2, 14, 2, 2]]))
    outputs = np.zeros((2, OUTPUTS), dtype=np.float32)
    for row, vector in enumerate([(10, 4, 4, 2), (2, 14, 2, 2)]):
        for channel, level in enumerate(vector):
            outputs[row, channel * LEVELS + level] = 20
    metrics = dev_metrics(decoder, outputs, np.array([[12, 3, 3, 2], [2, 14, 2, 2]]))
    assert (metrics.rubric, metrics.dominant, metrics.rows) == (4.5, 1.0, 2)
    assert metrics.mae == pytest.approx(0.025)


def test_expectations_are_corrected_by_the_line_of_least_squares() -> None:
    expected = np.array([0.1, 0.2, 0.3], dtype=np.float32)
    line = fit_line(expected, 0.05 + 2 * expected)
    assert (line.intercept, line.slope) == (pytest.approx(0.05), pytest.approx(2))


def test_a_correction_never_turns_expectations_around() -> None:
    falling = fit_line(np.array([0.1, 0.2], np.float32), np.array([0.4, 0.2], np.float32))
    constant = fit_line(np.array([0.1, 0.1], np.float32), np.array([0.4, 0.2], np.float32))
    for line in (falling, constant):
        assert (line.intercept, line.slope) == (pytest.approx(0.3), 0)
