"""The old names of modules that moved: importing one warns and gives the module itself, until the
next release."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

MOVED = {
    "breedlab.cores": "breedlab.hardware",
    "breedlab.data.drawing.photo": "breedlab.data.drawing.image",
    "breedlab.data.photo_set": "breedlab.data.image_set",
    "breedlab.debug": "breedlab.cli.debug",
    "breedlab.debugging.judging": "breedlab.debugging.rule_runner",
    "breedlab.debugging.mends": "breedlab.debugging.smdebug_compat",
    "breedlab.debugging.reading": "breedlab.debugging.reader",
    "breedlab.deploy": "breedlab.cli.deploy",
    "breedlab.deploy_flags": "breedlab.cli.deploy_flags",
    "breedlab.evaluate": "breedlab.cli.evaluate",
    "breedlab.grid": "breedlab.pipeline.grid",
    "breedlab.hyperparameters": "breedlab.backends.sagemaker.jobs.hyperparameters",
    "breedlab.jobs": "breedlab.cli.jobs",
    "breedlab.launch": "breedlab.cli.launch",
    "breedlab.models.catalogue": "breedlab.catalogue",
    "breedlab.models.weight_files": "breedlab.weight_files",
    "breedlab.packing": "breedlab.archives",
    "breedlab.plan": "breedlab.pipeline.plan",
    "breedlab.predict": "breedlab.cli.predict",
    "breedlab.ranks": "breedlab.distributed",
    "breedlab.report": "breedlab.cli.report",
    "breedlab.reporting.console": "breedlab.console",
    "breedlab.reporting.figures": "breedlab.evaluation.figures",
    "breedlab.reporting.photos": "breedlab.reporting.example_images",
    "breedlab.reporting.tensors": "breedlab.debugging.tensors",
    "breedlab.serve": "breedlab.cli.serve",
    "breedlab.serving.batching": "breedlab.serving.scoring",
    "breedlab.serving.client": "breedlab.backends.client",
    "breedlab.serving.conversion": "breedlab.serving.openvino_export",
    "breedlab.serving.documentation": "breedlab.serving.openapi",
    "breedlab.serving.explain": "breedlab.serving.grad_cam",
    "breedlab.serving.inspection": "breedlab.serving.file_checks",
    "breedlab.serving.intake": "breedlab.serving.invocations",
    "breedlab.serving.novelty": "breedlab.models.novelty",
    "breedlab.serving.origins": "breedlab.serving.access",
    "breedlab.serving.packing": "breedlab.archives",
    "breedlab.serving.ranking": "breedlab.models.ranking",
    "breedlab.serving.request_body": "breedlab.serving.invocations",
    "breedlab.serving.selection": "breedlab.serving.engine_selection",
    "breedlab.serving.structure": "breedlab.serving.file_checks",
    "breedlab.training.former": "breedlab.pipeline.former",
    "breedlab.training.label_metrics": "breedlab.evaluation.label_metrics",
    "breedlab.training.loss": "breedlab.training.cross_entropy",
    "breedlab.training.metrics": "breedlab.evaluation.class_metrics",
    "breedlab.training.observers": "breedlab.pipeline.observers",
    "breedlab.training.prepare": "breedlab.training.context",
    "breedlab.training.quiet": "breedlab.training.log_filters",
    "breedlab.training.resumption": "breedlab.training.mid_epoch",
    "breedlab.training.run": "breedlab.pipeline.run",
    "breedlab.training.rundir": "breedlab.pipeline.rundir",
    "breedlab.training.stopping": "breedlab.signals",
    "breedlab.tuning.board": "breedlab.tuning.trial_table",
    "breedlab.tuning.row": "breedlab.tuning.trial_log",
    "breedlab.upload": "breedlab.cli.upload",
}


class _Alias(Loader):
    """A loader of modules by their old names; it returns the very module of the new name, so that
    patching either patches both."""

    def __init__(self, new: str) -> None:
        self._new = new
        self._spec: ModuleSpec | None = None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        warnings.warn(
            f"{spec.name} is now {self._new}; the old name goes with the next release",
            FutureWarning,
            2,
        )
        module = import_module(self._new)
        self._spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._spec  # which the import system has just replaced by the old name's


class _Finder(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return ModuleSpec(fullname, _Alias(MOVED[fullname])) if fullname in MOVED else None


def keep_old_names() -> None:
    """Let Python find moved modules by their old names, where there is no other module of that
    name."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())
