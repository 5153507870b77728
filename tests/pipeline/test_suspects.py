"""Labels that are probably wrong, in a run's fixes.csv."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from breedlab.config import Config
from breedlab.data.fixes import COPY_OF, LABEL
from breedlab.data.image_set import ImageSet, LabeledImage
from breedlab.pipeline.run import run
from breedlab.pipeline.suspects import find_suspects, unjudged_labels


def test_a_planted_wrong_label_leads_the_list_and_the_report(
    configure: Callable[..., Config], here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Reddish, greenish, and bluish images, one of them in the wrong folder."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 16), ("valid", 6), ("test", 6)):
        for channel, name in enumerate(("red", "green", "blue")):
            folder = here / "photos" / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 120, (48, 48, 3))
                pixels[..., channel] += 80
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.png")
    (here / "photos/train/blue/0.png").rename(here / "photos/train/red/wrong.png")
    # whose random features tell the colors apart
    words = ("model.name=resnet18", "model.head_type=logistic")
    result = run(configure(f"data.root={here / 'photos'}", *words), [])
    first = next(csv.DictReader((result.run / "fixes.csv").open()))
    assert (first["file"], first["split"]) == ("train/red/wrong.png", "train")
    assert (first["label"], first["suggested"], first["why"]) == ("red", "blue", LABEL)
    told = " ".join(capsys.readouterr().out.split())
    assert "1 label is probably wrong" in told.partition("› Training")[0], (
        "before the time is spent"
    )
    assert "wrong.png" in (result.run / "report.html").read_text()
    edited = (result.run / "fixes.csv").read_text().replace(f",{LABEL},", f",{LABEL},blue", 1)
    (result.run / "fixes.csv").write_text(edited)
    (result.run / "metrics.json").unlink()  # as if it had been interrupted at its very end
    run(configure(f"data.root={here / 'photos'}", *words), [], resume=result.run)
    assert (result.run / "fixes.csv").read_text() == edited


def test_a_class_with_few_images_keeps_no_other_label_from_being_doubted() -> None:
    torch.manual_seed(0)
    labels = torch.tensor([0] * 30 + [1] * 30 + [2] * 3)
    features = torch.nn.functional.one_hot(labels, 8) + 0.1 * torch.randn(63, 8)
    names = [Path("root", f"{index}.png") for index in range(63)]
    given = labels.clone()
    given[4] = 1
    images = [LabeledImage(path, int(label)) for path, label in zip(names, given, strict=True)]
    image_set = ImageSet(Path("root"), ("a", "b", "rare"), {"train": tuple(images)})
    found = find_suspects([features], image_set, ("train",), 0)
    assert found is not None and [*found.labels.listed] == [*found.labels.wrong] == [4]
    assert [*unjudged_labels(found.labels)] == [
        "labels of classes with fewer than 5 images are not judged: rare (3)"
    ]
    assert next(found.rows(image_set))["suggested"] == "a"
    few = ImageSet(Path("root"), ("a", "b", "rare"), {"train": tuple(images[-5:])})
    alone = find_suspects([features[-5:]], few, ("train",), 0)
    assert alone is not None and not alone.labels.listed and "too few" in alone.labels.unjudged


def test_labels_that_cannot_be_doubted_are_not_counted_as_wrong() -> None:
    torch.manual_seed(0)
    labels = torch.arange(60) % 3
    images = [LabeledImage(Path(f"{index}.png"), int(labels[index])) for index in range(60)]
    image_set = ImageSet(Path("."), ("a", "b", "c"), {"train": tuple(images)})
    found = find_suspects([torch.randn(60, 8)], image_set, ("train",), 0)  # which say nothing
    assert found is not None and found.labels.unjudged
    assert not found.labels.listed and not found.labels.wrong


def test_an_outlier_is_not_counted_among_the_wrong_labels() -> None:
    torch.manual_seed(0)
    labels = torch.arange(60) % 2
    features = torch.nn.functional.one_hot(labels, 8) + 0.05 * torch.randn(60, 8)
    features[7] = 0.3 * features[6] + 3 * torch.nn.functional.one_hot(torch.tensor(7), 8)
    features[9] = torch.tensor([0.9, 0.1, 0, 0, 0, 0, 0, 0.05])
    images = [LabeledImage(Path(f"{index}.png"), int(labels[index])) for index in range(60)]
    image_set = ImageSet(Path("."), ("a", "b"), {"train": tuple(images)})
    found = find_suspects([features], image_set, ("train",), 0)
    assert found is not None and 7 in found.outliers
    assert [*found.labels.listed] == [*found.labels.wrong] == [9]


def test_of_too_many_images_copies_are_not_looked_for_and_that_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    labels = torch.arange(40) % 2
    features = torch.nn.functional.one_hot(labels, 8) + 0.1 * torch.randn(40, 8)
    features[39] = features[1]
    images = [LabeledImage(Path(f"{index}.png"), int(labels[index])) for index in range(40)]
    image_set = ImageSet(Path("."), ("a", "b"), {"train": tuple(images)})
    found = find_suspects([features], image_set, ("train",), 0)
    assert found is not None and found.copies[0] == (39, 1)
    monkeypatch.setattr("breedlab.pipeline.suspects.MOST", 39)
    found = find_suspects([features], image_set, ("train",), 0)
    assert found is not None and not found.copies
    assert "more than 39 images" in capsys.readouterr().out


def test_a_copy_is_on_the_list_and_on_the_report(
    configure: Callable[..., Config], here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    for split, count in (("train", 12), ("valid", 6), ("test", 6)):
        for channel, name in enumerate("ab"):
            folder = here / "photos" / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                coarse = rng.integers(0, 176, (6, 6, 3))
                coarse[..., channel] += 80  # features that tell no class show no copies
                image = Image.fromarray(coarse.astype(np.uint8)).resize(
                    (64, 64), Image.Resampling.BICUBIC
                )
                image.save(folder / f"{number}.png")
    original = Image.open(here / "photos/train/a/3.png")
    original.save(here / "photos/valid/b/copy.jpg", quality=95)
    Image.open(here / "photos/train/b/5.png").save(here / "photos/test/b/in_test.jpg", quality=95)
    words = ("model.name=resnet18", "model.head_type=logistic", "serving.unknown=field")
    result = run(configure(f"data.root={here / 'photos'}", *words), [])
    rows = [*csv.DictReader((result.run / "fixes.csv").open())]
    pairs = [row["file"] for row in rows if row["why"] == f"{COPY_OF}train/a/3.png"]
    assert pairs == ["valid/b/copy.jpg"]
    in_test = [row for row in rows if row["file"] == "test/b/in_test.jpg"]  # by its hash alone
    assert [row["why"] for row in in_test] == [f"{COPY_OF}train/b/5.png"]
    told = " ".join(capsys.readouterr().out.split())
    assert "1 image is nearly the same as another" in told
    assert "unknown: that takes at least 20 validation images, and there are 13" in told
    report = (result.run / "report.html").read_text()
    for name in ("valid/b/copy.jpg", "train/a/3.png", "test/b/in_test.jpg"):
        assert f'alt="{name}"' in report
