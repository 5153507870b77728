"""From the config's collections, or SageMaker's `debughookconfig.json`, to a hook that saves
them."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import nn

from breedlab.config.debugger import Collections, Debugger, TensorCollection
from breedlab.debugging.hook import RunHook
from breedlab.debugging.reader import BATCH_SIZE
from breedlab.debugging.reductions import OWN, RECTIFIERS, bounds_of, parse

from smdebug.core.json_config import create_hook_from_json_config  # isort: skip
from smdebug.pytorch import ReductionConfig, SaveConfig, SaveConfigMode, modes  # isort: skip

_NEVER = SaveConfigMode(save_interval=sys.maxsize, start_step=sys.maxsize)
_NOTHING = "(?!)"  # smdebug refuses a collection without a pattern

_BATCH_SIZES = "batch_sizes"
"""A collection that is always saved with the losses, for their mean over the images: a last batch
may hold fewer."""


def hook_from_config(
    debugger: Debugger, folder: Path, network: nn.Module, outputs: bool
) -> RunHook:
    """Return a hook that saves as configured.

    Args:
        debugger: From the config.
        folder: A new one.
        network: Its activations are found by their types.
        outputs: Whether modules' outputs may be saved; not within a compiled network.
    """
    collections = debugger.collections
    all_collections: dict[str, TensorCollection] = {
        name: getattr(collections, name) for name in Collections.model_fields
    }
    saved = [name for name, collection in all_collections.items() if _ever(collection)]
    hook = RunHook(out_dir=str(folder), include_collections=saved)
    patterns = _patterns(network) | {"custom": collections.custom.include or [_NOTHING]}
    for name, collection in all_collections.items():
        if name not in hook.include_collections:  # losses are in it, asked for or not
            continue
        target = hook.get_collection(name)
        if name in patterns:
            target.include(patterns[name])
        target.save_config = _save_config(collection, debugger.every)
        target.reduction_config = _reduction_config(collection)
        hook.own[name] = [
            parse(reduction) for reduction in collection.reductions if reduction in OWN
        ]
    _save_batch_sizes(hook)
    watched = (
        [*(n for n in ("relu_activations", "bounded_activations") if n in saved)] if outputs else []
    )
    if outputs and "custom" in saved:
        hook.saves_outputs_of = lambda module: True
    else:
        kinds = {"relu_activations": is_rectifier, "bounded_activations": is_bounded}
        hook.saves_outputs_of = lambda module: any(kinds[name](module) for name in watched)
    return hook


def hook_from_json(source: Path, folder: Path, network: nn.Module) -> RunHook:
    """Return a hook that saves what and where SageMaker's file says, for SageMaker to upload.

    Args:
        source: The file.
        folder: An empty one. Becomes a link to where the tensors are; used itself if the file names
            no place.
        network: Its activations are found by their types.

    Raises:
        Exception: Any that smdebug raises for a damaged file.
    """
    place = json.loads(source.read_text("utf-8")).get("LocalPath")
    if place is not None:
        place = _unused(Path(place).expanduser().absolute())
        folder.rmdir()
        folder.symlink_to(place, target_is_directory=True)

    def make_hook(**settings: Any) -> RunHook:
        return RunHook(**{**settings, "out_dir": str(place or folder)})

    hook: RunHook = create_hook_from_json_config(make_hook, str(source))
    for name, pattern in _patterns(network).items():
        if name in hook.include_collections and not hook.get_collection(name).include_regex:
            hook.get_collection(name).include(pattern)
    _save_batch_sizes(hook)
    return hook


def _save_batch_sizes(hook: RunHook) -> None:
    """Have batch sizes saved in the same steps as losses."""
    hook.include_collections.append(_BATCH_SIZES)
    sizes = hook.get_collection(_BATCH_SIZES)
    sizes.include(f"^{BATCH_SIZE}$")
    sizes.save_config = hook.get_collection("losses").save_config
    sizes.reduction_config = ReductionConfig(save_raw_tensor=True)


def _unused(place: Path) -> Path:
    """Return the folder itself, or, if an earlier registration wrote there, a numbered folder in
    it."""
    number, folder = 0, place
    while (folder / "collections").exists():
        number += 1
        folder = place / str(number)
    return folder


def is_rectifier(module: nn.Module) -> bool:
    return isinstance(module, RECTIFIERS)


def is_bounded(module: nn.Module) -> bool:
    return bounds_of(module) is not None


def _ever(collection: TensorCollection) -> bool:
    return bool(collection.train or collection.eval)


def _patterns(network: nn.Module) -> dict[str, list[str]]:
    """Return the names of those tensors that smdebug has no collection for."""
    modules = list(network.named_modules())
    return {
        "labels": ["^labels$"],
        "predictions": ["^predictions$"],
        "relu_activations": [_outputs_of(name for name, module in modules if is_rectifier(module))],
        "bounded_activations": [
            _outputs_of(name for name, module in modules if is_bounded(module))
        ],
    }


def _outputs_of(names: Iterable[str]) -> str:
    escaped = [re.escape(name) for name in names]
    return f"^({'|'.join(escaped)})_output_" if escaped else _NOTHING


def _save_config(collection: TensorCollection, every: int) -> SaveConfig:
    train, evaluated = (
        every if interval == "every" else interval
        for interval in (collection.train, collection.eval)
    )
    intervals = {modes.TRAIN: train, modes.EVAL: evaluated, modes.PREDICT: evaluated}
    return SaveConfig(
        {
            mode: SaveConfigMode(save_interval=steps) if steps else _NEVER
            for mode, steps in intervals.items()
        }
        | {modes.GLOBAL: _NEVER}
    )


def _reduction_config(collection: TensorCollection) -> ReductionConfig:
    by_kind: dict[str, list[str]] = {
        "reductions": [],
        "norms": [],
        "abs_reductions": [],
        "abs_norms": [],
    }
    for reduction in collection.reductions:
        if reduction not in OWN:
            name, absolute = parse(reduction)
            kind = "norms" if reduction.endswith("_norm") else "reductions"
            by_kind[f"abs_{kind}" if absolute else kind].append(name)
    return ReductionConfig(
        **by_kind, save_raw_tensor=collection.values, save_shape=not collection.values
    )
