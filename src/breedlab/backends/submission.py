"""What every backend needs that sends an experiment to other machines: a name for the job, and a
copy of the code and the config that run there."""

from __future__ import annotations

import getpass
import os
import re
import secrets
import shutil
import socket
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import yaml

from breedlab.config import Config, replace, validate
from breedlab.config.environment import not_set, resolved, text_with_values
from breedlab.config.plugins import copy_packages, load_plugins
from breedlab.config.problems import error_from
from breedlab.config.yaml_folders import config_folder, parsed
from breedlab.console import note
from breedlab.errors import FileError
from breedlab.version import PACKAGE, __version__

CONFIG = "config.yaml"
"""The config in the folder that `write_code` fills."""

START = "start.py"
"""What starts the job, in the same folder."""


def new_name(config: Config, now: datetime) -> str:
    """Return `backend.job_name`, or a unique job name; at most 32 characters."""
    if config.backend.job_name:
        return config.backend.job_name
    readable = re.sub(r"[^a-zA-Z0-9]+", "-", config.name).strip("-")[:14].strip("-") or "breedlab"
    return f"{readable}-{now:%y%m%d-%H%M%S}-{secrets.token_hex(1)}"


def user_name() -> str:
    """Return who creates things: $BREEDLAB_USER, else the name of this machine's user."""
    try:
        return os.environ.get("BREEDLAB_USER") or getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return "unknown"


def write_code(folder: Path, config: Config) -> list[str]:
    """Write what an experiment runs from elsewhere: `src`, with breedlab and the packages of its
    plugins, `conf`, `entry`, and the config as `config.yaml`.

    Args:
        folder: An empty one.
        config: The whole experiment.

    Returns:
        The requirements of its plugins, as lines of a requirements file.

    Raises:
        ConfigError: If the package of a plugin cannot travel.
    """
    source = folder / "src"
    _copy_breedlab(folder)
    # So that what asks for breedlab's version finds it, though it is not installed there.
    metadata = source / f"breedlab-{__version__}.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: breedlab\nVersion: {__version__}\n"
    )
    (folder / CONFIG).write_text(yaml.safe_dump(config.recorded(), sort_keys=False))
    return copy_packages(config.plugins, source)


def _copy_breedlab(folder: Path) -> None:
    """Copy `src conf entry`, from a checkout or from an installed wheel."""
    no_bytecode = shutil.ignore_patterns("__pycache__", "*.pyc")
    package = folder / "src" / "breedlab"
    shutil.copytree(PACKAGE, package, ignore=no_bytecode)
    for inside in ("conf", "entry"):  # where a wheel has them
        shutil.rmtree(package / inside, ignore_errors=True)
    shutil.copytree(config_folder(), folder / "conf")
    shutil.copytree(config_folder().with_name("entry"), folder / "entry", ignore=no_bytecode)


# What starts the job: the code that came with it, by the Python that is there. A command's own
# handling of errors ends it with one message, too.
_START = """\
import os, sys
if sys.version_info < (3, 11):
    sys.exit(f"{sys.executable} is Python {sys.version.split()[0]}; breedlab needs 3.11 or newer")
source = os.path.join(os.path.dirname(os.path.abspath(__file__)), "src")
sys.path.insert(0, source)
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH")]))
if __name__ == "__main__":
    try:
        from breedlab.backends.submission import work
        from breedlab.cli import guarded
    except ModuleNotFoundError as error:
        sys.exit(f"{sys.executable} lacks {error.name}; where the job runs, breedlab's requirements"
                 " have to be installed: pip install breedlab")
    guarded(work)
"""


def write_start(folder: Path) -> None:
    """Write the script that starts a job, next to its code."""
    (folder / START).write_text(_START)


def start_words(python: str, place: Path) -> list[str]:
    """Return the command that runs a job in the folder of its code.

    Args:
        python: The Python where it runs.
        place: The run directory there.
    """
    return [python, START, str(place), os.getcwd()]


def sent_environment(config: Config) -> dict[str, str]:
    """Return the variables of `backend.environment`, with what `${oc.env:NAME}` holds here.

    Raises:
        ConfigError: Naming each variable that is not set here.
    """
    values, problems = {}, []
    for name, text in config.backend.environment.items():
        try:
            values[name] = text_with_values(text)
        except KeyError as missing:
            problems.append(not_set(f"backend.environment.{name}", missing.args[0]))
    if problems:
        raise error_from(problems, f"backend={config.backend.name}")
    return values


def work(words: Sequence[str]) -> int:
    """Run a job where it was sent, as the local backend runs an experiment.

    Args:
        words: The run directory, and the folder that the user launched from: relative paths of the
            config mean that one, if it is there, too.

    Raises:
        BreedlabError: With one message for the user.
    """
    from breedlab.backends.local import LocalBackend, require_extras
    from breedlab.pipeline import rundir
    from breedlab.pipeline.run import run

    place, launched_from = map(Path, words)
    if not (place / CONFIG).is_file():
        raise FileError(
            f"{place} is not on {socket.gethostname()}, where the job runs; run directories have to"
            " be in a folder that all machines share"
        )
    os.chdir(launched_from if launched_from.is_dir() else place.parents[1])
    note(f"{socket.gethostname()}, in {Path.cwd()}")
    tree, missing = resolved(parsed((PACKAGE.parents[1] / CONFIG).read_text("utf-8")))
    if problems := [*load_plugins(tree.get("plugins")), *missing]:
        raise error_from(problems, "the job's config")
    here = {**tree, "backend": {**tree["backend"], "name": "local"}}
    validate(here, "the job's config", recorded=True)  # what a launch here would refuse
    config = validate(tree, "the job's config", recorded=True)
    overrides = rundir.recorded_overrides(place)
    if not rundir.is_begun(place):
        config, overrides = LocalBackend().without_missing_extras(config, overrides)
    require_extras(config)
    if Path(config.runs_dir).absolute() != place.parents[1]:
        config = replace(config, {"runs_dir": str(place.parents[1])})
    run(config, overrides, directory=place)
    return 0
