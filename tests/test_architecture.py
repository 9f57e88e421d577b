"""The house: which room may import which, and what only one room may do. The sources are read, nothing is imported."""

from __future__ import annotations

import ast
import re
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = "hiera_det"
#: From the ground up; a room imports from floors below its own, and from itself.
FLOORS = (
    {"errors"},
    {"files", "extras"},
    {"modeling"},
    {"weights"},
    {"data"},
    {"zoo"},
    {"engine"},
    {"report"},
    {"predict"},
    {"tasks"},
    {"d2", "adapters"},
    {"export", "benchmark"},
    {"api"},
    {"cli"},
)
#: Names that are imported on first use, and the command: they lead to everything.
DOORS = {"__init__", "__main__"}
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
SOURCES = sorted((ROOT / PACKAGE).rglob("*.py"))
TREES = {path.relative_to(ROOT / PACKAGE): ast.parse(path.read_text(encoding="utf-8")) for path in SOURCES}
#: Functions whose first argument, where it is a literal, names a module.
IMPORTERS = {"import_module", "__import__"}
#: What renames a file or folder.
RENAMERS = {"rename", "renames", "replace", "move"}


def room_of(path: Path) -> str:
    """The room of a source: a folder, or a single file."""
    return path.parts[0].removesuffix(".py")


def imported(tree: ast.AST, path: Path) -> Iterator[tuple[str, int]]:
    """Modules that a source imports anywhere, also for type checkers and within functions, with the line."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = (PACKAGE, *path.parts[:-1])
            base = [*above[: len(above) - node.level + 1]] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            # ``from hiera_det import zoo`` names the module after the import.
            yield from (
                (f"{module}.{alias.name}" if module == PACKAGE else module, node.lineno) for alias in node.names
            )
        elif isinstance(node, ast.Call) and node.args and name_of(node.func) in IMPORTERS:
            first = node.args[0]
            if isinstance(first, ast.Constant) and isinstance(first.value, str):
                yield first.value, node.lineno


def name_of(function: ast.expr) -> str:
    """The last word of what is called."""
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def sources(but_for: str = "") -> Iterator[tuple[Path, ast.Module]]:
    """All sources, or those of the other rooms."""
    return ((path, tree) for path, tree in TREES.items() if room_of(path) != but_for)


def test_every_room_has_its_floor() -> None:
    assert {room_of(path) for path in TREES} - DOORS <= set(FLOOR_OF)


def test_nothing_imports_upwards() -> None:
    upward = []
    for path, tree in sources():
        own = room_of(path)
        for module, line in imported(tree, path):
            first, *rest = module.split(".")
            room = rest[0] if rest else ""
            # A public name of the package, such as ``hiera_det.build_hiera``, may lead to any room.
            below = room in FLOOR_OF and FLOOR_OF[room] < FLOOR_OF.get(own, len(FLOORS))
            if first == PACKAGE and own not in DOORS and room not in ("", own, "__version__") and not below:
                upward.append(f"{PACKAGE}/{path}:{line}: {own} imports {module}")
    assert not upward, "\n".join(upward)


@pytest.mark.parametrize(
    ("module", "room"),
    [("detectron2", "d2"), ("fvcore", "d2"), ("yacs", "d2"), ("omegaconf", "d2"), ("argparse", "cli")],
)
def test_one_room_alone_imports(module: str, room: str) -> None:
    elsewhere = [
        f"{PACKAGE}/{path}:{line}: {name}"
        for path, tree in sources(but_for=room)
        for name, line in imported(tree, path)
        if name.split(".")[0] == module
    ]
    assert not elsewhere, "\n".join(elsewhere)


def test_command_lines_stay_in_the_cli() -> None:
    elsewhere = [
        f"{PACKAGE}/{path}:{node.lineno}"
        for path, tree in sources(but_for="cli")
        for node in ast.walk(tree)
        if (isinstance(node, ast.Name) and node.id == "Namespace")
        or (isinstance(node, ast.Attribute) and node.attr in ("Namespace", "argv"))
    ]
    assert not elsewhere, "\n".join(elsewhere)


def test_one_file_alone_renames_files() -> None:
    elsewhere = [
        f"{PACKAGE}/{path}:{node.lineno}"
        for path, tree in sources(but_for="files")
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and node.attr in RENAMERS
        and isinstance(node.value, ast.Name)
        and node.value.id in ("os", "shutil")
    ]
    assert not elsewhere, "\n".join(elsewhere)


def test_nine_functions_in_ten_are_short(record_property: Callable[[str, object], None]) -> None:
    """A function's lines are all of it, docstring and signature too."""
    found = [
        (node.end_lineno - node.lineno + 1, f"{PACKAGE}/{path}:{node.lineno}: {node.name}")
        for path, tree in sources()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno
    ]
    *_, p90 = statistics.quantiles([lines for lines, _ in found], n=10)
    record_property("lines of a function, 90th percentile", p90)
    print(f"{len(found)} functions; nine in ten have at most {p90:g} lines")
    longest = "\n".join(f"{lines:4} {where}" for lines, where in sorted(found, reverse=True)[:20])
    assert p90 <= 25, longest


def test_no_test_is_skipped_for_a_package() -> None:
    """The set-up brings them all; what is skipped where an import fails would go on unseen once the set-up breaks."""
    skipped = {
        f"tests/{path.relative_to(ROOT / 'tests')}: {package}"
        for path in (ROOT / "tests").rglob("*.py")
        for package in re.findall(r'importorskip\("(\w+)', path.read_text(encoding="utf-8"))
    }
    assert not skipped, "\n".join(sorted(skipped))
