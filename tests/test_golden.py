"""What older versions left behind is still resumed, reported, debugged, evaluated, predicted with
and served."""

from __future__ import annotations

import json
import re
import sqlite3
import subprocess
import sys
import tarfile
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import preloaded
import pytest
import torch
import yaml
from codes import raises_code

from breedlab.cli import debug, evaluate, predict, report
from breedlab.cli.launch import main as launch
from breedlab.config.migrations import SCHEMA_VERSION
from breedlab.errors import BreedlabError

ROOT = Path(__file__).resolve().parents[1]
COMPLETE = "runs/golden/complete"


def weights(run: str, name: str) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(
        f"{run}/checkpoints/{name}.ckpt", weights_only=True
    )["state_dict"]
    return state


def trials(run: str) -> list[tuple[Any, ...]]:
    """Number, state and objective of every trial that Optuna has stored."""
    with sqlite3.connect(f"{run}/study.db") as study:
        query = (
            "SELECT number, state, value FROM trials LEFT JOIN trial_values USING (trial_id) ORDER"
            " BY number"
        )
        return study.execute(query).fetchall()


def recorded_answers() -> dict[str, tuple[int, float]]:
    """The class and its probability that the complete run recorded for each image of the test."""
    recorded = json.loads(Path(COMPLETE, "predictions.json").read_text())
    answers = zip(recorded["predicted"], recorded["probabilities"], strict=True)
    return {
        f"photos/{name}": answer for name, answer in zip(recorded["photos"], answers, strict=True)
    }


@pytest.mark.slow
def test_a_complete_run_is_complete(golden: Path, capsys: Any) -> None:
    assert launch([f"resume={COMPLETE}"]) == 0
    assert "this run is complete; nothing is left to do" in capsys.readouterr().out


@pytest.mark.slow
def test_a_training_that_was_stopped_goes_on_to_the_very_weights(golden: Path, capsys: Any) -> None:
    stopped = "runs/golden/stopped_in_training"
    searched = trials(stopped)
    assert launch([f"resume={stopped}"]) == 0
    assert trials(stopped) == searched  # nothing is searched again
    assert "epoch 2/6" in capsys.readouterr().out
    expected = weights(COMPLETE, "last")
    resumed = weights(stopped, "last")
    assert resumed.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(resumed[name], tensor, rtol=1e-3, atol=1e-5, msg=name)
    assert Path(stopped, "metrics.json").is_file() and Path(stopped, "model.tar.gz").is_file()


@pytest.mark.slow
def test_a_search_that_was_stopped_goes_on(golden: Path) -> None:
    stopped = "runs/golden/stopped_in_search"
    (first,) = [trial for trial in trials(stopped) if trial[1] == "COMPLETE"]
    assert launch([f"resume={stopped}"]) == 0
    searched = trials(stopped)
    assert first in searched
    assert sum(state == "COMPLETE" for _, state, _ in searched) == 3
    assert Path(stopped, "metrics.json").is_file() and Path(stopped, "model.tar.gz").is_file()


def test_words_that_agree_with_an_old_run_may_be_given_again(golden: Path, capsys: Any) -> None:
    again = yaml.safe_load(Path("runs/golden/stopped_in_training/overrides.yaml").read_text())
    assert (
        launch(
            [
                "resume=runs/golden/stopped_in_training",
                *again,
                "cache.dir=elsewhere",
                "dry_run=true",
            ]
        )
        == 0
    )
    assert "stopped_in_training" in capsys.readouterr().out


def test_words_that_contradict_an_old_run_are_refused_by_path(golden: Path) -> None:
    with raises_code("BL110", names=("optim.lr", "0.001", "0.5")):
        launch(["resume=runs/golden/stopped_in_training", "optim.lr=0.5", "dry_run=true"])
    with raises_code("BL110", names=("optim.name", "'adam'", "'sgd'")):
        launch(["resume=runs/golden/stopped_in_training", "optim=sgd", "dry_run=true"])
    with raises_code("BL110", names=("tuner.space.model.dropout", "[0.1, 0.2]")):
        launch(
            [
                "resume=runs/golden/stopped_in_training",
                "tuner.space.model.dropout=[0.1,0.2]",
                "dry_run=true",
            ]
        )


@pytest.mark.slow
def test_images_that_moved_are_named_once(golden: Path, capsys: Any) -> None:
    stopped = "runs/golden/stopped_in_training"
    Path("photos").rename("elsewhere (2)")
    with pytest.raises(BreedlabError):
        launch([f"resume={stopped}"])
    assert launch([f"resume={stopped}", "data.root=elsewhere (2)"]) == 0
    assert launch([f"resume={stopped}"]) == 0  # where they lie is recorded
    assert "this run is complete" in capsys.readouterr().out
    assert report.main([stopped]) == 0
    assert "data:image" in Path(stopped, "report.html").read_text()  # it finds the images to show
    next(Path("elsewhere (2)").rglob("*.jpg")).unlink()
    with raises_code("BL113", names=stopped):
        launch([f"resume={stopped}"])


def test_an_old_run_is_reported(golden: Path) -> None:
    assert report.main([COMPLETE]) == 0
    page = Path(COMPLETE, "report.html").read_text()
    assert "Amber Brindle Pointer" in page and "test_efficientnet" in page


def test_an_old_recording_is_judged_by_its_own_thresholds(golden: Path, capsys: Any) -> None:
    before = json.loads(Path(COMPLETE, "debug", "verdicts.json").read_text())
    debug.main([COMPLETE, "--json"])
    after = {verdict["rule"]: verdict["verdict"] for verdict in json.loads(capsys.readouterr().out)}
    for verdict in before:
        assert after[verdict["rule"]] == verdict["verdict"]


def test_a_rule_that_is_newer_than_the_run_leaves_the_others_their_thresholds(
    golden: Path, capsys: Any
) -> None:
    file = Path(COMPLETE, "config.yaml")
    tree = yaml.safe_load(file.read_text())
    rules = tree["debugger"]["rules"]
    del rules["weight_update_ratio"]  # as if it had come later
    rules["loss_not_decreasing"] |= {"window": 2, "decrease": 1.0}  # which no training reaches
    file.write_text(yaml.safe_dump(tree))
    assert debug.main([COMPLETE, "--json"]) == 1
    verdicts = {
        verdict["rule"]: verdict["verdict"] for verdict in json.loads(capsys.readouterr().out)
    }
    assert verdicts["LossNotDecreasing"] == "triggered"
    assert "WeightUpdateRatio" in verdicts


@pytest.mark.parametrize("engine", [[], ["--engine", "eager"]], ids=["as exported", "eager"])
def test_an_old_archive_predicts_what_it_predicted(
    engine: list[str], golden: Path, capsys: Any
) -> None:
    expected = recorded_answers()
    assert predict.main([COMPLETE, *expected, "--json", "--top", "1", *engine]) == 0
    for answer in json.loads(capsys.readouterr().out):
        label, probability = expected[answer["photo"]]
        (top,) = answer["predictions"]
        assert top["class"] == ["Amber Brindle Pointer", "Amber Brindle Terrier"][label]
        assert top["probability"] == pytest.approx(probability, abs=2e-3)


def test_an_old_archive_is_evaluated(golden: Path, capsys: Any) -> None:
    assert evaluate.main([COMPLETE, "photos/test", "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    recorded = json.loads(Path(COMPLETE, "metrics.json").read_text())["test"]["metrics"]
    assert figures["metrics"]["top1"] == pytest.approx(recorded["top1"])


@pytest.mark.slow
def test_an_old_archive_is_served(golden: Path) -> None:
    command = [sys.executable, str(ROOT / "scripts" / "serve.py"), COMPLETE, "--port", "0"]
    process = preloaded.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    try:
        said = ""
        while (address := re.search(r"http://127\.0\.0\.1:\d+", said)) is None:
            line = process.stdout.readline()
            assert line, said
            said += line
        for name, (label, _) in recorded_answers().items():
            image = Path(name).read_bytes()
            headers = {"Content-Type": "image/jpeg"}
            request = urllib.request.Request(f"{address[0]}/invocations", image, headers)
            with urllib.request.urlopen(request, timeout=60) as response:
                assert np.argmax(json.load(response)[0]) == label
    finally:
        process.terminate()
        process.wait(30)


@pytest.mark.slow
def test_an_old_archives_own_code_still_serves_it(golden: Path) -> None:
    """What runs on an endpoint is the code that an archive brought with it, beside newer
    libraries."""
    content = Path("content")
    with tarfile.open(f"{COMPLETE}/model.tar.gz") as archive:
        archive.extractall(content)
    script = (
        "import sys, json, inference\n"
        "model = inference.model_fn(sys.argv[1])\n"
        "for name in sys.argv[2:]:\n"
        "    images = inference.input_fn(open(name, 'rb').read(), 'image/jpeg')\n"
        "    body = inference.output_fn(inference.predict_fn(images, model), 'application/json')\n"
        "    print(json.dumps(json.loads(body[0] if isinstance(body, tuple) else body)))\n"
    )
    expected = recorded_answers()
    command = [sys.executable, "-c", script, str(content), *expected]
    ran = subprocess.run(
        command,
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(content / "code")},
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    for line, (label, _) in zip(ran.stdout.splitlines(), expected.values(), strict=True):
        assert np.argmax(json.loads(line)[0]) == label


def test_what_a_newer_breedlab_wrote_is_refused_in_a_sentence(golden: Path) -> None:
    file = Path(COMPLETE, "config.yaml")
    file.write_text(f"schema_version: {SCHEMA_VERSION + 1}\n{file.read_text()}")
    for command in (lambda: launch([f"resume={COMPLETE}"]), lambda: debug.main([COMPLETE])):
        with raises_code("BL111", names=(file, f"schema_version {SCHEMA_VERSION + 1}")):
            command()
    with raises_code("BL111", names="config.yaml"):
        report.main([COMPLETE])


def test_a_newer_archive_is_refused_in_a_sentence(golden: Path) -> None:
    content = Path("content")
    with tarfile.open(f"{COMPLETE}/model.tar.gz") as archive:
        archive.extractall(content)
    file = content / "model.json"
    description = json.loads(file.read_text())
    file.write_text(json.dumps({**description, "schema_version": SCHEMA_VERSION + 1}))
    with raises_code("BL111", names="model.json"):
        predict.main([str(content), next(iter(recorded_answers()))])


def test_a_newer_study_is_refused_in_a_sentence(golden: Path) -> None:
    stopped = "runs/golden/stopped_in_search"
    with sqlite3.connect(f"{stopped}/study.db") as study:
        study.execute(
            "INSERT INTO study_user_attributes (study_id, key, value_json) VALUES (1,"
            " 'schema_version', ?)",
            [str(SCHEMA_VERSION + 1)],
        )
    with raises_code("BL111", names="study.db"):
        launch([f"resume={stopped}"])
