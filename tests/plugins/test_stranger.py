"""Somebody who has only docs/plugins.md adds one of each kind, and sees each at work."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors import safe_open
from strangers import Write

from breedlab.cli import predict
from breedlab.cli.launch import main

ROOT = Path(__file__).resolve().parents[2]
MANUAL = (ROOT / "docs" / "plugins.md").read_text()
(EXAMPLES,) = re.findall(r"```python\n(.*?)```", MANUAL, re.DOTALL)
(COMMAND,) = re.findall(
    r"```bash\nbreedlab launch (experiment=quickstart tuner=none plugins=.*?)```", MANUAL, re.DOTALL
)

SMALL = [
    "model=resnet34",
    "model.name=resnet18",
    "model.weights=none",
    "data.image_size=32",
    "data.resize=36",
    "trainer.max_epochs=2",
    "trainer.accelerator=cpu",
    "trainer.precision=fp32",
    "data.num_workers=0",
]
LIMITS = [
    *("debugger.rules.loss_above.limit=0.000001", "profiler.rules.slow_step.limit_ms=0.001"),
    "optim.linear.end=0.25",
    "backend.loud.greeting=hello",
    "report.greeting.words=Our run",
    "logger.json_lines.file=mine.jsonl",
    "data.blank.side=4",
    "optim.focal.gamma=1.5",
]


def read(run: Path, name: str) -> Any:
    return json.loads((run / name).read_text())


def rule(verdicts: list[Any], name: str) -> Any:
    return next(verdict for verdict in verdicts if verdict["rule"] == name)


@pytest.mark.slow
def test_one_of_each_kind_from_the_manual_is_at_work_in_a_run(
    package: Write, here: Path, capsys: Any
) -> None:
    package(EXAMPLES)
    words = COMMAND.replace("\\\n", " ").split()
    assert main([*words, *SMALL, *LIMITS]) == 0
    said = capsys.readouterr().out
    assert said.startswith("hello\n")  # the backend
    run = (here / "runs" / "latest").resolve()

    assert sorted(path.name for path in (here / "data" / "stripes" / "train").iterdir()) == [
        "horizontal",
        "vertical",
    ]
    settings = yaml.safe_load((run / "config.yaml").read_text())
    assert settings["plugins"] == ["my_package"] and settings["data"]["blank"] == {"side": 4}

    metrics = read(run, "metrics.json")
    assert 0 <= metrics["test"]["metrics"]["worst_class"] <= metrics["test"]["metrics"]["top1"]
    assert "objective valid/worst_class=" in said and "worst class" in said

    last = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    (optimizer,) = last["optimizer_states"]
    assert all(state.keys() == {"average"} for state in optimizer["state"].values())
    assert optimizer["param_groups"][0]["lr"] == pytest.approx(0.25 * 0.0005)  # the schedule's end

    # The hook records the loss of the plugin, though it is none of PyTorch's; validation measures
    # cross-entropy.
    verdict = rule(read(run, "debug/verdicts.json"), "LossAbove")
    assert verdict["verdict"] == "triggered" and verdict["figures"]["mean_loss"] > 0
    assert rule(read(run, "profile/verdicts.json"), "SlowStep")["verdict"] == "triggered"
    assert "<p>Our run knows <b>2</b> classes.</p>" in (run / "report.html").read_text()
    logged = [json.loads(line) for line in (run / "mine.jsonl").read_text().splitlines()]
    assert {"valid/worst_class", "test/worst_class"} <= {name for line in logged for name in line}

    folder = here / "archive"
    with tarfile.open(run / "model.tar.gz") as archive:
        archive.extractall(folder)
    model = read(folder, "model.json")
    assert model["architecture"]["head_type"] == "cosine_head"
    assert model["architecture"]["head_settings"] == {"scale": 16.0}
    assert (model["engine"]["name"], model["engine"]["settings"]) == (
        "torchscript",
        {"freeze": True},
    )
    torch.jit.load(str(folder / model["engine"]["file"]))
    with safe_open(str(folder / "model.safetensors"), "pt") as weights:
        assert "head.classes" in weights.keys()  # noqa: SIM118  not a mapping

    image = here / "data" / "stripes" / "test" / "vertical" / "0.png"
    assert predict.main([str(run), str(image), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert "vertical" in json.dumps(answer) and "horizontal" in json.dumps(answer)
    answered_by_an_endpoint(folder, image)


ENDPOINT = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("hydra", "lightning", "omegaconf", "optuna"):
            raise ModuleNotFoundError(f"an endpoint has no {name}")

sys.meta_path.insert(0, Absent())
import inference
model = inference.model_fn(sys.argv[1])
assert inference.handler.__file__.startswith(sys.argv[1]), inference.handler.__file__
images = inference.input_fn(open(sys.argv[2], "rb").read(), "image/png")
body, kind = inference.output_fn(inference.predict_fn(images, model), "application/json")
print(model.engine.choice, type(model.network.head).__name__, body.decode())
"""


def answered_by_an_endpoint(folder: Path, image: Path) -> None:
    """An endpoint has the archive's code and the packages that it asks for, and nothing of the
    working folder."""
    needed = (folder / "code" / "requirements.txt").read_text()
    assert "pydantic==" in needed
    command = [sys.executable, "-c", ENDPOINT, str(folder), str(image)]
    environment = {"PYTHONPATH": str(folder / "code"), "PATH": "/usr/bin:/bin"}
    answer = subprocess.run(
        command, cwd="/", env=environment, capture_output=True, text=True, check=False
    )
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.startswith("torchscript fp32 Cosine ")
