"""What a user would otherwise pick, and the local student."""

from __future__ import annotations

from typing import Final

from benchmarks.candidates.base import Answer, Candidate
from benchmarks.candidates.float32 import Float32Twin
from benchmarks.candidates.local import LocalStudent
from benchmarks.candidates.ridge import BothRidge, StaticRidge, TfidfRidge
from benchmarks.candidates.rules import Rules
from benchmarks.candidates.semantic import SemanticRouter
from benchmarks.candidates.zero_shot import ZeroShot

LOCAL: Final = LocalStudent.name
FLOAT32: Final = Float32Twin.name
#: By name, in the table's order.
CANDIDATES: Final[dict[str, Candidate]] = {
    candidate.name: candidate
    for candidate in (
        Rules(),
        TfidfRidge(),
        StaticRidge(),
        BothRidge(),
        ZeroShot(),
        SemanticRouter(),
        Float32Twin(),
        LocalStudent(),
    )
}

__all__ = ["CANDIDATES", "FLOAT32", "LOCAL", "Answer", "Candidate"]
