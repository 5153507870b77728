"""model.tar.gz: weights as safetensors, everything else about the model as data, and the code that
serves it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from breedlab.archives import opened as opened
from breedlab.archives import write_archive as write_archive
from breedlab.config.migrations import SCHEMA_VERSION
from breedlab.config.plugins import copy_packages
from breedlab.data.transforms import EvalTransform
from breedlab.models.backbone import TIMM
from breedlab.models.classifier import Classifier
from breedlab.registry import ENGINES
from breedlab.serving.description import FORMAT
from breedlab.serving.engine_kinds import Choice, EngineKind
from breedlab.serving.engine_loading import open_engine, probe
from breedlab.serving.fetch import Allowed
from breedlab.version import PACKAGE

OLDEST_FORMAT = 1
"""Formats of an archive; they differ in what its scores are."""
_CODE = (
    "__init__.py",
    "errors.py",
    "hardware.py",
    "hosts.py",
    "data/__init__.py",
    "data/decode.py",
    "data/formats.py",
    "data/gray_scale.py",
    "data/transforms.py",
    "models/__init__.py",
    "models/backbone.py",
    "models/boundary.py",
    "models/classifier.py",
    "models/openvino_core.py",
    "moved.py",
    "registry.py",
    "signals.py",
    "version.py",
    "weight_files.py",
    "serving/__init__.py",
    "serving/answers.py",
    "serving/description.py",
    "serving/directories.py",
    "serving/engine_kinds.py",
    "serving/engine_loading.py",
    "serving/engine_output.py",
    "serving/engines/__init__.py",
    "serving/engines/eager.py",
    "serving/engines/openvino.py",
    "serving/fetch.py",
    "serving/file_checks.py",
    "serving/handler.py",
    "serving/model.py",
    "models/novelty.py",
    "serving/public_addresses.py",
    "serving/refusals.py",
    "serving/request_parser.py",
    "serving/response.py",
)
"""What an endpoint imports: nothing of it needs lightning, hydra or pydantic."""


def write_folder(
    folder: Path,
    classifier: Classifier,
    transform: EvalTransform,
    classes: tuple[str, ...],
    lineage: Mapping[str, Any],
    allow_urls: Allowed = "none",
    plugins: Sequence[str] = (),
    answers: Mapping[str, Any] | None = None,
) -> None:
    """Write an archive's content, unpacked, into an empty folder.

    Args:
        folder: Where to.
        classifier: Architecture and weights.
        transform: Of the evaluation.
        classes: Names in the order of the scores.
        lineage: Where the model comes from.
        allow_urls: Whose images an endpoint of it fetches by their address.
        plugins: Packages that the endpoint needs, too, since a head or an engine may be theirs.
        answers: What becomes of its scores; see `serving.answers`.
    """
    state = {
        name: tensor.detach().cpu().contiguous() for name, tensor in classifier.state_dict().items()
    }
    save_file(state, str(folder / "model.safetensors"))
    description = {
        "schema_version": SCHEMA_VERSION,
        "format": _format(answers or {}),
        "architecture": classifier.architecture.as_dict(),
        "classes": list(classes),
        "transform": asdict(transform),
        "lineage": dict(lineage),
        "allow_urls": allow_urls,
        "answers": dict(answers or {}),
    }
    (folder / "model.json").write_text(json.dumps(description, indent=2))
    write_code(folder, classifier.architecture.name)
    if plugins:
        write_plugins(folder / "code", plugins)


def _format(answers: Mapping[str, Any]) -> int:
    """Return the oldest format whose readers know all of these answers."""
    return FORMAT if answers.get("thresholds") or answers.get("flip_tta") else OLDEST_FORMAT


def write_code(folder: Path, architecture: str) -> None:
    """Add the code that serves a model of this architecture to an archive's content."""
    code = folder / "code"
    for name in _CODE:
        target = code / "breedlab" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((PACKAGE / name).read_bytes())
    (code / "inference.py").write_bytes((entry_folder() / "inference.py").read_bytes())
    (code / "requirements.txt").write_text(_requirements(architecture))


def write_plugins(code: Path, plugins: Sequence[str]) -> None:
    """Write plugins next to the code that serves a model, and all of breedlab, on which they may
    build."""
    left_out = shutil.ignore_patterns("__pycache__", "*.pyc", "entry")
    shutil.copytree(PACKAGE, code / "breedlab", dirs_exist_ok=True, ignore=left_out)
    needed = [f"{name}=={version(name)}" for name in ("pydantic", "pyyaml")] + copy_packages(
        plugins, code
    )
    (code / "plugins.txt").write_text("".join(f"{name}\n" for name in plugins), "utf-8")
    with (code / "requirements.txt").open("a") as requirements:
        requirements.writelines(f"{line}\n" for line in needed)


def record_engine(
    folder: Path,
    choice: Choice,
    measured: Mapping[str, Any],
    settings: Mapping[str, Any] | None = None,
) -> None:
    """Add the chosen engine, and the measurements behind the choice, to an archive's content.

    Args:
        folder: From `write_folder`, with the engine's file in `engines/`.
        choice: The engine.
        measured: For the record.
        settings: The engine's own, if it has any.
    """
    file = folder / "model.json"
    description = json.loads(file.read_text("utf-8"))
    engine: dict[str, Any] = {"name": choice.engine, "precision": choice.precision}
    count = len(description["classes"])  # its features, if it gives those, too, follow the scores
    kind = ENGINES.get(choice.engine)
    if issubclass(kind, EngineKind):
        made, side = f"engines/{choice.precision}{kind.suffix}", description["transform"]["crop"]
        scores = open_engine(choice, folder / made, settings or {}).scores(probe(side))
        engine |= {
            "file": made,
            "settings": dict(settings or {}),
            "requirements": list(kind.needs()),
            "probe": {"side": side, "scores": scores[0, :count].tolist()},
        }
        with (folder / "code" / "requirements.txt").open("a") as requirements:
            requirements.writelines(f"{line}\n" for line in kind.needs())
    file.write_text(
        json.dumps({**description, "engine": engine, "export": dict(measured)}, indent=2)
    )


def record_answers(folder: Path, answers: Mapping[str, Any]) -> None:
    """Write into an archive's content what becomes of its scores; see `serving.answers`."""
    file = folder / "model.json"
    description = json.loads(file.read_text("utf-8"))
    file.write_text(json.dumps({**description, "answers": dict(answers)}, indent=2))


def entry_folder() -> Path:
    """Return the path of entry/: next to src/ in a checkout, inside the package in a wheel."""
    packaged = PACKAGE / "entry"
    return packaged if packaged.is_dir() else PACKAGE.parents[1] / "entry"


def _requirements(backbone: str) -> str:
    """Return the packages that a PyTorch image lacks; never torch itself."""
    names = ["safetensors", "simplejpeg", *(["timm"] if backbone.startswith(TIMM) else [])]
    return "".join(f"{name}=={version(name)}\n" for name in names)
