"""Rules on where images are and how they are cut (`data`, `cache.views`); see `config.rules`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from breedlab.config import cloud
from breedlab.config.backend import Backend
from breedlab.config.problems import Problem, Rule
from breedlab.config.sections import Cache, Data, FineTune, Model
from breedlab.registry import SOURCES


def one_source(data: Data) -> Iterator[Problem]:
    first, *others = [
        *(name for name in SOURCES.names() if getattr(data, name, None) is not None),
        "",
    ]
    for other in filter(None, others):
        yield Problem(
            f"data.{other}",
            f"given together with data.{first}; images come from one source, not both",
        )


def fixes_are_here(data: Data, backend: Backend) -> Iterator[Problem]:
    if data.fixes is None:
        return
    kind = cloud.kind_of(backend)
    if not kind.here and not kind.same_paths:
        yield Problem(
            "data.fixes", f"backend={backend.name} cannot apply it; fix the folders instead"
        )
    elif kind.here and not Path(data.fixes).is_file():
        yield Problem(
            "data.fixes",
            f"{data.fixes} does not exist; expected a fixes.csv, edited",
            "BL600",
        )


def splits_leave_training_images(data: Data) -> Iterator[Problem]:
    if data.valid_fraction + data.test_fraction >= 1:
        total = data.valid_fraction + data.test_fraction
        yield Problem(
            "data.test_fraction",
            f"with data.valid_fraction makes {total:g}; expected less than 1 together",
        )


def crop_fits_resize(data: Data) -> Iterator[Problem]:
    if data.image_size != "auto" and data.resize != "auto" and data.resize < data.image_size:
        yield Problem(
            "data.resize",
            f"got {data.resize}; expected at least data.image_size ({data.image_size})",
        )


def views_suit_augmentation(model: Model, cache: Cache, data: Data) -> Iterator[Problem]:
    if model.freeze == "none":
        if cache.views > 1:
            yield Problem(
                "cache.views",
                f"got {cache.views}; expected 1, since model.freeze=none caches nothing",
            )
        return
    if cache.views == 0 and cache.mode != "off":
        yield Problem(
            "cache.views",
            "got 0, which gives each epoch new views; expected cache.mode=off as well, or"
            " 1 or more",
        )
    if cache.views == 1 and data.augment != "none":
        yield Problem(
            "data.augment",
            f"got {data.augment!r}, never seen with cache.views=1 (the first view is the evaluation"
            " transform); expected 'none', or cache.views of at least 2",
        )
    if cache.views > 1 and data.augment == "none":
        yield Problem(
            "cache.views",
            f"got {cache.views}; expected 1, since data.augment=none makes all views the same",
        )
    for path, alpha in (("data.mixup", data.mixup), ("data.cutmix", data.cutmix)):
        if alpha and cache.mode != "off":
            yield Problem(
                path,
                f"got {alpha:g}; expected 0, since mixing images needs model.freeze=none (or"
                " cache.mode=off)",
            )


PLAIN_VIEWS: dict[str, Any] = {
    "cache.views": 1,
    "data.augment": "none",
    "data.train_size": None,
    "data.start_size": None,
}
"""What a training on the evaluation transform of images alone has, instead of a config's own."""


def crops_grow(model: Model, cache: Cache, data: Data) -> Iterator[Problem]:
    if data.start_size is None:
        return
    if model.freeze != "none" and cache.views != 0:
        yield Problem(
            "data.start_size",
            f"got {data.start_size}, but a frozen backbone sees the same views every epoch;"
            " expected null, or model.freeze=none",
        )
    largest = data.train_size or data.image_size
    if largest != "auto" and data.start_size > largest:
        yield Problem(
            "data.start_size",
            f"got {data.start_size}; expected at most {largest}, to which crops grow",
        )


def crops_are_cut(data: Data) -> Iterator[Problem]:
    for path, size in (("data.train_size", data.train_size), ("data.start_size", data.start_size)):
        if size and data.augment == "none":
            yield Problem(
                path,
                f"got {size} with data.augment=none, which cuts no crops; expected null, or"
                " an augmentation",
            )


def fine_tuning_crops_grow(data: Data, fine_tune: FineTune) -> Iterator[Problem]:
    """Yield conflicts of a fine-tuning's crops, before a search and a head's training are done."""
    if not fine_tune.epochs:
        return
    train_size, start_size = fine_tune.train_size, fine_tune.start_size
    sizes = (("fine_tune.train_size", train_size), ("fine_tune.start_size", start_size))
    for path, size in sizes:
        if isinstance(size, int) and fine_tune.augment == "none":
            yield Problem(
                path,
                f"got {size} with fine_tune.augment=none, which cuts no crops; expected null, or"
                " an augmentation",
            )
    largest = train_size or data.image_size
    if isinstance(start_size, int) and isinstance(largest, int) and start_size > largest:
        yield Problem(
            "fine_tune.start_size",
            f"got {start_size}; expected at most {largest}, to which crops grow",
        )


RULES: tuple[Rule, ...] = (
    one_source,
    fixes_are_here,
    splits_leave_training_images,
    crop_fits_resize,
    views_suit_augmentation,
    crops_are_cut,
    crops_grow,
    fine_tuning_crops_grow,
)
