"""`breedlab predict`: what a model sees in images."""

from __future__ import annotations

import csv
import glob
import json
import os
import re
import sys
import tempfile
from argparse import Namespace
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from breedlab import hardware
from breedlab.archives import opened
from breedlab.backends.client import ask, unreadable
from breedlab.cli.parser import Parser
from breedlab.cli.plugins import without_plugins
from breedlab.commands import command
from breedlab.config.plugins import load_plugins_of
from breedlab.data.decode import ImageError, keep_memory, read_image
from breedlab.data.folders import display_names, listed
from breedlab.data.listing import Leftovers, find_images
from breedlab.errors import DataError
from breedlab.names import composed, printable
from breedlab.serving.description import read_description

if TYPE_CHECKING:
    import torch

_BATCH = 32
_STDIN = "stdin"
_MOST_OF_A_SET = 8
"""Classes of a set of 90% that are named; it may hold hundreds."""
_BORDERS = 8
"""Columns of the screen that a table of three takes for lines and gaps."""
_LEAST = 10
"""Columns that a class or an error is left at least; longer names than leave that are folded,
too."""


def main(argv: list[str]) -> int:
    """Print the most likely classes of each image, or its labels; return 1 if a file was not a
    usable image.

    Raises:
        BreedlabError: If the model or an image is not there.
    """
    parser = command_parser()
    words = parser.parse_args(without_plugins(argv))
    if words.top < 1:
        parser.error(f"--top: got {words.top}; expected at least 1")
    if words.region and (words.endpoint is None or "/" in words.endpoint):
        parser.error("--region: is for --endpoint NAME, the name of a SageMaker endpoint")
    if words.engine and words.endpoint:
        parser.error("--engine: an endpoint has its own; expected MODEL|RUN, or no --engine")
    if words.model is None and words.endpoint is None:
        parser.error(
            "MODEL|RUN and IMAGE are missing; expected a model.tar.gz or a run directory, and"
            " images"
        )
    patterns = (
        words.images
        if words.endpoint is None
        else [word for word in (words.model, *words.images) if word]
    )
    if not patterns:
        after = "MODEL|RUN" if words.endpoint is None else "--endpoint"
        parser.error(f"IMAGE is missing; expected a file, a folder or a glob pattern after {after}")
    if words.json and words.csv:
        parser.error("--csv and --json: expected one of them")
    with tempfile.TemporaryDirectory() as scratch:
        answers = _predicted(words, patterns, Path(scratch))
    if words.json:
        print(json.dumps(answers, indent=2))
    elif words.csv:
        _write_csv(answers)
    else:
        _show(answers)
    return 1 if any("error" in answer for answer in answers) else 0


def _predicted(words: Namespace, patterns: list[str], scratch: Path) -> list[dict[str, Any]]:
    """Return the answer for each image; one that comes through stdin is written to `scratch`."""
    # Each once, under the name it was first given by.
    paths: dict[str, Path] = {}
    for path in (path for word in patterns for path in _expand(word, scratch)):
        paths.setdefault(os.path.realpath(path), path)  # `resolve` raises for a link to itself
    images = list(paths.values())

    if words.endpoint is None:
        load_plugins_of(Path(words.model))
        with opened(Path(words.model)) as folder:
            answers = _answers(_loaded(folder, words.engine), images, words.top)
            results = list(_shown(answers, len(images)))
            if not any("labels" in answer for answer in results):
                _add_truths(results, read_description(folder)["classes"])
    else:
        results = list(_shown(ask(words.endpoint, images, words.top, words.region), len(images)))
    for answer in results:
        if answer["photo"] == str(scratch / _STDIN):
            answer["photo"] = "-"
    return results


def command_parser() -> Parser:
    """Return what reads the command's args."""
    parser = Parser(
        "predict",
        "MODEL|RUN IMAGE... [--json | --csv] [--top K] [--engine ENGINE]",
        "--endpoint URL|NAME IMAGE... [--region REGION] [--json | --csv] [--top K]",
        description="Print the most likely classes of images, with their probabilities.",
        examples=(
            "runs/latest photos/ '*.jpg'",
            "runs/latest photos/ --csv > predictions.csv",
            "--endpoint dogs photo.jpg",
        ),
        plugins=True,
    )
    parser.add_argument(
        "model", nargs="?", metavar="MODEL|RUN", help="a model.tar.gz, or a run directory"
    )
    parser.add_argument(
        "images",
        nargs="*",
        metavar="IMAGE",
        help="a file, a folder, a glob pattern, or - for an image on stdin",
    )
    parser.add_argument(
        "--endpoint",
        metavar="URL|NAME",
        help=f"ask a server ({command('serve')}) or a SageMaker endpoint",
    )
    parser.add_argument(
        "--region", help="of a SageMaker endpoint (default: that of the AWS profile)"
    )
    parser.add_argument(
        "--engine",
        choices=("eager", "openvino"),
        help="instead of the one chosen at export",
    )
    parser.add_argument(
        "--json",
        action="store_true",
        help="print JSON: a list, one entry per image; error and code if it cannot be read",
    )
    parser.add_argument(
        "--csv", action="store_true", help="print CSV: photo,label,probability,unknown,error"
    )
    parser.add_argument(
        "--top", type=int, default=5, metavar="K", help="how many classes to show (default: 5)"
    )
    return parser


def _expand(word: str, scratch: Path) -> list[Path]:
    if word == "-":
        image = scratch / _STDIN
        image.write_bytes(sys.stdin.buffer.read())
        return [image]
    if re.match("https?://", word):
        raise DataError(
            f"{word}: is a URL; expected an image here: download it first, or pipe it in: curl -s"
            f" '{word}' | {command('predict', 'MODEL', '-')}"
        )
    path = Path(word)
    if path.is_file():
        return [path]
    leftovers = Leftovers()
    if path.is_dir():
        paths = find_images(path, leftovers)
    else:
        paths = sorted(map(Path, glob.glob(word, recursive=True)))
    if leftovers.endings:
        print(f"{printable(word)}: not images, skipped: {leftovers.unread()}", file=sys.stderr)
    if not paths:
        what = "matches no file" if glob.has_magic(word) else "does not exist"
        if path.is_dir():
            what = "holds no images"
        raise DataError(
            f"{word}: {what}; expected an image, a folder of images or a pattern such as"
            " 'photos/*.jpg'"
        )
    # A FIFO, a device or a dangling link gets an answer of its own, with that error.
    return [file for file in paths if not file.is_dir()]


def _loaded(folder: Path, engine: str | None) -> Any:
    from breedlab.console import progress

    with progress("loading the model", aside=True):
        from breedlab.serving.model import Model  # and PyTorch with it, which takes seconds

        hardware.heed()
        keep_memory()
        return Model(folder, engine=engine)


def _shown(answers: Iterator[dict[str, Any]], count: int) -> Iterator[dict[str, Any]]:
    """Yield the same answers while showing a progress bar."""
    from breedlab.console import progress

    with progress("predicting", aside=True) as report:
        report(0, count)
        for number, answer in enumerate(answers, 1):
            report(number, count)
            yield answer


def _answers(model: Any, images: list[Path], top: int) -> Iterator[dict[str, Any]]:
    """Yield an answer for each image; the next ones are decoded while a batch is computed."""
    import torch

    inputs = hardware.in_threads(partial(_read, model), images)
    while batch := list(islice(inputs, _BATCH)):
        ready = [(answer, image) for answer, image in batch if image is not None]
        if ready:
            described = model.describe(torch.stack([image for _, image in ready]))
            for (answer, _), description in zip(ready, described, strict=True):
                answer |= _told(model, description, top)
        yield from (answer for answer, _ in batch)


def _read(model: Any, path: Path) -> tuple[dict[str, Any], torch.Tensor | None]:
    """Return the start of an image's answer, and the network's input; None if it has an error."""
    answer: dict[str, Any] = {"photo": str(path)}
    try:
        return answer, model.prepare(read_image(path))
    except (ImageError, OSError) as error:
        return {**answer, **unreadable(error)}, None


def _told(model: Any, description: dict[str, Any], top: int) -> dict[str, Any]:
    """Return an image's answer: its `top` classes by name, and what else the model says of it."""
    probabilities = description.pop("probabilities")
    ranked = sorted(range(len(model.classes)), key=lambda index: -probabilities[index])
    predictions = [
        {"class": model.classes[index], "probability": round(probabilities[index], 6)}
        for index in ranked[:top]
    ]
    for name in ("set", "labels"):
        if name in description:
            description[name] = [model.classes[index] for index in description[name]]
    if "set" in description:
        description["set_coverage"] = model.answers.coverage
    return {"predictions": predictions, **description}


def _add_truths(answers: list[dict[str, Any]], classes: list[str]) -> None:
    """Add each image's true class where a folder that it is in is named as one."""
    classes_by_form = {
        form: name
        for name in classes
        for form in (composed(name), composed(name).replace("_", " "))
    }
    for answer in answers:
        folders = [
            composed(folder.name)
            for folder in list(Path(answer["photo"]).parents)[:2]
            if folder.name
        ]
        for folder in folders:
            display = display_names([folder])[0]
            forms = (folder, display, display.replace("_", " "))
            matches = [form for form in forms if form in classes_by_form]
            if matches:
                answer["truth"] = classes_by_form[matches[0]]
                break


def _listed(answer: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the classes of an answer with their printed probabilities; for a multi-label model,
    the labels it gives, even if `--top` left out their probability."""
    probabilities = {
        each["class"]: f"{each['probability']:.1%}" for each in answer.get("predictions", [])
    }
    if "labels" in answer:
        return [(label, probabilities.get(label, "")) for label in answer["labels"]]
    return list(probabilities.items())


def _write_csv(answers: list[dict[str, Any]]) -> None:
    """Print a line for each image: its class, or its labels with `|` between them."""
    out = csv.writer(sys.stdout, lineterminator="\n")
    out.writerow(["photo", "label", "probability", "unknown", "error"])
    for answer in answers:
        label, probability = "", ""
        if "labels" in answer:
            label = "|".join(answer["labels"])
        elif answer.get("predictions"):
            label = answer["predictions"][0]["class"]
            probability = answer["predictions"][0]["probability"]
        unknown = str(answer["unknown"]).lower() if "unknown" in answer else ""
        out.writerow([answer["photo"], label, probability, unknown, answer.get("error", "")])


def _show(answers: list[dict[str, Any]]) -> None:
    from breedlab.console import console, table

    rows: list[list[str]] = []
    for answer in answers:
        name = answer["photo"]
        if "error" in answer:
            rows.append([name, f"error: {answer['error']}", "", answer.get("truth", "")])
        truth = answer.get("truth", "")
        if answer.get("unknown"):
            rows.append(
                [
                    name,
                    f"unknown: stranger than {answer['stranger_than']:.1%} of validation",
                    "",
                    truth,
                ]
            )
            name = truth = ""
        if answer.get("labels") == []:
            rows.append([name, "none of the labels", "", truth])
        for label, probability in _listed(answer):
            rows.append([name, label, probability, truth])
            name = truth = ""
        if len(answer.get("set", ())) > 1 and not answer.get("unknown"):
            sure = f"{answer['set_coverage']:.0%}"
            names = listed(answer["set"], _MOST_OF_A_SET)
            rows.append(["", f"one of {len(answer['set'])}: {names}", f"{sure} sure", ""])
    has_truths = any("truth" in answer for answer in answers)
    columns = ["image", "class", "probability", *(["true class"] if has_truths else [])]
    grid = table("", columns, [row[: len(columns)] for row in rows])
    # Names identify the images: errors get the space that these leave, and what has no room is
    # folded, never cut.
    longest = max((len(answer["photo"]) for answer in answers), default=0)
    truths = max((len(answer.get("truth", "")) for answer in answers), default=0)
    room = (
        console.width
        - longest
        - len("probability")
        - _BORDERS
        - (max(truths, len("true class")) + 3) * has_truths
    )
    grid.columns[1].max_width = room if room >= _LEAST else None
    grid.columns[0].overflow = grid.columns[1].overflow = "fold"
    grid.columns[2].no_wrap = True
    console.print(grid)
