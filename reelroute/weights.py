"""Routing weights: how much each of the four modalities of a video counts for a query."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Final, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

Modality = Literal["visual", "audio", "transcription", "metadata"]
MODALITIES: Final[tuple[Modality, ...]] = get_args(Modality)

#: A channel under this weight is not searched at all.
ACTIVE_THRESHOLD: Final = 0.05
#: Labels lie on this grid, and students emit on it.
GRID_STEP: Final = 0.05
#: How far the sum of four weights may miss 1 through floating-point arithmetic alone.
SUM_TOLERANCE: Final = 1e-6

Weight = Annotated[float, Field(ge=0.0, le=1.0, allow_inf_nan=False)]


class RoutingWeights(BaseModel):
    """Four weights in [0, 1] that add up to 1, with the reasoning behind them.

    `router` says which router answered (empty for a label). Build it from numbers that may
    not add up to 1 with `RoutingWeights.normalised`.

    Raises:
        pydantic.ValidationError: a weight is not a finite number in [0, 1], or the sum is
            not 1 within `SUM_TOLERANCE`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    visual: Weight
    audio: Weight
    transcription: Weight
    metadata: Weight
    reasoning: str = ""
    router: str = ""

    @model_validator(mode="after")
    def _sum_is_one(self) -> RoutingWeights:
        total = math.fsum(self.values())
        if abs(total - 1.0) > SUM_TOLERANCE:
            raise ValueError(f"the four weights add up to {total:.6g}, not to 1")
        return self

    @classmethod
    def normalised(
        cls, weights: Mapping[str, float], *, reasoning: str = "", router: str = ""
    ) -> RoutingWeights:
        """Weights divided by their sum.

        Args:
            weights: one non-negative finite number for each modality.

        Raises:
            ValueError: a modality is missing, a number is negative or not finite, or all are 0.
        """
        missing = [m for m in MODALITIES if m not in weights]
        if missing:
            raise ValueError(f"no weight for {', '.join(missing)}")
        numbers = [float(weights[m]) for m in MODALITIES]
        if not all(math.isfinite(n) and n >= 0 for n in numbers):
            raise ValueError(f"weights must be finite and not negative, got {numbers}")
        # Scaled by the largest first: a sum of huge or of subnormal numbers would lose them.
        peak = max(numbers)
        if peak == 0:
            raise ValueError("all four weights are 0")
        scaled = [n / peak for n in numbers]
        total = math.fsum(scaled)
        shares = dict(zip(MODALITIES, (n / total for n in scaled), strict=True))
        return cls(**shares, reasoning=reasoning, router=router)

    @classmethod
    def uniform(cls, *, reasoning: str = "", router: str = "") -> RoutingWeights:
        """A quarter for each modality: the answer of a router that knows nothing."""
        return cls.normalised(dict.fromkeys(MODALITIES, 1.0), reasoning=reasoning, router=router)

    def values(self) -> tuple[float, float, float, float]:
        """The four weights in the order of `MODALITIES`."""
        return (self.visual, self.audio, self.transcription, self.metadata)

    def as_dict(self) -> dict[Modality, float]:
        """The four weights by modality."""
        return dict(zip(MODALITIES, self.values(), strict=True))

    @property
    def dominant(self) -> Modality:
        """The modality with the largest weight; of equals the first in `MODALITIES`."""
        return max(MODALITIES, key=lambda modality: self.as_dict()[modality])

    def active(self) -> dict[Modality, float]:
        """The channels worth searching: those of at least 0.05, renormalised to add up to 1."""
        kept = {m: w for m, w in self.as_dict().items() if w >= ACTIVE_THRESHOLD - SUM_TOLERANCE}
        total = math.fsum(kept.values())
        return {m: w / total for m, w in kept.items()}

    def fuse(self, scores: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
        """The search side's weighted mean over normalised scores, best clip first.

        Each active channel's scores are min-max normalised to [0, 1] (a channel whose scores
        are all equal gives 1 to each); `final = sum(weight * normalised score)` with the
        weights of `active()`. A clip that a channel did not return scores 0 there.

        Args:
            scores: for each searched channel, clip id to raw score (any finite scale, larger
                is better). Channels that are not active are ignored.

        Returns:
            clip id to fused score in [0, 1], in descending order; ties by clip id.

        Raises:
            ValueError: a channel's name is not a modality, or a score is not finite.
        """
        unknown = [channel for channel in scores if channel not in MODALITIES]
        if unknown:
            raise ValueError(f"unknown channel {unknown[0]!r}: expected {', '.join(MODALITIES)}")
        fused: dict[str, float] = {}
        for modality, weight in self.active().items():
            channel = scores.get(modality, {})
            for clip, normalised in _min_max(modality, channel).items():
                # The sum of the weights may pass 1 in its last digit.
                fused[clip] = min(1.0, fused.get(clip, 0.0) + weight * normalised)
        return dict(sorted(fused.items(), key=lambda item: (-item[1], item[0])))


def _min_max(modality: str, scores: Mapping[str, float]) -> dict[str, float]:
    for clip, score in scores.items():
        if not math.isfinite(score):
            raise ValueError(f"{modality} score of {clip!r} is {score}: scores must be finite")
    if not scores:
        return {}
    low, high = min(scores.values()), max(scores.values())
    if high == low:
        return dict.fromkeys(scores, 1.0)
    # Halves where the span of extreme floats would overflow, and only there: halving the
    # smallest floats gives 0.
    scale = 1.0 if math.isfinite(high - low) else 0.5
    span = high * scale - low * scale
    return {clip: min(1.0, (s * scale - low * scale) / span) for clip, s in scores.items()}


def round_to_grid(
    weights: Mapping[str, float] | Sequence[float], step: float = GRID_STEP
) -> dict[Modality, float]:
    """Weights normalised and rounded to multiples of `step` that add up to exactly 1.

    Largest remainder: every weight is rounded down, then the steps that are missing go to
    the largest remainders (of equals to the first in `MODALITIES`).

    Args:
        weights: by modality, or four numbers in the order of `MODALITIES`; not negative.
        step: the grid; 1 must be a multiple of it.

    Raises:
        ValueError: as `RoutingWeights.normalised`, or a `step` that does not divide 1.
    """
    if not isinstance(weights, Mapping):
        weights = dict(zip(MODALITIES, weights, strict=True))
    steps = round(1 / step) if 1e-6 <= step <= 1 else 0
    if steps < 1 or abs(steps * step - 1) > 1e-9:
        raise ValueError(f"step {step} does not divide 1")
    shares = RoutingWeights.normalised(weights).as_dict()
    counts = {m: math.floor(share * steps + 1e-9) for m, share in shares.items()}
    by_remainder = sorted(MODALITIES, key=lambda m: counts[m] - shares[m] * steps)
    for modality in by_remainder[: steps - sum(counts.values())]:
        counts[modality] += 1
    return {m: count / steps for m, count in counts.items()}
