"""Measuring a student on labelled rows, and calibrating it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np

from reelroute.student.card import DevMetrics
from reelroute.student.grid import (
    Decoder,
    Floats,
    Line,
    Steps,
    dominant_matrix,
    rubric_matrix,
    total_steps,
)
from reelroute.weights import GRID_STEP

#: The temperatures that are tried.
_TEMPERATURES: Final = tuple(round(0.4 + 0.05 * step, 2) for step in range(43))


def dev_metrics(
    decoder: Decoder,
    outputs: Floats,
    reference: Steps,
    unknown_language: Floats | None = None,
) -> DevMetrics:
    """How good the answers are, and how good the student thought they would be.

    Args:
        decoder: decodes the outputs.
        outputs: the network's, (n, OUTPUTS).
        reference: the labels in steps of the grid, (n, 4).
        unknown_language: as `Decoder.decode` takes it.
    """
    decoded = decoder.decode(outputs, unknown_language)
    error = _errors(decoded.steps, reference)
    return DevMetrics(
        rubric=float(_rubrics(decoded.steps, reference).mean()),
        mae=float(error.mean()),
        dominant=float(
            np.mean([dominant_matrix(p, r) for p, r in _pairs(decoded.steps, reference)])
        ),
        expected_rubric=float(decoded.expected_rubric.mean()),
        expected_mae=float(decoded.expected_error.mean()),
        error_correlation=_correlation(decoded.expected_error, error),
        rows=len(reference),
    )


def calibrate(
    decoder: Decoder, outputs: Floats, unknown_language: Floats, reference: Steps
) -> Decoder:
    """The decoder with a temperature and corrections of its expectations that fit labelled rows.

    Args:
        decoder: over the training labels, not yet calibrated.
        outputs: the network's for rows that it was not trained on, (n, OUTPUTS).
        unknown_language: how likely each row's language is an unknown one, (n,).
        reference: their labels in steps of the grid, (n, 4).
    """
    decoder = decoder.calibrated(fit_temperature(decoder, outputs, reference))
    decoded = decoder.decode(outputs)
    errors = _errors(decoded.steps, reference)
    # What the language adds is what the line leaves, in the mean over the rows of unknown ones.
    line = fit_line(decoded.expected_error, errors)
    language = max(fit_line(unknown_language, errors - line(decoded.expected_error)).slope, 0.0)
    return decoder.calibrated(
        decoder.temperature,
        fit_line(decoded.expected_rubric, _rubrics(decoded.steps, reference)),
        fit_line(decoded.expected_error, errors - language * unknown_language),
        language,
    )


def fit_line(expected: Floats, actual: Floats) -> Line:
    """The line of least squares from expected to actual values; it never falls."""
    spread = expected - expected.mean()
    scale = float(np.square(spread).sum())
    slope = float((spread * actual).sum()) / scale if scale > 0 else 0.0
    slope = max(slope, 0.0)
    return Line(float(actual.mean()) - slope * float(expected.mean()), slope)


def _pairs(steps: Steps, reference: Steps) -> Iterator[tuple[Steps, Steps]]:
    return ((p[None], r[None]) for p, r in zip(steps, reference, strict=True))


def _rubrics(steps: Steps, reference: Steps) -> Floats:
    """The rubric's score of each answer, (n,)."""
    scores = [rubric_matrix(p, r)[0, 0] for p, r in _pairs(steps, reference)]
    return np.array(scores, dtype=np.float32)


def _errors(steps: Steps, reference: Steps) -> Floats:
    """The mean absolute error of each answer's weights, 0 to 0.5, (n,)."""
    totals = [total_steps(p, r)[0, 0] for p, r in _pairs(steps, reference)]
    return np.array(totals, dtype=np.float32) * np.float32(GRID_STEP / 4)


def _correlation(a: Floats, b: Floats) -> float:
    """Pearson's correlation; 0 where one of the two doesn't vary."""
    return float(np.corrcoef(a, b)[0, 1]) if a.std() > 0 and b.std() > 0 else 0.0


def fit_temperature(decoder: Decoder, outputs: Floats, reference: Steps) -> float:
    """The temperature under which the labels are likeliest (Guo et al., ICML 2017).

    Labels that are none of the decoder's vectors say nothing about it and are left out.

    Args:
        decoder: of temperature 1.
        outputs: the network's, (n, OUTPUTS).
        reference: the labels in steps of the grid, (n, 4).
    """
    place = {tuple(vector): index for index, vector in enumerate(decoder.vectors.tolist())}
    known = [row for row, label in enumerate(reference.tolist()) if tuple(label) in place]
    if not known:
        return 1.0
    columns = [place[tuple(reference[row].tolist())] for row in known]
    logs = np.log(np.maximum(decoder.probabilities(outputs[known]), 1e-30))

    def surprise(temperature: float) -> float:
        scaled = logs / temperature
        peak = scaled.max(axis=1, keepdims=True)
        total = peak[:, 0] + np.log(np.exp(scaled - peak).sum(axis=1))
        return float(np.mean(total - scaled[np.arange(len(columns)), columns]))

    return min(_TEMPERATURES, key=surprise)
