"""Scripts that import modules by the names that they had before the tree was ordered go on working,
with a warning."""

from __future__ import annotations

import sys
from importlib import import_module

import pytest

from breedlab.data import image_set
from breedlab.moved import MOVED


@pytest.mark.parametrize("old", MOVED)
def test_an_old_name_is_the_very_module(old: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, old, raising=False)
    with pytest.warns(FutureWarning, match=f"{old} is now {MOVED[old]}"):
        module = import_module(old)
    assert module is import_module(MOVED[old])
    assert module.__spec__ is not None and module.__spec__.name == MOVED[old]


def test_a_name_that_never_was_is_still_an_error() -> None:
    with pytest.raises(ModuleNotFoundError, match=r"breedlab\.never"):
        import_module("breedlab.never")


@pytest.mark.parametrize(
    ("old", "new"), [("Photo", image_set.LabeledImage), ("PhotoSet", image_set.ImageSet)]
)
def test_a_class_is_found_by_its_old_name(old: str, new: type) -> None:
    with pytest.warns(FutureWarning, match=f"{old} is now {new.__name__}"):
        assert getattr(import_module("breedlab.data.image_set"), old) is new
