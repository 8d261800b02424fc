from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reelroute.rubric import score_percents
from reelroute.student.errors import StudentError
from reelroute.student.grid import (
    ANSWERS,
    LEVELS,
    OUTPUTS,
    Decoder,
    dominant_matrix,
    indicator,
    rubric_matrix,
    to_steps,
    total_steps,
)


@st.composite
def vectors(draw: st.DrawFn) -> tuple[int, int, int, int]:
    cuts = sorted(draw(st.lists(st.integers(0, 20), min_size=3, max_size=3)))
    return (cuts[0], cuts[1] - cuts[0], cuts[2] - cuts[1], 20 - cuts[2])


def one_hot(vector: tuple[int, ...], strength: float = 20.0) -> np.ndarray:
    outputs = np.zeros((1, OUTPUTS), dtype=np.float32)
    for channel, level in enumerate(vector):
        outputs[0, channel * LEVELS + level] = strength
    return outputs


@given(vectors(), vectors())
def test_the_matrices_agree_with_the_rubric(
    predicted: tuple[int, int, int, int], reference: tuple[int, int, int, int]
) -> None:
    p, r = np.array([predicted]), np.array([reference])
    a, b, c, d = (5 * step for step in predicted)
    e, f, g, h = (5 * step for step in reference)
    expected = score_percents((a, b, c, d), (e, f, g, h))
    assert rubric_matrix(p, r)[0, 0] == expected.score
    assert dominant_matrix(p, r)[0, 0] == pytest.approx(expected.dominant)
    assert total_steps(p, r)[0, 0] * 5 / 4 == expected.mean_error


def test_labels_become_steps() -> None:
    assert to_steps(np.array([[0.55, 0.1, 0.1, 0.25]])).tolist() == [[11, 2, 2, 5]]


def test_the_indicator_adds_up_four_outputs_a_vector() -> None:
    marks = indicator(np.array([[20, 0, 0, 0], [5, 5, 5, 5]]))
    assert marks.shape == (OUTPUTS, 2)
    assert marks.sum(axis=0).tolist() == [4, 4]
    assert marks[20, 0] == marks[LEVELS + 5, 1] == 1


def test_a_sure_student_answers_with_that_vector() -> None:
    decoder = Decoder.of_labels(np.array([[20, 0, 0, 0], [11, 2, 2, 5], [4, 12, 2, 2]]))
    decoded = decoder.decode(one_hot((11, 2, 2, 5)))
    assert decoded.steps.tolist() == [[11, 2, 2, 5]]
    assert decoded.expected_rubric[0] == pytest.approx(5, abs=1e-3)
    assert decoded.expected_error[0] == pytest.approx(0, abs=1e-3)


def test_an_unsure_student_answers_with_what_serves_most_of_the_likely_labels() -> None:
    # The likeliest vector is alone; the three others lie together and agree with the middle one.
    labels = np.array([[18, 0, 0, 2]] * 4 + [[6, 10, 2, 2]] * 3 + [[5, 11, 2, 2]] * 3)
    labels = np.concatenate([labels, [[7, 9, 2, 2]] * 3])
    decoder = Decoder.of_labels(labels)
    shares = decoder.probabilities(np.zeros((1, OUTPUTS), dtype=np.float32))[0]
    assert decoder.vectors[shares.argmax()].tolist() == [18, 0, 0, 2]
    decoded = decoder.decode(np.zeros((1, OUTPUTS), dtype=np.float32))
    assert decoded.steps.tolist() == [[6, 10, 2, 2]]


def test_a_higher_temperature_makes_the_student_less_sure() -> None:
    decoder = Decoder.of_labels(np.array([[20, 0, 0, 0], [0, 0, 0, 20]]))
    outputs = one_hot((20, 0, 0, 0), strength=1.0)
    calm = decoder.calibrated(2.0).decode(outputs)
    assert calm.expected_rubric[0] < decoder.decode(outputs).expected_rubric[0]
    assert calm.expected_error[0] > decoder.decode(outputs).expected_error[0]


@pytest.mark.parametrize(
    ("vectors", "prior", "temperature"),
    [
        (np.array([[20, 0, 0, 1]]), np.zeros(1), 1.0),
        (np.array([[21, 0, 0, -1]]), np.zeros(1), 1.0),
        (np.empty((0, 4), dtype=np.int64), np.zeros(0), 1.0),
        (np.array([[20, 0, 0, 0]]), np.zeros(2), 1.0),
        (np.array([[20, 0, 0, 0]]), np.array([np.nan]), 1.0),
        (np.array([[20, 0, 0, 0]]), np.zeros(1), 0.0),
    ],
)
def test_a_decoder_that_makes_no_sense_is_refused(
    vectors: np.ndarray, prior: np.ndarray, temperature: float
) -> None:
    with pytest.raises(StudentError):
        Decoder(vectors, prior, temperature)


def test_answers_are_among_the_most_frequent_vectors() -> None:
    every = np.array([(a, b, 0, 20 - a - b) for a in range(15) for b in range(6)])
    more = np.array(
        [(a, b, c, 20 - a - b - c) for a in range(8) for b in range(7) for c in range(6)]
    )
    assert len(every) < ANSWERS < len(more)
    for vectors, is_answered in ((every, True), (more, False)):
        frequent, rare = vectors[: min(ANSWERS, len(vectors) - 1)], vectors[-1]
        decoder = Decoder.of_labels(np.concatenate([vectors, frequent]))
        answer = decoder.decode(one_hot(tuple(rare.tolist()))).steps[0]
        assert bool(np.abs(answer - rare).max() <= 1) is is_answered
        assert is_answered or answer.tolist() in frequent.tolist()
