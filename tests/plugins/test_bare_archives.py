"""An archive whose head is a stranger's, opened by every command with `plugins=[my_package]`."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import preloaded
import pytest
from strangers import Write

from breedlab.config import Config
from breedlab.pipeline.checked_images import checked_images
from breedlab.serving.archive import write_archive, write_folder
from breedlab.training.preparation import prepare

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
HEAD = """
from breedlab.models.heads import Head
from breedlab.registry import HEADS


@HEADS.register("bare")
class Bare(Head):
    \"\"\"Scores of one layer without a bias.\"\"\"

    def build(self, features, architecture):
        from torch import nn

        return nn.Linear(features, architecture.classes, bias=False)
"""


@pytest.fixture
def archive(package: Write, configure: Callable[..., Config], here: Path) -> Path:
    """A model.tar.gz of a head that a package in the working folder brings; it names no plugin."""
    config = configure(package(HEAD), "model.head_type=bare")
    context = prepare(config, checked_images(config))
    classifier = context.classifier(config).eval()
    (here / "content").mkdir()
    write_folder(here / "content", classifier, context.evaluation, context.classes, {"run": "test"})
    write_archive(here / "model.tar.gz", here / "content")
    return here / "model.tar.gz"


def run(*words: str | Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """A command in a process of its own, which knows no plugin yet."""
    name, *others = words
    return preloaded.run(
        [sys.executable, SCRIPTS / f"{name}.py", *others],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_every_command_that_loads_a_model_takes_plugins(
    archive: Path, image_folder: Path, here: Path
) -> None:
    image = next((image_folder / "test").rglob("*.jpg"))
    commands = (
        ("predict", archive, image, "--json"),
        ("evaluate", archive, image_folder / "test", "--json"),
        ("export", archive, "--card", "card.md"),
    )
    for command in commands:
        refused = run(*command, folder=here)
        assert refused.returncode == 2 and refused.stderr.startswith("[BL507] "), refused.stderr
        assert "'bare'" in refused.stderr and "plugins=[my_package]" in refused.stderr
        answered = run(*command, "plugins=[my_package]", folder=here)
        assert answered.returncode == 0, answered.stderr
        if "--json" in command:
            assert json.loads(answered.stdout)
    assert (here / "card.md").is_file()


@pytest.mark.parametrize("command", ["predict", "evaluate", "export", "serve", "deploy", "batch"])
def test_the_help_of_each_tells_it(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        import_module(f"breedlab.cli.{command}").main(["--help"])
    assert ended.value.code == 0 and "plugins=[my_package]" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["predict", "evaluate", "export", "serve", "deploy", "batch"])
def test_a_plugin_that_is_not_there_is_told_by_each(command: str, here: Path) -> None:
    refused = run(command, "model.tar.gz", "plugins=[my_packge]", folder=here)
    assert refused.returncode == 2 and "[BL108] " in refused.stderr, refused.stderr
    assert "my_packge" in refused.stderr
