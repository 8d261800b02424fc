"""The design's arrows: which room may import which, and what the library never loads."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

#: deployments → flows → tasks → configs, data_contracts → reelroute. A room may import itself
#: and what is named here; `deployments.embedded` is a room in the room.
MAY_IMPORT = {
    "reelroute": set(),
    "configs": {"reelroute"},
    "data_contracts": {"reelroute"},
    "tasks": {"configs", "data_contracts", "reelroute"},
    "flows": {"tasks", "configs", "data_contracts", "reelroute"},
    "deployments": {
        "deployments.embedded",
        "flows",
        "tasks",
        "configs",
        "data_contracts",
        "reelroute",
    },
    "deployments.embedded": {"data_contracts", "reelroute"},
}
#: The one exception, inside a function: the command offers the pipeline's commands.
LAZY_EXCEPTION = ("reelroute.cli", "flows.cli")
#: What an application that routes queries must not have to install or wait for.
HEAVY = {"prefect", "great_expectations", "pandas", "torch", "matplotlib", "sklearn"}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = sorted(
    path for room in MAY_IMPORT if "." not in room for path in (ROOT / room).rglob("*.py")
)
MODULES = [
    pytest.param(module_name(path), path.read_text(encoding="utf-8"), id=module_name(path))
    for path in FILES
]
LIBRARY = [module for module in MODULES if str(module.id).partition(".")[0] == "reelroute"]


def room_of(module: str) -> str | None:
    """The room that a module lies in, or None for a module of others."""
    if module == "deployments.embedded" or module.startswith("deployments.embedded."):
        return "deployments.embedded"
    room = module.partition(".")[0]
    return room if room in MAY_IMPORT else None


def imports(source: str) -> Iterator[tuple[str, bool]]:
    """Each module that a source imports, and whether it does so when it is itself imported.

    Imports inside functions and under `TYPE_CHECKING` wait; those in `import_module("...")`
    count like the others.
    """

    def walk(node: ast.AST, at_once: bool) -> Iterator[tuple[str, bool]]:
        match node:
            case ast.Import():
                yield from ((alias.name, at_once) for alias in node.names)
            case ast.ImportFrom():
                assert node.level == 0, f"line {node.lineno}: a relative import"
                module = node.module or ""
                if all(
                    room_of(f"{module}.{alias.name}") != room_of(module) for alias in node.names
                ):
                    # `from deployments import embedded` imports the inner room alone.
                    yield from ((f"{module}.{alias.name}", at_once) for alias in node.names)
                else:
                    yield module, at_once
            case ast.Call(args=[ast.Constant(value=str(module)), *_]) if ast.unparse(
                node.func
            ).endswith(("import_module", "__import__")):
                yield module, at_once
        for child in ast.iter_child_nodes(node):
            waits = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) or (
                isinstance(node, ast.If)
                and child in node.body
                and ast.unparse(node.test).endswith("TYPE_CHECKING")
            )
            yield from walk(child, at_once and not waits)

    yield from walk(ast.parse(source), True)


def broken_arrows(module: str, source: str) -> list[str]:
    room = room_of(module)
    assert room is not None
    return [
        f"{module} imports {imported}"
        for imported, at_once in imports(source)
        if (target := room_of(imported)) is not None
        and target != room
        and target not in MAY_IMPORT[room]
        and (at_once or (module, imported) != LAZY_EXCEPTION)
    ]


def heavy_imports(module: str, source: str) -> list[str]:
    return [
        f"{module} imports {imported}"
        for imported, at_once in imports(source)
        if at_once and imported.partition(".")[0] in HEAVY
    ]


@pytest.mark.parametrize(("module", "source"), MODULES)
def test_a_module_imports_only_from_rooms_further_down(module: str, source: str) -> None:
    assert broken_arrows(module, source) == []


@pytest.mark.parametrize(("module", "source"), LIBRARY)
def test_a_module_of_the_library_imports_nothing_heavy(module: str, source: str) -> None:
    assert heavy_imports(module, source) == []


def test_the_module_of_the_suite_imports_nothing_heavy() -> None:
    source = (ROOT / "data_contracts" / "suite.py").read_text(encoding="utf-8")
    assert heavy_imports("data_contracts.suite", source) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("reelroute.weights", "import data_contracts.queries"),
        ("reelroute.weights", "def late():\n    from tasks.label import ask"),
        ("reelroute.cli", "import flows.cli"),
        ("reelroute.cli", "def late():\n    import flows.pipeline"),
        ("reelroute.router", "def late():\n    import flows.cli"),
        ("configs.settings", "from data_contracts import runs"),
        ("data_contracts.runs", "import configs.settings as settings"),
        ("tasks.label", "from flows.pipeline import pipeline"),
        ("flows.label", "if TYPE_CHECKING:\n    import deployments.serve"),
        ("flows.label", "import importlib\nimportlib.import_module('deployments.serve')"),
        ("deployments.embedded.server", "from configs.settings import Settings"),
        ("deployments.embedded.server", "import deployments.serve"),
        ("deployments.embedded.server", "from deployments import serve"),
        ("flows.label", "from deployments.embedded import faults"),
    ],
)
def test_an_import_against_the_arrows_is_noticed(module: str, source: str) -> None:
    assert len(broken_arrows(module, source)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("reelroute.cli", "def late():\n    import flows.cli"),
        ("reelroute.cli", "import json, boto3\nfrom reelroute import weights"),
        ("tasks.label", "from tasks.cost import Cost\nfrom configs.settings import Settings"),
        ("flows.label", "import tasks_of_others"),
        ("deployments.serve", "from flows.pipeline import pipeline"),
        ("deployments.serve", "from deployments import embedded"),
        ("deployments.embedded.server", "from deployments.embedded import faults"),
    ],
)
def test_an_import_along_the_arrows_is_let_through(module: str, source: str) -> None:
    assert broken_arrows(module, source) == []


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ("import pandas as pd", 1),
        ("try:\n    from torch.nn import Linear\nexcept ImportError:\n    pass", 1),
        ("class Late:\n    import sklearn", 1),
        ("def late():\n    import torch", 0),
        ("if TYPE_CHECKING:\n    import pandas", 0),
        ("if TYPE_CHECKING:\n    pass\nelse:\n    import pandas", 1),
    ],
)
def test_a_heavy_import_is_noticed_where_it_happens_at_once(source: str, count: int) -> None:
    assert len(heavy_imports("reelroute.x", source)) == count


@pytest.mark.parametrize("module", ["reelroute", "reelroute.cli"])
def test_importing_the_library_loads_nothing_heavy(module: str) -> None:
    if not (ROOT / "reelroute" / "cli.py").exists() and module == "reelroute.cli":
        pytest.skip("there is no command yet")
    program = f"import sys, {module}; print(sorted({HEAVY!r} & sys.modules.keys()))"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
