"""Packages of the user's own, named in `plugins` of the config, whose components are registered
when they are imported."""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from breedlab.config.problems import Problem, error_from
from breedlab.config.yaml_folders import parsed
from breedlab.errors import BreedlabError, PluginError


def load_plugins(names: Any) -> list[Problem]:
    """Import the packages that a config names, and return what is wrong with those that cannot be.

    Args:
        names: What `plugins` holds; the schema refuses anything but a list of names.
    """
    if not isinstance(names, list):
        return []
    problems = [_load(name, f"plugins.{index}") for index, name in enumerate(names)]
    return [problem for problem in problems if problem]


def _load(name: Any, path: str) -> Problem | None:
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", name):
        return Problem(
            path,
            f"got {name!r}; expected the name of a Python package, such as my_package",
            PluginError.code,
        )
    if name in sys.modules:
        return None
    _look_in_working_folder()
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(f"{error.name}.")):
            return Problem(
                path,
                f"no package {name!r} is in the working folder ({Path.cwd()}) or installed; put it"
                " there, or install it with pip",
                PluginError.code,
            )
        return Problem(path, f"{name} needs {error.name}, which is not installed", PluginError.code)
    except BreedlabError as error:
        return Problem(path, f"{name} cannot be imported: {error}", PluginError.code)
    except Exception as error:  # any that the package raises
        reason = " ".join(str(error).split())
        return Problem(
            path,
            f"{name} cannot be imported ({type(error).__name__}: {reason}){_place(error, name)}",
            PluginError.code,
        )
    return None


def _look_in_working_folder() -> None:
    """Let packages be found in the working folder, after everything that is installed."""
    if not {"", os.getcwd()} & set(sys.path):
        sys.path.append(os.getcwd())  # spawned workers get the path as it is here
    importlib.invalidate_caches()


def _place(error: BaseException, name: str) -> str:
    """Return the file and line of a package at which an error was raised, in words."""
    folder = name.partition(".")[0]
    place, trace = "", error.__traceback__
    while trace:
        file = Path(trace.tb_frame.f_code.co_filename)
        if folder in (file.stem, *(part.name for part in file.parents)):
            place = f", at {file}:{trace.tb_lineno}"
        trace = trace.tb_next
    if isinstance(error, SyntaxError) and error.filename:
        return f", at {error.filename}:{error.lineno}"
    return place


def copy_packages(names: Sequence[str], folder: Path) -> list[str]:
    """Copy the packages of plugins into a folder from which they can be imported elsewhere.

    Returns:
        The lines of the `requirements.txt` that lie in them: what the packages need installed.

    Raises:
        ConfigError: If a package is not a folder or file of Python source.
    """
    needed = []
    for name in dict.fromkeys(name.partition(".")[0] for name in names):
        source = _package_source(name)
        if source.is_file():
            shutil.copy(source, folder / source.name)
            continue
        shutil.copytree(
            source, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.pyc")
        )
        file = source / "requirements.txt"
        lines = file.read_text("utf-8").splitlines() if file.is_file() else []
        needed += [
            line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")
        ]
    return needed


def _package_source(name: str) -> Path:
    """Return the folder of a package, or the file of a single module."""
    _look_in_working_folder()
    spec = importlib.util.find_spec(name)
    places = list(spec.submodule_search_locations or []) if spec else []
    place = Path(places[0] if places else (spec and spec.origin) or "")
    if not place.is_dir() and place.suffix != ".py":
        raise PluginError(
            f"plugins: {name} is not a folder or file of Python source, so it cannot travel with"
            " the run"
        )
    return place


def load_plugins_of(run: Path) -> None:
    """Import the plugins that a run's config names. Those of a bare archive are never imported: it
    may be anyone's.

    Raises:
        ConfigError: If one cannot be imported.
    """
    try:
        tree = parsed((run / "config.yaml").read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return  # no run, or one whose archive is whole without it
    if isinstance(tree, dict) and (problems := load_plugins(tree.get("plugins"))):
        raise error_from(problems, str(run / "config.yaml"))
