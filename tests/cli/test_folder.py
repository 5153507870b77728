"""`breedlab DIR`: what it says of a folder, which experiment it takes, and that it runs it."""

from __future__ import annotations

import csv
import json
import shutil
import sys
from pathlib import Path

import pytest

import breedlab.cli
from breedlab.cli import folder
from breedlab.config import validate
from breedlab.config.compose import load
from breedlab.data.check import check
from breedlab.data.folders import scan
from breedlab.pipeline.proposal import _name_of, propose

TINY = [
    "model=resnet34",
    "model.name=resnet18",
    "model.weights=none",
    "data.image_size=32",
    "data.resize=36",
    "data.num_workers=0",
    "trainer.max_epochs=1",
    "trainer.accelerator=cpu",
    "trainer.precision=fp32",
    "tuner=none",
    "serving.engine=eager",
    "serving.precision=fp32",
    "debugger=none",
    "data.batch_size=16",
]


@pytest.fixture
def flat(image_folder: Path, tmp_path: Path) -> Path:
    """A folder as people have it: images, a CSV, litter, and a broken file."""
    root = tmp_path / "My dogs"
    root.mkdir()
    rows = []
    for split in ("train", "valid", "test"):
        for path in sorted((image_folder / split).glob("*/*.jpg")):
            name = f"{split}-{path.parent.name}-{path.name}"
            shutil.copy(path, root / name)
            rows.append((name, path.parent.name, split))
    (root / "broken.jpg").write_bytes(b"\xff\xd8\xff and no more")
    (root / ".DS_Store").touch()
    with (root / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows(
            [("filename", "label", "split"), *rows, ("broken.jpg", rows[0][1], "train")]
        )
    return root


def said(
    words: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> str:
    monkeypatch.setattr(sys, "argv", ["breedlab", *words])
    with pytest.raises(SystemExit) as ended:
        breedlab.cli.main()
    out, err = capsys.readouterr()
    assert (ended.value.code == 0) == (not err.strip()), err
    return out + err


def test_a_folder_is_looked_at_explained_trained_on_and_exported(
    flat: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = said([str(flat), *TINY], capsys, monkeypatch)
    assert "images labeled by labels.csv" in text and "passed over: .DS_Store" in text
    assert "1 broken, left out" in text and "broken.jpg" in text
    assert f"what a network finds: breedlab check '{flat}'" in text
    assert "about a minute" in text or "minutes" in text
    run = tmp_path / "runs" / "latest"
    assert (run / "model.tar.gz").is_file() and run.resolve().parent.name == "My_dogs"
    splits = json.loads((run / "splits.json").read_text())
    assert [len(splits["photos"][split]) for split in ("train", "valid", "test")] == [100, 24, 24]
    classes = splits["classes"]
    named = zip(splits["photos"]["test"], splits["labels"]["test"], strict=True)
    assert all(classes[label] in name for name, label in named)


def test_launch_with_only_a_root_looks_first_too(
    flat: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = said(["launch", f'data.root="{flat}"', "dry_run=true"], capsys, monkeypatch)
    assert (
        "layout    images labeled by labels.csv" in text and "experiment My_dogs (dry run" in text
    )
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("words", "root"),
    [
        (["data.root=a"], "a"),
        (['data.root="a b"', "seed=3"], "a b"),
        (["experiment=quickstart", "data.root=a"], None),
        (["data=image_folder", "data.root=a"], None),
        (["data.root=s3://bucket/a"], None),
        (["-m", "data.root=a"], None),
        (["resume=runs/latest", "data.root=a"], None),
    ],
)
def test_only_a_root_without_an_experiment_asks_for_a_proposal(
    words: list[str], root: str | None
) -> None:
    asked = folder.asked_for(words)
    assert (asked and str(asked[0])) == root


def test_what_is_not_there_is_one_message(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "does not exist; expected a folder of labeled images" in said(
        ["photos/dogs"], capsys, monkeypatch
    )
    assert not list(tmp_path.iterdir())
    assert "expected a folder or one of launch" in said(["trian"], capsys, monkeypatch)
    (tmp_path / "empty").mkdir()
    assert "or a file such as labels.csv" in said(["empty"], capsys, monkeypatch)
    assert "--gpus: expected PATH=VALUE" in said(["empty", "--gpus"], capsys, monkeypatch)


@pytest.mark.parametrize("gpu", [False, True])
def test_every_proposal_is_a_config_that_holds(
    image_folder: Path, tmp_path: Path, gpu: bool
) -> None:
    """With names that Hydra would read as its own grammar."""
    for name in ("dogs", "a=b, c'd", 'say "x"', "end\\", "${seed}", "a\\${seed}"):
        root = tmp_path / name
        shutil.copytree(image_folder, root)
        found = scan(root, valid_fraction=0.15, test_fraction=0.15, seed=0)
        report = check(found, tmp_path / "memory", on_bad_file="skip")
        config = validate(load(list(propose(root, report, gpu=gpu).words)))
        assert config.data.root == str(root)


def test_few_images_are_not_searched_by(image_folder: Path, tmp_path: Path) -> None:
    found = scan(image_folder, valid_fraction=0.15, test_fraction=0.15, seed=0)
    report = check(found, tmp_path / "memory", on_bad_file="skip")
    assert "experiment=resnet34" in propose(image_folder, report, gpu=False).words  # 24 to validate


def test_an_archive_in_place_of_a_folder_is_answered_with_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.make_archive("photos", "zip", tmp_path)
    monkeypatch.setattr(sys, "argv", ["breedlab", "photos.zip"])
    with pytest.raises(SystemExit) as ended:
        breedlab.cli.main()
    assert ended.value.code == 2 and "unpack it first" in capsys.readouterr().err


def test_imbalanced_classes_are_not_judged_by_accuracy(image_folder: Path, tmp_path: Path) -> None:
    """98.7% top-1, and 98.7% by always guessing the common class: every trial tied."""
    root = tmp_path / "dogs"
    shutil.copytree(image_folder, root)
    folders = sorted((root / "train").iterdir())
    for path in sorted(folders[0].iterdir())[2:]:
        path.unlink()
    found = scan(root, valid_fraction=0.15, test_fraction=0.15, seed=0)
    report = check(found, tmp_path / "memory", on_bad_file="skip")
    config = validate(load(list(propose(root, report, gpu=False).words)))
    assert config.monitor.metric == "valid/f1" and config.data.class_weights == "balanced"


@pytest.mark.parametrize(
    ("folder", "name"),
    [("My clothes (ä)", "My_clothes"), ("_a.b-", "a.b"), ("ä", "images")],
)
def test_an_experiment_is_called_like_its_folder(tmp_path: Path, folder: str, name: str) -> None:
    assert _name_of(tmp_path / folder) == name


@pytest.mark.parametrize(
    ("words", "lines", "absent"),
    [
        ([], ("a search tunes the training of its head",), ("--",)),
        (["tuner=none", "model.name=resnet18"], ("no GPU: the backbone stays frozen\n",), ("87",)),
        (["model.freeze=none"], ("every layer is trained",), ("frozen",)),
        (
            ["experiment=resnet34", "model=resnet34", "model.weights=none"],
            ("no GPU",),
            ("search", "weights are", "experiment=resnet34_hpo"),
        ),
        (["experiment=auto", "model=efficientnet_lite0"], ("up to about 11 minutes",), ("87",)),
    ],
)
def test_what_it_will_do_counts_the_users_settings_in(
    words: list[str],
    lines: tuple[str, ...],
    absent: tuple[str, ...],
    photos_to_search: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It announced a search under `tuner=none`, and a download under `model.weights=none`."""
    monkeypatch.chdir(tmp_path)
    text = said([str(photos_to_search), *words, "dry_run=true"], capsys, monkeypatch)
    plan = text.partition("What it will do")[2].partition("dry run: nothing is started")[0]
    assert all(line in plan for line in lines) and not any(word in plan for word in absent), plan


@pytest.fixture
def photos_to_search(image_folder: Path, tmp_path: Path) -> Path:
    """A folder with enough validation images for a search."""
    root = tmp_path / "dogs"
    shutil.copytree(image_folder, root)
    for path in sorted((root / "train").glob("*/*.jpg"))[::2]:
        path.rename(root / "valid" / path.parent.name / f"more-{path.name}")
    return root
