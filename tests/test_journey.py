"""Whole journeys: from a folder of images to predictions, as a person goes."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import preloaded
import pytest
from codes import raises_code
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from breedlab.cli import evaluate, launch, predict
from breedlab.data.fixes import OUTLIER

Words = Callable[..., list[str]]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, words: Words) -> Path:
    """A whole run with a search, made once for the tests of this file."""
    runs = tmp_path_factory.mktemp("runs")
    space = "tuner.space={optim: {lr: [0.001, 0.003]}, model: {head: [[16], []]}}"
    assert (
        launch.main(
            words(f"runs_dir={runs}", "name=journey", "tuner=grid", "tuner.max_epochs=2", space)
        )
        == 0
    )
    return runs / "latest"


def test_the_run_directory_holds_what_it_should(run: Path) -> None:
    names = {path.name for path in run.iterdir()}
    assert {
        "config.yaml",
        "overrides.yaml",
        "lineage.json",
        "splits.json",
        "study.db",
        "trials",
        "checkpoints",
        "tensorboard",
        "metrics.json",
        "predictions.json",
        "report.html",
        "model.tar.gz",
    } <= names
    assert {path.name for path in (run / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    assert len(list((run / "trials").glob("*/trial.json"))) == 4
    assert not [name for name in names if name.endswith(".tmp") or name.startswith(".")]
    lineage = json.loads((run / "lineage.json").read_text())
    assert lineage["packages"]["torch"] and lineage["data"]["fingerprint"] and lineage["seed"] == 7
    splits = json.loads((run / "splits.json").read_text())
    assert {split: len(files) for split, files in splits["photos"].items()} == {
        "train": 100,
        "valid": 24,
        "test": 24,
    }


def test_features_at_chance_doubt_no_label_and_an_edited_list_is_applied(
    run: Path, words: Words, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = list(csv.DictReader((run / "fixes.csv").open()))
    splits = json.loads((run / "splits.json").read_text())["photos"]
    assert all(row["file"] in splits[row["split"]] and row["why"] == OUTLIER for row in rows)
    edited = tmp_path / "fixes.csv"
    edited.write_text(f"file,fix\n{splits['train'][0]},remove\n")
    assert launch.main(words(f"data.fixes={edited}", "dry_run=true", f"runs_dir={tmp_path}")) == 0
    told = capsys.readouterr().out
    assert "99 train, 24 valid" in told and "0 images relabeled, 1 removed" in told


def test_metrics_are_those_of_the_test_split(run: Path) -> None:
    metrics = json.loads((run / "metrics.json").read_text())
    test = metrics["test"]
    cells = test["confusion"]["cells"]
    assert sum(count for _, _, count in cells) == test["photos"] == 24
    assert test["metrics"]["top1"] == pytest.approx(
        sum(count for i, j, count in cells if i == j) / 24
    )
    assert metrics["search"]["values"].keys() == {"optim.lr", "model.head"}
    assert sum(metrics["search"]["importance"].values()) == pytest.approx(1)  # kept for the report
    assert metrics["training"]["ended"] == "all 2 epochs"


def test_predict_takes_files_folders_and_patterns(
    run: Path,
    image_folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(image_folder)
    folder = sorted((image_folder / "test").iterdir())[0]
    file = sorted(folder.iterdir())[0]
    assert (
        predict.main([str(run), str(file), str(folder), "test/*/0002.jpg", "--json", "--top", "3"])
        == 0
    )
    answers = json.loads(capsys.readouterr().out)
    assert len(answers) == 6 + 3
    for answer in answers:
        probabilities = [p["probability"] for p in answer["predictions"]]
        assert len(probabilities) == 3 and probabilities == sorted(probabilities, reverse=True)
    assert predict.main([str(run / "model.tar.gz"), str(file)]) == 0
    assert "%" in capsys.readouterr().out


def test_predict_goes_on_past_a_broken_image_and_says_so(
    run: Path, image_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(next((image_folder / "test").rglob("*.jpg")), tmp_path / "good.jpg")
    (tmp_path / "broken.jpg").write_text("no photo")
    assert predict.main([str(run), str(tmp_path), "--json"]) == 1
    broken, good = json.loads(capsys.readouterr().out)
    assert broken["error"].startswith("is not an image") and good["predictions"]


def test_evaluate_comes_to_the_runs_own_figures(
    run: Path, image_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate.main([str(run), str(image_folder / "test"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    own = json.loads((run / "metrics.json").read_text())["test"]
    assert found["confusion"] == own["confusion"]
    assert found["most_frequent_class"] == own["most_frequent_class"] in own["per_class"]
    assert found["metrics"]["loss"] == pytest.approx(own["metrics"]["loss"], rel=1e-4)
    assert found["engine"] == "eager fp32"
    assert evaluate.main([str(run), str(image_folder / "test")]) == 0
    printed = capsys.readouterr().out
    assert "answered by eager fp32" in printed and "recall (95%" in printed


def test_tensorboard_shows_curves_pictures_and_every_trials_figures(run: Path) -> None:
    final = EventAccumulator(
        str(run / "tensorboard" / "final"), size_guidance={"images": 0}
    ).Reload()
    tags = final.Tags()
    assert {"train/loss", "valid/loss", "valid/top1", "valid/f1", "test/top1"} <= set(
        tags["scalars"]
    )
    assert {"test/confusion", "test/predictions"} <= set(tags["images"])
    shown = final.Tensors("test/metrics/text_summary")[0].tensor_proto.string_val[0].decode()
    figures = [line.split("|")[2:4] for line in shown.splitlines()[2:]]
    assert figures and all(" to " in span for _, span in figures)
    for tag in tags["scalars"]:
        if tag.startswith(("test/", "best/")) and not tag.endswith(("_low", "_high")):
            low, value, high = (
                final.Scalars(f"{tag}{end}")[0].value for end in ("_low", "", "_high")
            )
            assert low <= value <= high and low < high
    assert len(final.Scalars("valid/top1")) == 2
    for name in ("top1", "top5"):
        low, high = (final.Scalars(f"interval/{name}_{end}") for end in ("low", "high"))
        of_epochs = zip(low, final.Scalars(f"valid/{name}"), high, strict=True)
        assert all(a.value <= b.value <= c.value for a, b, c in of_epochs)
    runs = sorted(path.name for path in (run / "tensorboard").iterdir())
    assert runs == ["final", "trial_000", "trial_001", "trial_002", "trial_003"]
    for name in runs:
        events = EventAccumulator(str(run / "tensorboard" / name)).Reload()
        assert (
            "hparams"
            in events.summary_metadata["_hparams_/session_start_info"].plugin_data.plugin_name
        )
        assert {
            f"{tag}{end}"
            for tag in ("final/valid_top1", "best/valid/top1", "interval/top1")
            for end in ("_low", "_high")
        } <= set(events.Tags()["scalars"])


def test_a_finished_run_resumed_has_nothing_left_to_do(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()}
    assert launch.main([f"resume={run}", "dry_run=true"]) == 0
    assert "this run is complete; nothing is left to do" in capsys.readouterr().out
    assert launch.main([f"resume={run}"]) == 0
    assert "this run is complete" in capsys.readouterr().out
    assert before == {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()}


def test_other_images_than_the_runs_are_refused_on_resume(
    here: Path, words: Words, image_folder: Path
) -> None:

    shutil.copytree(image_folder, "mine")
    overrides = [word for word in words() if not word.startswith("data.root")] + ["data.root=mine"]
    assert launch.main([*overrides, "trainer.max_epochs=1", "name=x"]) == 0
    next((here / "mine" / "train").rglob("*.jpg")).unlink()
    with raises_code("BL113"):
        launch.main(["resume=runs/latest"])


def test_a_grid_of_runs_ends_with_a_table(
    here: Path, words: Words, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["launch.py"])
    assert (
        launch.main(["-m", *words("trainer.max_epochs=1", "name=grid", "optim.lr=0.001,0.002")])
        == 0
    )
    out = capsys.readouterr().out
    table = out[out.rindex("Grid") :]
    assert (
        "optim.lr=0.001" in table and "optim.lr=0.002" in table and table.count("runs/grid/") == 2
    )
    assert len(list((here / "runs" / "grid").iterdir())) == 2
    summary = json.loads(next((here / "runs" / "grids").rglob("summary.json")).read_text())
    assert [row["test/top1"] >= 0 for row in summary] == [True, True]
    runs = [json.loads(Path(row["run"], "metrics.json").read_text()) for row in summary]
    assert [row["best"] for row in summary] == [run["monitor"]["best"] for run in runs]
    assert all(row["valid/loss"] > 0 for row in summary)
    assert table.index("valid/top1") < table.index("test/top1")


def test_broken_images_are_refused_all_at_once_or_left_out_and_recorded(
    here: Path, words: Words, image_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from breedlab.errors import DataError

    shutil.copytree(image_folder, "mine")
    folder = sorted((here / "mine" / "train").iterdir())[0]
    (folder / "text.jpg").write_text("no photo")
    (folder / "empty.png").touch()
    overrides = [word for word in words() if not word.startswith("data.root")] + [
        "data.root=mine",
        "name=x",
    ]
    with pytest.raises(DataError) as caught:
        launch.main(overrides)
    assert "text.jpg is not an image" in str(caught.value) and "empty.png is empty" in str(
        caught.value
    )
    assert not Path("runs").exists()
    assert launch.main([*overrides, "data.on_bad_file=skip", "trainer.max_epochs=1"]) == 0
    left_out = json.loads(Path("runs/latest/splits.json").read_text())["left_out"]
    assert sorted(Path(entry["file"]).name for entry in left_out) == ["empty.png", "text.jpg"]


def test_png_images_with_transparency_train_like_any_other(here: Path, words: Words) -> None:
    for index, color in enumerate([(200, 30, 30), (30, 30, 200)]):
        for number in range(12):
            folder = here / "png" / ("red" if index == 0 else "blue")
            folder.mkdir(parents=True, exist_ok=True)
            Image.new("RGBA", (40, 40), (*color, 128 + 8 * number)).save(folder / f"{number}.png")
    overrides = [word for word in words() if not word.startswith("data.root")] + [
        "data.root=png",
        "name=png",
    ]
    assert launch.main([*overrides, "trainer.max_epochs=1"]) == 0
    assert json.loads(Path("runs/latest/splits.json").read_text())["cut_from_train"] == [
        "valid",
        "test",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["› Data", "› Search", "epoch 2/"])
def test_ctrl_c_is_one_line_that_says_how_to_go_on(here: Path, words: Words, moment: str) -> None:
    command = [sys.executable, "-u", "-m", "breedlab.cli", "launch"]
    space = "tuner.space={optim: {lr: [0.001, 0.002]}}"
    overrides = words(
        "tuner=grid",
        space,
        "tuner.max_epochs=3",
        "cache.mode=off",
        "trainer.max_epochs=4",
        "name=x",
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = preloaded.Popen(
        [*command, *overrides],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if moment in line:
            break
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "Traceback" not in err and err.strip().splitlines()[-1].startswith("interrupted")
    if moment == "› Data":
        return  # nothing to go on from yet
    hint = re.search(r"resume=\S+", err)
    assert hint is not None
    done = preloaded.run([*command, hint[0]], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert (here / "runs/latest/model.tar.gz").exists()


@pytest.mark.slow
def test_a_full_disk_is_one_message_and_the_run_goes_on_once_there_is_room(
    here: Path, words: Words
) -> None:
    """A small file system of its own; only root can mount one."""
    disk = here / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=60m", "tmpfs", str(disk)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("cannot mount a file system here")
    try:
        command = [sys.executable, "-m", "breedlab.cli", "launch"]
        first = preloaded.run(
            [*command, *words("name=full", "model.name=resnet18")],
            cwd=disk,
            capture_output=True,
            text=True,
        )
        assert first.returncode == 1
        assert first.stderr.startswith("[BL301] ") and f"{disk.resolve()}/" in first.stderr
        assert "Traceback" not in first.stderr
        subprocess.run(["mount", "-o", "remount,size=400m", str(disk)], check=True)
        second = preloaded.run(
            [*command, "resume=runs/latest"], cwd=disk, capture_output=True, text=True
        )
        assert second.returncode == 0, second.stderr
        assert (disk / "runs/latest/model.tar.gz").exists()
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_sample_drawn_otherwise_does_not_pass_for_the_one_asked_for(
    here: Path, words: Words
) -> None:

    small = [
        "data.sample.train=8",
        "data.sample.valid=2",
        "data.sample.test=2",
        "data.sample.size=40",
    ]
    overrides = [word for word in words() if not word.startswith("data")]
    run = [
        *overrides,
        "data=sample",
        "data.image_size=32",
        "data.resize=36",
        "trainer.max_epochs=1",
        *small,
    ]
    assert launch.main([*run, "data.num_workers=0"]) == 0
    with raises_code("BL200", names=("data.sample", "classes 8", "3")):
        launch.main([*run, "data.sample.classes=3"])
