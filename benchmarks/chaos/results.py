"""What a run comes to, as it lies in the bucket: times, attempts, costs and ARNs aside."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from benchmarks.chaos.world import RUN_ID

#: The files that a run is about; other files say when and how it went.
_TOLD: Final = re.compile(
    rf"runs/{RUN_ID}/(labelled|quarantine|dataset)/.+\.jsonl"
    rf"|runs/{RUN_ID}/evaluation/predictions/.+\.jsonl"
    rf"|runs/{RUN_ID}/evaluation/summary\.json"
    r"|datasets/.+/train\.jsonl"
    r"|releases/.+\.json"
)
#: What differs between two runs with the same inputs.
_OWN: Final = frozenset(
    {
        *("latency_ms", "cost_per_1k_usd", "created_at", "moved_at", "model", "version"),
        *("deployment_arn", "model_arn", "sha256"),
    }
)


def results(objects: Mapping[str, bytes]) -> dict[str, Any]:
    """The run's results, by file.

    Args:
        objects: what lies in the bucket, by key.
    """
    return {
        _name(key): [_without_own(json.loads(line)) for line in _records(key, data)]
        for key, data in objects.items()
        if _TOLD.fullmatch(key)
    }


def differences(now: Mapping[str, Any], undisturbed: Mapping[str, Any]) -> list[str]:
    """The files in which two runs differ, each with the first differing record."""
    found = []
    for name in sorted({*now, *undisturbed}):
        ours, theirs = now.get(name), undisturbed.get(name)
        if ours is None or theirs is None:
            found.append(f"{name} is {'missing' if ours is None else 'new'}")
        elif ours != theirs:
            pairs = enumerate(zip(ours, theirs, strict=False), start=1)
            line = next((n for n, (a, b) in pairs if a != b), min(len(ours), len(theirs)) + 1)
            found.append(f"{name} differs from record {line} on")
    return found


def _name(key: str) -> str:
    """The file's name, without the run's own version in it."""
    return re.sub(rf"releases/{RUN_ID}-[0-9a-f]+\.json", "releases/<version>.json", key)


def _records(key: str, data: bytes) -> Iterable[bytes]:
    return data.splitlines() if key.endswith(".jsonl") else [data]


def _without_own(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_own(inner) for key, inner in value.items() if key not in _OWN}
    return [_without_own(inner) for inner in value] if isinstance(value, list) else value
