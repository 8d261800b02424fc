"""Measuring a student on labelled rows, and calibrating it."""

from __future__ import annotations

from typing import Final

import numpy as np

from reelroute.student.card import DevMetrics
from reelroute.student.grid import (
    Decoder,
    Floats,
    Steps,
    dominant_matrix,
    rubric_matrix,
    total_steps,
)
from reelroute.weights import GRID_STEP

#: The temperatures that are tried.
_TEMPERATURES: Final = tuple(round(0.4 + 0.05 * step, 2) for step in range(43))


def dev_metrics(decoder: Decoder, outputs: Floats, reference: Steps) -> DevMetrics:
    """How good the answers are, and how good the student thought they would be.

    Args:
        decoder: decodes the outputs.
        outputs: the network's, (n, OUTPUTS).
        reference: the labels in steps of the grid, (n, 4).
    """
    decoded = decoder.decode(outputs)
    pairs = [(p[None], r[None]) for p, r in zip(decoded.steps, reference, strict=True)]
    return DevMetrics(
        rubric=float(np.mean([rubric_matrix(p, r) for p, r in pairs])),
        mae=float(np.mean([total_steps(p, r) for p, r in pairs])) * GRID_STEP / 4,
        dominant=float(np.mean([dominant_matrix(p, r) for p, r in pairs])),
        expected_rubric=float(decoded.expected_rubric.mean()),
        expected_mae=float(decoded.expected_error.mean()),
        rows=len(reference),
    )


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
