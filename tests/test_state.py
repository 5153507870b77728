"""No module keeps state of the process: what functions change is an object that they are given."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "breedlab"

CHANGES = {
    *("add", "append", "appendleft", "clear", "discard", "extend", "insert", "pop", "popitem"),
    *("popleft", "remove", "setdefault", "sort", "update"),
}
"""What a container does to itself."""

ALLOWED = {
    # The one terminal of this process, which all but the first of several keep silent.
    "distributed.py: sets console.quiet",
    # A switch of smdebug's that an earlier hook may have left on.
    "debugging/hook.py: sets error_handling_agent.disable_smdebug",
}


def test_no_module_keeps_state_that_its_functions_change() -> None:
    found = {
        f"{path.relative_to(SOURCE).as_posix()}: {what}"
        for path in SOURCE.rglob("*.py")
        for what in changes_of_state(ast.parse(path.read_text("utf-8")))
    }
    assert found - ALLOWED == set(), "pass an object instead"
    assert found >= ALLOWED, "these exceptions are needed no more"


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("x = None\ndef f():\n    global x\n    x = 1", ["global x"]),
        ("made = {}\ndef f():\n    made['a'] = 1", ["changes made"]),
        ("made: list[int] = []\ndef f():\n    made.append(1)", ["changes made"]),
        ("made = []\nclass A:\n    def f(self):\n        made.clear()", ["changes made"]),
        ("made = {}\ndef f():\n    del made['a']", ["changes made"]),
        ("made = [0]\ndef f():\n    made[0] += 1", ["changes made"]),
        ("from a import b\ndef f():\n    b.current = 1", ["sets b.current"]),
        ("def f():\n    from breedlab.a import b\n    b.current = 1", ["sets b.current"]),
        ("class A:\n    made = []\n    def f(self):\n        A.made.append(1)", ["changes A.made"]),
        ("class A:\n    @classmethod\n    def f(cls):\n        cls.made = 1", ["sets cls.made"]),
        # What is a function's own, or changes while its module is imported, is no such state.
        ("made = {}\nmade['a'] = 1", []),
        ("made = []\ndef f():\n    made = []\n    made.append(1)", []),
        ("made = []\ndef f(made):\n    made.append(1)", []),
        ("class A:\n    def f(self):\n        self.made = 1\n        self.all.append(1)", []),
    ],
)
def test_changed_state_is_found(code: str, found: list[str]) -> None:
    assert list(changes_of_state(ast.parse(code))) == found


def changes_of_state(module: ast.Module) -> Iterator[str]:
    """Yield what the functions of a module change beside their own variables and arguments.

    Python's own state, such as `sys.path` and `os.environ`, is left out.
    """
    shared = {name for statement in module.body for name in _bound(statement)} - {"os", "sys"}
    imported = [each for each in module.body if isinstance(each, ast.Import)]
    modules = {name for each in imported for name in _bound(each)}
    modules |= {name for name in shared if list(SOURCE.rglob(f"{name}.py"))}
    for function in ast.walk(module):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            imported_here = {
                name
                for node in ast.walk(function)
                if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("breedlab")
                for name in _bound(node)
            }
            changing = (shared - _own_names(function)) | imported_here | {"cls"}
            for node in ast.walk(function):
                yield from _changes(node, changing, modules)


def _changes(node: ast.AST, shared: set[str], modules: set[str]) -> Iterator[str]:
    if isinstance(node, ast.Global):
        yield f"global {', '.join(node.names)}"
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        changed = node.func.value
        is_function = isinstance(changed, ast.Name) and changed.id in modules  # one that is called
        if node.func.attr in CHANGES and _root(changed) in shared and not is_function:
            yield f"changes {ast.unparse(changed)}"
    elif isinstance(node, ast.Assign | ast.AugAssign | ast.AnnAssign | ast.Delete):
        for target in _targets(node):
            if _root(target) not in shared:
                continue
            if isinstance(target, ast.Attribute):
                yield f"sets {ast.unparse(target)}"
            elif isinstance(target, ast.Subscript):
                yield f"changes {ast.unparse(target.value)}"


def _targets(node: ast.Assign | ast.AugAssign | ast.AnnAssign | ast.Delete) -> list[ast.expr]:
    return [node.target] if isinstance(node, ast.AugAssign | ast.AnnAssign) else node.targets


def _root(node: ast.expr) -> str:
    """Return the name that attributes and items are taken of; empty if it is none."""
    while isinstance(node, ast.Attribute | ast.Subscript):
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""


def _own_names(function: ast.FunctionDef | ast.AsyncFunctionDef) -> set[str]:
    """Return a function's arguments and variables, those of functions within it, too."""
    names = {node.arg for node in ast.walk(function) if isinstance(node, ast.arg)}
    for node in ast.walk(function):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.Import | ast.ImportFrom | ast.FunctionDef | ast.ClassDef):
            names.update(_bound(node))
    return names - {function.name}


def _bound(statement: ast.stmt) -> set[str]:
    """Return the names that a statement of a module binds."""
    if isinstance(statement, ast.Import | ast.ImportFrom):
        return {alias.asname or alias.name.partition(".")[0] for alias in statement.names}
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return {statement.name}
    if isinstance(statement, ast.Assign | ast.AnnAssign | ast.AugAssign):
        names = (node for target in _targets(statement) for node in ast.walk(target))
        return {node.id for node in names if isinstance(node, ast.Name)}
    return set()
