"""The config's annotations are types, not texts that pydantic has to compile at every start."""

from __future__ import annotations

from typing import Any

from breedlab.config.schema import Config
from breedlab.config.section import Section


def sections(kind: type[Any]) -> set[type[Any]]:
    """Return all subclasses of a class."""
    return {each for child in kind.__subclasses__() for each in (child, *sections(child))}


def test_no_annotation_of_the_configs_own_sections_is_a_text() -> None:
    own = {kind for kind in sections(Section) if kind.__module__.startswith("breedlab.config.")}
    assert Config in own and len(own) > 30
    texts = {
        f"{kind.__module__}.{kind.__qualname__}.{name}"
        for kind in own
        for name, annotation in vars(kind).get("__annotations__", {}).items()
        if isinstance(annotation, str)
    }
    assert not texts
