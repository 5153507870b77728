"""No file imports one that imports it: not for types, not inside functions, not over detours. And
what programs outside the package import of it is there."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src"
PROGRAMS = sorted(
    path
    for folder in ("benchmarks", "docs/make", "entry", "examples", "scripts")
    for path in (ROOT / folder).rglob("*.py")
)


def modules() -> dict[str, ast.Module]:
    """Every module of the product, by its name."""
    trees = {}
    for path in sorted((SOURCE / "breedlab").rglob("*.py")):
        name = ".".join(path.relative_to(SOURCE).with_suffix("").parts)
        trees[name.removesuffix(".__init__")] = ast.parse(path.read_text("utf-8"))
    return trees


def imported(tree: ast.Module, names: Mapping[str, object]) -> Iterator[str]:
    """What a module imports of `names`, wherever in it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in names else node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in names)


def circle(imports: Mapping[str, set[str]]) -> list[str]:
    """The modules of one circle, in its order, from the first by name; empty if there is none."""
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        path = error.args[1][:0:-1]  # from each module to what it imports; the last is the first
        first = path.index(min(path))
        return path[first:] + path[:first]
    return []


def test_no_circle_of_imports() -> None:
    trees = modules()
    imports = {name: set(imported(tree, trees)) & trees.keys() for name, tree in trees.items()}
    assert circle(imports) == []


@pytest.mark.parametrize(
    ("imports", "expected"),
    [
        ({"a": {"b", "c"}, "b": {"c"}, "c": set()}, []),
        ({"a": {"b"}, "b": {"c"}, "c": {"b"}}, ["b", "c"]),
        ({"a": {"b"}, "b": {"c", "d"}, "c": set(), "d": {"a"}}, ["a", "b", "d"]),
    ],
)
def test_a_circle_is_found(imports: dict[str, set[str]], expected: list[str]) -> None:
    assert circle(imports) == expected


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda path: path.name)
def test_programs_import_what_there_is(program: Path) -> None:
    """Inside functions, too, where nobody meets it until the function runs."""
    for node in ast.walk(ast.parse(program.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("breedlab"):
            module = importlib.import_module(node.module or "")
            for alias in node.names:
                if not hasattr(module, alias.name):
                    importlib.import_module(f"{node.module}.{alias.name}")
