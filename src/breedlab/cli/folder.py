"""`breedlab DIR`: looks at a folder of images, says what it found and what it will do with them,
and does it."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from breedlab import extras
from breedlab.commands import command
from breedlab.errors import UsageError

_OF_ITS_OWN = ("experiment=", "resume=", "backend=", "data=", "plugins=", "tuner=", "model=")
"""Words that say what to run: with them, `launch` takes what is said and proposes nothing."""


def main(argv: list[str]) -> int:
    """Run the experiment that suits a folder: `DIR [PATH=VALUE ...]`.

    Raises:
        BreedlabError: If the folder cannot be understood, or a word is not a setting.
    """
    words = [word for word in argv[1:] if "=" in word]
    others = [word for word in argv[1:] if word not in words]
    if others:
        raise UsageError(
            f"{others[0]}: expected PATH=VALUE after the folder, such as dry_run=true or"
            f" trainer.max_epochs=5; `{command('launch')}` takes flags"
        )
    return train_on(Path(argv[0]), words)


def asked_for(argv: list[str]) -> tuple[Path, list[str]] | None:
    """Return the folder and the other words, where a command line of `launch` names a folder and no
    experiment."""
    roots = [word for word in argv if word.startswith("data.root=")]
    is_command = any(
        word.startswith(("-", "hydra.")) or word.lstrip("+~").startswith(_OF_ITS_OWN)
        for word in argv
    )
    if len(roots) != 1 or is_command:
        return None
    place = roots[0].partition("=")[2]
    if re.match(r"""["'].*["']$""", place):
        place = place[1:-1]
    if place.startswith("s3://") or "${" in place:
        return None
    return Path(place), [word for word in argv if word != roots[0]]


def train_on(root: Path, words: list[str]) -> int:
    """Look at a folder, say what was found and what will be done, and do it.

    Args:
        root: The folder.
        words: Overrides that go over what is proposed.

    Raises:
        BreedlabError: As `main`.
    """
    from breedlab.cli.starting import carry_out
    from breedlab.config import validate
    from breedlab.config.compose import load
    from breedlab.console import console, note, progress, stage
    from breedlab.data.check import check
    from breedlab.names import printable
    from breedlab.pipeline.proposal import (
        describe,
        estimate,
        how_it_trains,
        in_words,
        look,
        propose,
    )

    requested, images = look(root, words)
    with progress("checking images") as update:
        report = check(
            images, Path(requested.cache.dir, "checks"), on_bad_file="skip", progress=update
        )
    for line in describe(images, report):
        note(line)
    with progress("timing a few images"):
        import torch

        gpu = requested.trainer.accelerator != "cpu" and torch.cuda.is_available()
        proposal = propose(root, report, words, gpu=gpu)
        every = [*proposal.words, *words]
        config = validate(load(every))
        seconds = estimate(config, report, gpu=gpu)
    stage("What it will do")
    for reason in (*how_it_trains(config, report.images, gpu=gpu), *proposal.reasons):
        note(reason)
    result = "report.html" if extras.has("report") else "model.tar.gz"
    duration = f"up to {in_words(seconds)}" if config.tuner.minutes else in_words(seconds)
    note(
        f"this takes {duration} here and writes"
        f" {config.runs_dir}/{config.name}/<date_time>/{result}"
    )
    note("the full command, to run it again with changes:")
    console.print(
        f"  {command('launch', printable(shlex.join(every)))}", markup=False, soft_wrap=True
    )
    carry_out(config, every, None)
    return 0
