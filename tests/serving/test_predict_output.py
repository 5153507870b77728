"""What `breedlab predict` prints as CSV and as a table; files, folders, and stdin."""

from __future__ import annotations

import csv
import io
import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from codes import raises_code
from test_guard import running

from breedlab.backends.client import ask
from breedlab.cli import evaluate, predict
from breedlab.serving.model import Model
from breedlab.serving.protocol import settings
from breedlab.serving.server import make_app


def test_a_csv_has_a_line_for_each_image_with_its_error(
    folder: Path, image_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = tmp_path / "a, b"
    shutil.copytree(image_folder / "test", images)
    (images / "broken.jpg").write_bytes(b"")
    capsys.readouterr()
    assert predict.main([str(folder), str(images), "--csv"]) == 1
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert len(rows) == 1 + len(list((image_folder / "test").rglob("*.jpg")))
    (broken,) = [row for row in rows if row["photo"] == str(images / "broken.jpg")]
    assert broken["label"] == "" and broken["error"] == "is empty"
    good = next(row for row in rows if not row["error"])
    assert good["label"] and 0 < float(good["probability"]) <= 1


def test_json_has_the_code_of_what_is_wrong_with_an_image(
    folder: Path, image_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = tmp_path / "images"
    images.mkdir()
    shutil.copy(next((image_folder / "test").rglob("*.jpg")), images / "a.jpg")
    (images / "empty.jpg").write_bytes(b"")
    (images / "link.jpg").symlink_to("gone.jpg")
    (images / "words.jpg").write_text("no image")
    expected = {"a.jpg": None, "empty.jpg": "BL205", "link.jpg": "BL600", "words.jpg": "BL208"}
    capsys.readouterr()
    assert predict.main([str(folder), str(images / "*.jpg"), "--json"]) == 1
    here = json.loads(capsys.readouterr().out)
    with running(settings(make_app(Model(folder)))) as port:
        there = list(ask(f"http://127.0.0.1:{port}", sorted(images.iterdir()), 1))
    for answers in (here, there):
        assert {Path(each["photo"]).name: each.get("code") for each in answers} == expected
        assert ["error" in each for each in answers] == [False, True, True, True]


def test_an_image_comes_through_stdin(
    folder: Path, image: bytes, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(image)))
    assert predict.main([str(folder), "-", "--csv"]) == 0
    assert capsys.readouterr().out.splitlines()[1].startswith("-,")


def test_a_url_is_answered_with_what_to_do(folder: Path) -> None:
    with raises_code("BL200", names="curl -s 'https://x.example/a.jpg'"):
        predict.main([str(folder), "https://x.example/a.jpg"])


def test_a_label_that_top_leaves_out_is_shown_all_the_same(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Images whose labels have low thresholds were not in the table at all."""
    two = [{"class": "blue", "probability": 0.53}, {"class": "green", "probability": 0.52}]
    predict._show(
        [
            {"photo": "5.png", "predictions": two, "labels": ["red"]},
            {"photo": "6.png", "predictions": two, "labels": ["green", "red"]},
        ]
    )
    lines = capsys.readouterr().out.splitlines()
    assert any("5.png" in line and "red" in line for line in lines)
    assert any("6.png" in line and "green" in line and "52.0%" in line for line in lines)


def test_a_set_of_many_classes_is_named_in_part(capsys: pytest.CaptureFixture[str]) -> None:
    classes = [f"class{index:03}" for index in range(300)]
    top = [{"class": classes[0], "probability": 0.1}]
    predict._show([{"photo": "x", "predictions": top, "set": classes, "set_coverage": 0.9}])
    out = capsys.readouterr().out
    assert "one of 300" in out and "292 more" in out and "class150" not in out


def test_a_model_is_tested_on_images_beside_a_label_file(
    folder: Path, image_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It said that the folder holds no images, to whoever trained from a label file, too."""
    rows = []
    for path in sorted((image_folder / "test").rglob("*.jpg")):
        name = f"{path.parent.name}-{path.name}"
        shutil.copy(path, tmp_path / name)
        rows.append((name, path.parent.name))
    with (tmp_path / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("filename", "label"), *rows])
    results = []
    for where in (tmp_path, image_folder / "test"):
        capsys.readouterr()
        assert evaluate.main([str(folder), str(where), "--json"]) == 0
        results.append(capsys.readouterr().out)
    assert results[0] == results[1]
