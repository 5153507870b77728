"""What the tests of the config share: quickstart composed once, changed from there without Hydra's
help."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from breedlab.config import Config, validate
from breedlab.config.compose import compose
from breedlab.config.validate import Tree, with_values
from breedlab.errors import ConfigError


@pytest.fixture(scope="session")
def quickstart() -> Tree:
    """What the quickstart experiment composes to; not to be changed."""
    return compose(["experiment=quickstart"])


@pytest.fixture
def accept(quickstart: Tree) -> Callable[[dict[str, Any]], Config]:
    """Quickstart with other values at some config paths, validated."""
    return lambda values: validate(with_values(quickstart, values))


@pytest.fixture
def refuse(quickstart: Tree) -> Callable[..., list[str]]:
    """The problems of quickstart with other values at some config paths, a line each, the count
    checked, and the code if one is expected."""

    def lines(values: dict[str, Any], code: str = "") -> list[str]:
        with pytest.raises(ConfigError) as refusal:
            validate(with_values(quickstart, values))
        assert not code or refusal.value.code == code, str(refusal.value)
        title, *found = str(refusal.value).splitlines()
        assert title == (
            "config: 1 problem" if len(found) == 1 else f"config: {len(found)} problems"
        )
        return [line.strip() for line in found]

    return lines
