"""`breedlab launch`: Hydra composes, the config is validated, the experiment runs. Nothing heavy is
imported here."""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path
from typing import Any

from breedlab.cli.resuming import refuse_lost_images, resumed
from breedlab.cli.starting import carry_out, start
from breedlab.commands import command
from breedlab.config import Config, validate
from breedlab.config.compose import explained, load, named_plugins
from breedlab.config.environment import tree_of, with_texts
from breedlab.config.overrides import forced, quoted, rejoin, screen, split_space, with_space
from breedlab.config.plugins import load_plugins
from breedlab.config.problems import error_from
from breedlab.config.validate import known_paths
from breedlab.config.yaml_folders import config_folder, groups, with_search_path
from breedlab.errors import BreedlabError, ConfigError, Terminated, UsageError
from breedlab.garbage import no_collection
from breedlab.suggestions import nearest

_HELP = """\
Search, train, evaluate, and export an image classifier from one config.

  {launch} experiment=NAME [PATH=VALUE ...]

Everything is written to runs/NAME/<date_time>/; runs/latest links to the newest run.

Groups and their choices (group=choice):

{groups}

Examples:

  # your own images: inspect the folder, report findings and the time it takes, and train
  {launch} data.root=DIR

  # the demo: draw images, search, train, test, export
  {launch} experiment=quickstart

  # 133 dog breeds: search learning rate and batch size, then train the best
  {launch} experiment=resnet34_hpo

  # the same on your own images: DIR/train/<class>/*.jpg, and valid and test if you have them
  {launch} experiment=resnet34_hpo data=image_folder data.root=DIR

  # what would happen, without starting anything
  {launch} experiment=resnet34_hpo dry_run=true

  # as one job on a Ray cluster; dry_run=true prints what would be sent
  {launch} experiment=resnet34_hpo backend=ray backend.ray.gpus=1

  # on SageMaker: what would be sent and what it would cost at most; without dry_run it starts
  {launch} experiment=resnet34_hpo backend=sagemaker dry_run=true

  # a grid of whole runs, with a table at the end
  {launch} -m experiment=resnet34 optim.lr=0.001,0.01 data.batch_size=32,64

  # continue a run that was interrupted; train a finished one for more epochs
  {launch} resume=runs/latest
  {launch} resume=runs/latest trainer.max_epochs=30

Flags:

  --cfg job          print the whole composed config
  --config-dir DIR   look for configs here, too, such as DIR/experiment/NAME.yaml
  -m, --multirun     run every combination of values separated by commas
  --hydra-help       Hydra's own flags
"""


def main(argv: list[str]) -> int:
    """Run one experiment, or what Hydra's flags ask for; return the exit code.

    Raises:
        BreedlabError: With one message for the user.
    """
    argv = with_search_path(argv)
    if not argv or any(word in ("-h", "--help") for word in argv):
        print(
            _HELP.format(
                launch=command("launch"),
                groups="\n".join(
                    f"  {name:11}{', '.join(names)}" for name, names in groups(argv).items()
                ),
            )
        )
        return 0 if argv else 2
    if (words := _without_cfg_job(argv)) is not None:
        import yaml

        print(yaml.safe_dump(with_texts(load(words)), sort_keys=False), end="")
        return 0
    if any(_is_hydras(word) for word in argv):
        return _through_hydra(argv)
    from breedlab.cli.folder import asked_for, train_on

    if (folder := asked_for(argv)) is not None:
        return train_on(*folder)
    # Without flags Hydra would compose twice, to find out its mode, and do nothing else that is
    # needed here.
    if resume := [word.partition("=")[2] for word in argv if word.startswith("resume=")]:
        run = Path(resume[-1])
        config = resumed(run, argv, "dry_run=true" in argv)
        refuse_lost_images(config, run)
        carry_out(config, argv, run)
    else:
        with no_collection():
            tree = load(argv)
        start(tree, argv)
    return 0


def _without_cfg_job(argv: list[str]) -> list[str] | None:
    """Return the args other than `--cfg job`, or None if that is not the only flag: Hydra would not
    show settings that it does not get."""
    for index, word in enumerate(argv):
        if word == "--cfg=job":
            after = index + 1
        elif argv[index : index + 2] in (["--cfg", "job"], ["-c", "job"]):
            after = index + 2
        else:
            continue
        rest = [other for other in [*argv[:index], *argv[after:]] if other != "--resolve"]
        if not any(other.startswith("-") for other in rest):
            return rest
    return None


def _is_hydras(word: str) -> bool:
    return word.startswith(("-", "hydra.", "+hydra.", "~hydra.")) and not word.startswith(
        "hydra.searchpath="
    )


_HYDRAS_FOLDERS = (
    "hydra.run.dir=",
    "hydra.sweep.dir=",
    "hydra.sweep.subdir=",
    "hydra.output_subdir=",
)


def _through_hydra(argv: list[str]) -> int:
    import hydra
    from hydra.core.hydra_config import HydraConfig
    from hydra.errors import HydraException
    from hydra.types import RunMode
    from omegaconf import DictConfig
    from omegaconf.errors import OmegaConfBaseException

    if lacking := load_plugins(named_plugins([word for word in argv if "=" in word])):
        raise error_from(lacking)
    _refuse_unknown_flags(argv)
    whole, torn = rejoin(argv)
    whole = quoted(whole)
    if "dry_run=true" in whole:  # which leaves nothing behind; Hydra would make these folders
        whole = [word for word in whole if not word.lstrip("+").startswith(_HYDRAS_FOLDERS)]
    overrides = [word for word in whole if "=" in word and not word.startswith("-")]
    _, problems = screen(overrides, grid=True)
    if torn or problems:
        raise error_from([*torn, *problems])
    _, space = split_space(overrides)
    failures: list[Exception] = []

    def task(composed: DictConfig) -> dict[str, Any]:
        try:
            tree = tree_of(composed)
            words = [*HydraConfig.get().overrides.task, *space]
            if HydraConfig.get().mode == RunMode.MULTIRUN and composed.dry_run is True:
                number = HydraConfig.get().job.num
                overrides = " ".join(word for word in words if not word.startswith("dry_run="))
                print(("\n" if number else "") + f"── {number + 1}: {overrides}\n")
            return start(with_space(tree, space), words)
        except Terminated as stopped:
            # which no `except Exception` of Hydra's continues after
            raise _GridStopped(stopped) from None
        except Exception as raised:
            unresolved = isinstance(raised, OmegaConfBaseException)
            typed = " ".join(HydraConfig.get().overrides.task)
            error = (
                ConfigError(f"config ({typed}): {' '.join(str(raised).split())}")
                if unresolved
                else raised
            )
            # Kept from Hydra, which would print a second message and end a grid at its first
            # failure.
            failures.append(error)
            if isinstance(error, BreedlabError):
                print(error.shown(), file=sys.stderr)
            else:
                traceback.print_exc()
            return {"error": str(error) or type(error).__name__}

    # Hydra raises its complaints instead of printing them; they are reworded
    os.environ["HYDRA_FULL_ERROR"] = "1"
    sys.argv = [sys.argv[0], *forced([word for word in whole if word not in space])]
    try:
        hydra.main(version_base="1.3", config_path=str(config_folder()), config_name="config")(
            task
        )()
    except _GridStopped as stopped:
        raise stopped.terminated from None
    except (HydraException, OmegaConfBaseException) as error:
        raise explained([word for word in overrides if word not in space], error, []) from error
    return 1 if failures else 0


class _GridStopped(BaseException):
    def __init__(self, terminated: Terminated) -> None:
        self.terminated = terminated


def configure(*overrides: str) -> Config:
    """Return the config of an experiment, from overrides as on the command line:
    `configure("experiment=quickstart")`.

    Raises:
        ConfigError: Naming everything that is wrong.
    """
    return validate(load(list(overrides)))


def _refuse_unknown_flags(argv: list[str]) -> None:
    """Refuse flags such as `--lr 0.1`, which other tools take; Hydra's parser would print a screen
    of usage."""
    from hydra._internal.utils import get_args_parser

    flags = get_args_parser()._option_string_actions
    for word in argv:
        flag, _, value = word.partition("=")
        if flag.startswith("-") and flag not in flags and not flag.removeprefix("-").isdecimal():
            name = flag.lstrip("-").replace("-", "_").replace("__", ".")
            paths = [*known_paths(), *groups()]
            path = next((p for p in paths if p == name or p.endswith(f".{name}")), None)
            hint = (
                f": {path}={value or '...'}"
                if path
                else nearest(name, paths) + nearest(flag, flags)
            )
            raise UsageError(
                f"{flag}: unknown flag; values are set as path=value without dashes{hint}"
            )
