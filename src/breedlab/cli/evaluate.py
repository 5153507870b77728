"""`breedlab evaluate`: how good a model is on new labeled images."""

from __future__ import annotations

import json
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import yaml

from breedlab import hardware
from breedlab.archives import opened
from breedlab.cli.parser import Parser
from breedlab.cli.plugins import without_plugins
from breedlab.config.components import section_of
from breedlab.config.plugins import load_plugins_of
from breedlab.config.schema import schema
from breedlab.config.sections import Monitor
from breedlab.config.yaml_folders import parsed
from breedlab.data.folders import display_names, listed
from breedlab.data.image_set import LabeledImage
from breedlab.data.layout import split_of
from breedlab.data.listing import Leftovers, find_images, subfolders
from breedlab.data.multi_label import merged_copies
from breedlab.data.tables import AUTO, find_table
from breedlab.errors import DataError
from breedlab.names import composed
from breedlab.serving.description import read_description

if TYPE_CHECKING:
    from breedlab.data.dataset import ImageDataset


def main(argv: list[str]) -> int:
    """Print the metrics of a model on the labeled images of a folder.

    Raises:
        BreedlabError: If the model or the folder is not there, or the folder holds classes the
            model lacks.
    """
    parser = command_parser()
    words = parser.parse_args(without_plugins(argv))

    # What only takes a look at the disk is refused before PyTorch is imported, which takes seconds.
    if not words.folder.is_dir():
        raise DataError(f"{words.folder}: is not a directory; expected FOLDER/<class>/photo.jpg")
    load_plugins_of(words.model)
    with opened(words.model) as folder:
        description = read_description(folder)
        several = bool((description.get("answers") or {}).get("thresholds"))
        labels_of = labeled_several if several else labeled
        images = labels_of(words.folder, tuple(description["classes"]))
        evaluation, engine = _evaluate(folder, words.engine, images, _monitor(words.model))
        # of models of older versions it is not known
        if not several:
            frequent = description["lineage"].get("most_frequent_class")
            evaluation = replace(evaluation, most_frequent_class=frequent)
    if words.json:
        print(json.dumps({**evaluation.as_dict(), "engine": engine}, indent=2))
    else:
        _show(evaluation, engine)
    return 0


def command_parser() -> Parser:
    """Return what reads the command's args."""
    parser = Parser(
        "evaluate",
        "MODEL|RUN FOLDER [--json] [--engine ENGINE]",
        description=(
            "Test a model on labeled images: FOLDER/<class>/image.jpg, named as in training, or"
            " images beside a file such as labels.csv."
        ),
        examples=("runs/latest data/sample/test",),
        plugins=True,
    )
    parser.add_argument(
        "model", type=Path, metavar="MODEL|RUN", help="a model.tar.gz, or a run directory"
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="a folder of labeled images")
    parser.add_argument(
        "--engine",
        choices=("eager", "openvino"),
        help="instead of the one chosen at export",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def labeled(folder: Path, classes: tuple[str, ...]) -> list[LabeledImage]:
    """Return the images of class folders, or next to a label file, labeled by a model's class
    names.

    Raises:
        DataError: If there are none, or a folder's name or a label is no class of the model.
    """
    leftovers = Leftovers()
    table = find_table(folder, AUTO)
    if table is None:
        files = _class_folders(folder, classes, leftovers)
        images = [LabeledImage(path, label) for label, paths in files for path in paths]
    else:
        for text in table.left_out:
            print(text, file=sys.stderr)
        names = sorted({row.label for row in table.rows})
        index_of = _indices(names, classes)
        if unknown := [name for name in names if name not in index_of]:
            raise _not_classes(table.files[0], unknown, classes)
        images = [LabeledImage(row.path, index_of[row.label]) for row in table.rows]
    _refuse_none(folder, images, leftovers)
    _tell(leftovers)
    return images


def labeled_several(folder: Path, classes: tuple[str, ...]) -> list[LabeledImage]:
    """Return a folder's images with the labels from a file such as labels.csv, or from all class
    folders that they are in.

    Raises:
        DataError: If there are none, or a label is no class of the model.
    """
    leftovers = Leftovers()
    table = find_table(folder, AUTO, multi_label=True)
    if table is None:
        files = {
            classes[label]: paths for label, paths in _class_folders(folder, classes, leftovers)
        }
        merged = merged_copies(files)
    else:
        merged = {row.path: row.labels for row in table.rows}
        if unknown := sorted({name for names in merged.values() for name in names} - {*classes}):
            raise _not_classes(table.files[0], unknown, classes)
    images = [
        LabeledImage(path, -1, labels=tuple(sorted(map(classes.index, names))))
        for path, names in sorted(merged.items())
    ]
    _refuse_none(folder, images, leftovers)
    _tell(leftovers)
    return images


def _class_folders(
    folder: Path, classes: tuple[str, ...], leftovers: Leftovers
) -> list[tuple[int, list[Path]]]:
    """Return the label of each class folder and its images.

    Raises:
        DataError: If a folder's name is no class of the model.
    """
    names = [entry.name for entry in subfolders(folder, leftovers)]
    label = _indices(names, classes)
    unknown = [name for name in names if name not in label]
    splits = []
    for split in ("test", "valid", "train"):
        splits += [name for name in unknown if split_of(name) == split]
    if splits:
        raise DataError(
            f"{folder}: holds {listed(splits)}, not classes; expected one, such as"
            f" {folder / splits[0]}"
        )
    if unknown:
        raise _not_classes(folder, unknown, classes)
    return [(label[name], find_images(folder / name, leftovers)) for name in names]


def _indices(names: list[str], classes: tuple[str, ...]) -> dict[str, int]:
    """Return the index of each name that means a class of the model, spelled as in training, with
    its number, or with underscores for spaces."""
    # In one Unicode form, whichever the file system here writes, and the one where the model was
    # trained.
    display = dict(zip(names, display_names([composed(name) for name in names]), strict=True))
    known_as = {composed(name): name for name in classes}
    spaced = {composed(name).replace("_", " "): name for name in classes}
    label: dict[str, int] = {}
    for name in names:
        forms = (display[name], composed(name))
        candidates = (
            *(known_as.get(form) for form in forms),
            *(spaced.get(form.replace("_", " ")) for form in forms),
        )
        if class_name := next((one for one in candidates if one is not None), None):
            label[name] = classes.index(class_name)
    return label


def _not_classes(place: Path, unknown: list[str], classes: tuple[str, ...]) -> DataError:
    what = "is not a class" if len(unknown) == 1 else "are not classes"
    return DataError(
        f"{place}: {listed(unknown)} {what} of the model, which has {listed(classes, 10)}"
    )


def _refuse_none(folder: Path, images: list[LabeledImage], leftovers: Leftovers) -> None:
    if not images:
        rest = f"; it holds {leftovers.unread()}, which are not read" if leftovers.endings else ""
        raise DataError(f"{folder}: holds no images{rest}; expected FOLDER/<class>/photo.jpg")


def _tell(leftovers: Leftovers) -> None:
    """Say on stderr, where JSON is not, what was not read."""
    if leftovers.endings:
        print(f"not images, skipped: {leftovers.unread()}", file=sys.stderr)
    if leftovers.litter:
        print(leftovers.passed_over(), file=sys.stderr)


def _monitor(run: Path) -> Monitor | None:
    """Return the section of a run's config in which metrics have their settings; None where it
    cannot be read, as of a bare archive, which can be evaluated without."""
    monitor = section_of(schema().model_fields["monitor"].annotation)
    try:
        tree = parsed((run / "config.yaml").read_text("utf-8"))
        return cast(Monitor, monitor.model_validate(tree["monitor"])) if monitor else None
    except (OSError, ValueError, yaml.YAMLError, LookupError, TypeError):
        return None


def _evaluate(
    folder: Path, engine: str | None, images: list[LabeledImage], monitor: Monitor | None = None
) -> tuple[Any, str]:
    """Return the evaluation, and the engine that answered."""
    from breedlab.console import progress

    with progress("loading the model", aside=True):
        from torch.utils.data import DataLoader

        from breedlab.data.dataset import ImageDataset, LostImage, start_worker
        from breedlab.serving.model import Model
        from breedlab.training.evaluation import evaluate
        from breedlab.training.label_evaluation import evaluate_labels

        hardware.heed()
        model = Model(folder, engine=engine)
    dataset = ImageDataset(images, model.transform, classes=len(model.classes))
    batches = DataLoader(dataset, batch_size=32, num_workers=2, worker_init_fn=start_worker)
    with progress("testing", aside=True) as report:
        report(0, len(images))
        try:
            how: dict[str, Any] = {"total": len(images), "progress": report, "monitor": monitor}
            if model.answers.thresholds is not None:
                how["thresholds"] = model.answers.thresholds
                evaluation: Any = evaluate_labels(model.logits, batches, model.classes, **how)
            else:
                evaluation = evaluate(model.scores, batches, model.classes, **how)
        except LostImage as error:
            raise _broken(dataset) from error
    return evaluation, str(model.engine.choice)


def _broken(dataset: ImageDataset) -> DataError:
    """Return an error that names every image that cannot be read."""
    from breedlab.data.dataset import LostImage

    facts = []
    for index in range(len(dataset)):
        try:
            dataset[index]
        except LostImage as error:
            facts.append(error.fact)
    if len(facts) == 1:
        return DataError(f"{facts[0]}; remove it from the folder to test the others", "BL201")
    lines = "\n".join(f"  {fact}" for fact in facts)
    return DataError(
        f"{len(facts)} images cannot be read; remove them from the folder to test the others:\n"
        f"{lines}",
        "BL201",
    )


def _show(evaluation: Any, engine: str) -> None:
    from breedlab.console import console, table
    from breedlab.evaluation.figures import rate
    from breedlab.reporting.summary import confusions_table, labels_table, metrics_table

    tree = evaluation.as_dict()
    console.print(metrics_table("Evaluation", tree))
    if tree.get("multi_label"):
        console.print()
        console.print(labels_table(tree))
        console.print(f"\nanswered by {engine}", markup=False)
        return
    if tree["worst"]:
        console.print()
        console.print(confusions_table(tree))
    taken_for = Counter(label for label, _ in evaluation.predictions)
    rows = [
        [
            name,
            int(figures["photos"]),
            rate(figures["top1"], int(figures["photos"])),
            rate(figures["precision"], taken_for[label]),
        ]
        for label, (name, figures) in enumerate(tree["per_class"].items())
        if figures["photos"]
    ]
    console.print()
    console.print(table("Classes", ["class", "images", "recall (95% interval)", "precision"], rows))
    console.print(f"\nanswered by {engine}", markup=False)
