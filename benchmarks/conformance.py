"""Every request of the test suite and of the demo held against the services' API models.

`python -m benchmarks.conformance NAME=FOLDER …` prints what was recorded in each folder (see
`reelroute.recorder`), by operation, and ends with an error if anything broke a model. What tests
send or get wrong on purpose, and are marked for, stands apart.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

from reelroute.recorder import Recorded, Tally, recorded

ROOT = Path(__file__).parents[1]
_MARK = "off_model"


def split(folder: Path) -> tuple[Tally, Tally]:
    """What was recorded in a folder, and of it what is wrong on purpose."""
    counts, on_purpose = Tally(), Tally()
    marked = _marked_tests()
    for line in recorded(folder):
        if line.violations and _function(line) in marked:
            on_purpose.add(line)
        else:
            counts.add(line)
    return counts, on_purpose


def table(counts: Tally) -> str:
    """Requests and answers by operation."""
    width = max(map(len, counts.requests), default=0)
    rows = [
        f"  {name:{width}s} {requests:>9,} {counts.answers[name]:>9,}"
        for name, requests in sorted(counts.requests.items())
    ]
    return "\n".join([f"  {'operation':{width}s}  requests   answers", *rows])


def main(arguments: list[str]) -> int:
    """Print each folder's figures; 1 where a model was broken, or nothing was recorded."""
    failed = not arguments
    for argument in arguments:
        name, _, folder = argument.partition("=")
        counts, on_purpose = split(Path(folder))
        print(f"{name}: {counts}")
        if on_purpose.broken:
            print(f"  and {len(on_purpose.broken)} wrong on purpose, by tests marked {_MARK}")
        print(table(counts))
        for line in counts.broken:
            print(f"  {line.test} {line.kind} {line.operation}: {'; '.join(line.violations)}")
        failed = failed or bool(counts.broken) or not counts.requests
    return int(failed)


def _function(line: Recorded) -> tuple[str, str]:
    file, _, test = line.test.partition("::")
    return file, test.partition("[")[0]


def _marked_tests() -> set[tuple[str, str]]:
    """File and name of the tests that carry the mark."""
    return {
        (str(path.relative_to(ROOT)), node.name)
        for path in (ROOT / "tests").rglob("test_*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef)
        and any(ast.unparse(mark).endswith(_MARK) for mark in node.decorator_list)
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
