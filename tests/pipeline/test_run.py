"""A whole run, in a process that goes on to another."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path

import pytest

from breedlab.config import Config
from breedlab.models.classifier import Classifier
from breedlab.pipeline.run import run


def _networks() -> set[int]:
    return {id(thing) for thing in gc.get_objects() if isinstance(thing, Classifier)}


@pytest.mark.filterwarnings("ignore:.*isinstance")
def test_a_run_leaves_no_network_in_memory(configure: Callable[..., Config], here: Path) -> None:
    gc.collect()
    before = _networks()
    gc.disable()  # it might come at the right moment
    try:
        run(configure("model.freeze=none", "trainer.max_epochs=1"), [])
        assert _networks() <= before
    finally:
        gc.enable()
