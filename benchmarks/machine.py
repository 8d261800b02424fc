"""Where a benchmark ran."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

import reelroute

#: Packages whose versions decide what is measured.
_PACKAGES: Final = (
    "numpy",
    "onnxruntime",
    "tokenizers",
    "torch",
    "scikit-learn",
    "wordllama",
    "sentence-transformers",
    "transformers",
    "semantic-router",
)


@dataclass(frozen=True, slots=True)
class Machine:
    """The machine and its software; `load` is the number of busy processes when it was asked."""

    processor: str
    cores: int
    system: str
    load: float
    date: str
    versions: dict[str, str]

    @classmethod
    def this(cls) -> Machine:
        """The one that this runs on."""
        return cls(
            processor=_processor(),
            cores=os.cpu_count() or 1,
            system=f"{platform.system()} {platform.machine()}",
            load=round(os.getloadavg()[0], 1),
            date=datetime.now(UTC).isoformat(timespec="seconds"),
            versions={
                "reelroute": reelroute.__version__,
                "python": platform.python_version(),
                **{package: found for package in _PACKAGES if (found := _version(package))},
            },
        )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor() or "unknown"
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else "unknown"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
