"""`breedlab evaluate`: how good a model is on new labelled photos."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from breedlab import cores
from breedlab.data.folders import SPLIT_FOLDERS, Photo, display_names, find_photos, listed
from breedlab.errors import DataError
from breedlab.serving.packing import opened


def main(argv: list[str]) -> int:
    """Prints the figures of a model on a folder of class folders.

    Raises:
        BreedlabError: If the model or the folder is not there, or the folder holds classes the model lacks.
    """
    parser = argparse.ArgumentParser(
        allow_abbrev=False,
        prog="evaluate.py",
        description="Tests a model on labelled photos: FOLDER/<class>/photo.jpg, named as in training.",
        epilog="example: python scripts/evaluate.py runs/latest data/sample/test",
    )
    parser.add_argument("model", type=Path, metavar="MODEL|RUN", help="a model.tar.gz, or a run directory")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="a folder of class folders")
    parser.add_argument("--engine", choices=("eager", "openvino"), help="in place of the one that it was exported with")
    parser.add_argument("--json", action="store_true", help="print JSON")
    words = parser.parse_args(argv)

    # What only takes a look at the disk is refused before PyTorch is imported, which takes seconds.
    if not words.folder.is_dir():
        raise DataError(f"{words.folder}: is no folder; expected FOLDER/<class>/photo.jpg")
    with opened(words.model) as folder:
        photos = labelled(words.folder, tuple(json.loads((folder / "model.json").read_text())["classes"]))
        found, engine = _evaluate(folder, words.engine, photos)
    if words.json:
        print(json.dumps({**found.as_dict(), "engine": engine}, indent=2))
    else:
        _show(found, engine)
    return 0


def labelled(folder: Path, classes: tuple[str, ...]) -> list[Photo]:
    """Photos of a folder of class folders, labelled by a model's class names.

    Raises:
        DataError: If there are none, or a folder's name is no class of the model.
    """
    names = sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    shown = dict(zip(names, display_names(names), strict=True))
    spaced = {name.replace("_", " "): name for name in classes}
    label: dict[str, int] = {}
    for name in names:
        written = (shown[name], name, *(spaced.get(n.replace("_", " ")) for n in (shown[name], name)))
        if known := next((one for one in written if one in classes), None):
            label[name] = classes.index(known)
    unknown = [name for name in names if name not in label]
    splits = [name for split in ("test", "valid", "train") for name in unknown if name.lower() in SPLIT_FOLDERS[split]]
    if splits:
        raise DataError(f"{folder}: holds {listed(splits)}, not classes; expected one, such as {folder / splits[0]}")
    if unknown:
        raise DataError(
            f"{folder}: {listed(unknown)} {'is' if len(unknown) == 1 else 'are'} no class of the model;"
            f" it knows {listed(classes, 10)}"
        )
    photos = [Photo(path, label[name]) for name in names for path in find_photos(folder / name)]
    if not photos:
        raise DataError(f"{folder}: holds no photos; expected FOLDER/<class>/photo.jpg")
    return photos


def _evaluate(folder: Path, engine: str | None, photos: list[Photo]) -> tuple[Any, str]:
    """What came out, and which engine answered."""
    from breedlab.reporting.console import progress

    with progress("loading the model", aside=True):
        from torch.utils.data import DataLoader

        from breedlab.data.module import LostPhoto, PhotoDataset, start_worker
        from breedlab.serving.handler import Model
        from breedlab.training.evaluation import evaluate

        cores.heed()
        model = Model(folder, engine=engine)
    dataset = PhotoDataset(photos, model.transform, "none", 0)
    batches = DataLoader(dataset, batch_size=32, num_workers=2, worker_init_fn=start_worker)
    with progress("testing", aside=True) as report:
        report(0, len(photos))
        try:
            found = evaluate(model.scores, batches, model.classes, total=len(photos), progress=report)
        except LostPhoto as error:
            raise DataError(f"{error.fact}; take it out of the folder, and the others are tested") from error
    return found, str(model.engine.choice)


def _show(found: Any, engine: str) -> None:
    from breedlab.reporting.console import console, table
    from breedlab.reporting.summary import confusions_table, metrics_table

    tree = found.as_dict()
    console.print(metrics_table("Evaluation", tree))
    if tree["worst"]:
        console.print()
        console.print(confusions_table(tree))
    rows = [
        [name, int(figures["photos"]), f"{figures['top1']:.1%}", f"{figures['precision']:.1%}"]
        for name, figures in tree["per_class"].items()
        if figures["photos"]
    ]
    console.print()
    console.print(table("Classes", ["class", "photos", "top-1", "precision"], rows))
    console.print(f"\nanswered by {engine}", markup=False)
