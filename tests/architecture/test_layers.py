"""Who may import whom, read from the source, and how large a piece of code may be (docs/architecture.md)."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("compose_rl", "components", "pipelines")
LIGHT_LIBRARIES = {"pydantic", "pydantic_core", "yaml", "rich", "boto3", "botocore"}
HEAVY_LIBRARIES = {"torch", "transformers", "composer", "llmfoundry", "streaming", "peft", "datasets", "kfp"}
MAX_FUNCTION_LINES, MAX_FILE_LINES = 70, 350

BOTTOM = {"config", "store", "errors", "progress", "environments", "lifeline"}
CONTRACT = BOTTOM | {"stages", "stages.spec"}
"""``stages``: what all stages share (job, spec, checks); ``stages.spec``: the specification of one."""
HEAVY = {"core", "data", "models", "rollouts", "rewards", "training", "evaluation"}

MAY_IMPORT = {
    "errors": set(),
    "progress": {"errors"},
    "environments": {"errors"},
    "lifeline": set(),
    "store": {"errors", "config"},
    "config": {"errors", "store"},
    "stages": CONTRACT | {"stages.part"},
    "stages.spec": CONTRACT | {"stages.part"},
    "launch": CONTRACT,
    "commands": CONTRACT | {"launch"},
    "cli": CONTRACT | {"launch", "commands"},
    "core": {"errors", "config"},
    "data": BOTTOM | {"core"},
    "models": BOTTOM | {"core"},
    "rollouts": BOTTOM | {"core"},
    "rewards": BOTTOM | {"core", "models", "data", "rollouts"},
    "training": CONTRACT | {"core", "data", "models", "rollouts", "rewards"},
    "evaluation": CONTRACT | {"core", "data", "models", "rollouts", "rewards"},
    "stages.part": CONTRACT | HEAVY,
    "stages.run": CONTRACT | HEAVY | {"stages.part"},
    "demo": BOTTOM | {"core"},
    "components": {"errors", "stages.spec", "stages"},
    "pipelines": CONTRACT | {"components", "commands", "launch"},
}
"""Layer -> the other layers that it may import when it is loaded.

``stages.part`` is what a stage's folder holds beside ``spec`` and ``run``."""
LIGHT = BOTTOM | {"stages", "stages.spec", "launch", "commands", "cli"}
LIBRARIES = {
    "core": {"torch"},
    "components": {"kfp"},
    "pipelines": {"kfp", "kfp_server_api", "urllib3", "google", "yaml", "rich"},
}
"""Layer -> the only libraries beside the standard one that it may import (``google`` is kfp's protobuf)."""
ATTENTION = {"compose_rl.core.attention", "compose_rl.core.flex", "compose_rl.core.segments"}
"""They speak to transformers' attention registry."""


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {module_name(path): path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))}
STAGES = {path.name for path in (ROOT / "compose_rl/stages").iterdir() if (path / "spec.py").exists()}
EVERY_MODULE = pytest.mark.parametrize("module", sorted(SOURCES))


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def imported_at_load(tree: ast.Module) -> Iterator[ast.stmt]:
    """Import statements that run when the module is loaded: not those in functions or for type checkers."""
    pending: list[ast.AST] = [tree]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif is_type_checking(node):
            pending.extend(node.orelse)
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            pending.extend(ast.iter_child_nodes(node))


def targets(statement: ast.stmt, module: str) -> Iterator[str]:
    """Modules that an import statement names; of ``from package import module`` the module."""
    if isinstance(statement, ast.Import):
        yield from (alias.name for alias in statement.names)
        return
    assert isinstance(statement, ast.ImportFrom) and statement.module
    assert statement.level == 0, f"{module}: relative import; write the full name"
    for alias in statement.names:
        full = f"{statement.module}.{alias.name}"
        yield full if full in SOURCES else statement.module


def imports(module: str) -> set[str]:
    tree = ast.parse(SOURCES[module].read_text())
    return {name for statement in imported_at_load(tree) for name in targets(statement, module)}


def layer(module: str) -> str:
    """The layer of one of this project's modules: the name that the rules below use."""
    parts = module.split(".")
    if parts[0] != "compose_rl":
        return parts[0]
    if parts[1:2] == ["stages"] and parts[2:] and parts[2] in STAGES:
        inner = parts[3] if len(parts) > 3 else "spec"
        return f"stages.{inner}" if inner in ("spec", "run") else "stages.part"
    return parts[1] if len(parts) > 1 else "compose_rl"


def own(names: set[str]) -> set[str]:
    return {name for name in names if name.split(".")[0] in PACKAGES}


def libraries(names: set[str]) -> set[str]:
    return {name.split(".")[0] for name in names - own(names)} - set(sys.stdlib_module_names)


def closure(module: str) -> set[str]:
    """The module and whatever of this project loads with it, packages' ``__init__`` included."""
    found: set[str] = set()
    pending = [module]
    while pending:
        name = pending.pop()
        if name in found or name not in SOURCES:
            continue
        found.add(name)
        parent = name.rpartition(".")[0]
        pending += [*own(imports(name)), *([parent] if parent else [])]
    return found


LIGHT_MODULES = sorted(module for module in SOURCES if layer(module) in LIGHT)


@EVERY_MODULE
def test_a_module_imports_only_layers_below_it(module: str):
    mine = layer(module)
    if mine in PACKAGES and module in PACKAGES:
        assert not own(imports(module)), f"{module}/__init__.py loads other modules; keep it empty"
        return
    assert mine in MAY_IMPORT, f"{module}: layer '{mine}' is not in the table of this test; add it there"
    wrong = {name for name in own(imports(module)) if layer(name) not in MAY_IMPORT[mine] | {mine}}
    assert not wrong, f"{module} ({mine}) imports {sorted(wrong)}; it may import {sorted(MAY_IMPORT[mine])}"


@EVERY_MODULE
def test_a_module_imports_only_the_libraries_of_its_layer(module: str):
    allowed = LIBRARIES.get(layer(module))
    if module in ATTENTION:
        allowed = {"torch", "transformers"}
    if allowed is not None:
        wrong = libraries(imports(module)) - allowed
        assert not wrong, f"{module} imports {sorted(wrong)}; of libraries it may import {sorted(allowed)}"


@pytest.mark.parametrize("module", LIGHT_MODULES)
def test_a_light_module_loads_nothing_heavy(module: str):
    for name in closure(module):
        wrong = libraries(imports(name)) - LIGHT_LIBRARIES
        assert not wrong, (
            f"{module} loads {name}, which imports {sorted(wrong)}: too heavy for a light module"
        )


def test_light_modules_pull_in_no_heavy_library():
    """The same, measured: what the interpreter has loaded in the end."""
    script = (
        "import importlib, sys\n"
        f"for name in {LIGHT_MODULES!r}: importlib.import_module(name)\n"
        f"print(*sorted({HEAVY_LIBRARIES!r} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


def docstring_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    first = node.body[0]
    if ast.get_docstring(node) is None or first.end_lineno is None:
        return 0
    return first.end_lineno - first.lineno + 1


@EVERY_MODULE
def test_code_comes_in_small_pieces(module: str):
    source = SOURCES[module].read_text()
    assert len(source.splitlines()) <= MAX_FILE_LINES, (
        f"{module} has {len(source.splitlines())} lines; split it"
    )
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            lines = node.end_lineno - node.lineno + 1 - docstring_lines(node)
            assert lines <= MAX_FUNCTION_LINES, f"{module}.{node.name} has {lines} lines; split it"


@EVERY_MODULE
def test_no_module_is_a_drawer_for_everything(module: str):
    assert module.rpartition(".")[2] not in {"utils", "util", "helpers", "misc", "common"}, (
        f"{module}: name it after what it does"
    )


@pytest.mark.parametrize(
    "source, loaded",
    [
        ("import torch", {"torch"}),
        ("from torch import nn", {"torch"}),
        ("try:\n    import torch\nexcept ImportError:\n    pass", {"torch"}),
        ("class A:\n    import torch", {"torch"}),
        ("def f():\n    import torch", set()),
        ("if TYPE_CHECKING:\n    import torch\nelse:\n    import kfp", {"kfp"}),
        ("from compose_rl.config import schema", {"compose_rl.config.schema"}),
    ],
)
def test_imports_are_found_where_they_run(source: str, loaded: set[str]):
    statements = imported_at_load(ast.parse(source))
    assert {name for statement in statements for name in targets(statement, "example")} == loaded
