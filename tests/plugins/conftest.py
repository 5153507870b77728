"""A package of one's own in the working folder, as a stranger would write it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from strangers import Write

from breedlab.registry import REGISTRIES


@pytest.fixture
def package(here: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Write a package into the working folder, and return the override that names it; it is
    forgotten afterwards."""
    before = {registry.kind: dict(registry.items()) for registry in REGISTRIES}
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path not in ("", str(here))])
    names = []

    def write(source: str, name: str = "my_package") -> str:
        folder = here / name
        folder.mkdir()
        (folder / "__init__.py").write_text(source)
        names.append(name)
        return f"plugins=[{name}]"

    yield write
    for name in names:
        sys.modules.pop(name, None)
    for registry in REGISTRIES:
        registry._classes = before[registry.kind]
