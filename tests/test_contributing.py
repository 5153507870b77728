"""CONTRIBUTING.md's table of what to touch: who does what a row says has added the thing."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

import breedlab.cli
from breedlab.config import validate
from breedlab.config.compose import load
from breedlab.config.yaml_folders import with_search_path
from breedlab.registry import REGISTRIES

ROOT = Path(__file__).resolve().parents[1]
SECTION = (ROOT / "CONTRIBUTING.md").read_text().split("## To add something")[1].split("\n## ")[0]
ROWS = dict(re.findall(r"^\| (an? .*?) \| (.*) \|$", SECTION, re.MULTILINE))


def test_the_row_of_components_has_every_kind_and_the_plugins_page_an_example_of_each() -> None:
    """tests/plugins/test_stranger.py has the examples at work."""
    (row,) = [row for row, touch in ROWS.items() if "docs/plugins.md" in touch]
    kinds = {re.sub(r"^(debugger|profiler) ", "", each.kind) for each in REGISTRIES}
    assert set(re.split(r", or |, ", re.sub("^an? ", "", row))) == kinds
    (examples,) = re.findall(
        r"```python\n(.*?)```", (ROOT / "docs" / "plugins.md").read_text(), re.DOTALL
    )
    registered = re.findall(r"^@([A-Z_]+)\.register", examples, re.MULTILINE)
    homes = vars(sys.modules["breedlab.registry"])
    assert [homes[name].kind for name in registered] == [each.kind for each in REGISTRIES]


def test_each_file_of_the_table_is_there() -> None:
    named = re.findall(r"`([\w.]+/[\w./]*)`", "\n".join(ROWS.values()))
    assert named
    for name in named:
        assert (ROOT / name).exists() or (ROOT / "src" / "breedlab" / name).exists(), name


def test_one_yaml_is_an_experiment_and_one_a_backbone(here: Path) -> None:
    assert ROWS["an experiment, a named combination"] == "one YAML in `conf/experiment/`"
    backbone = ROWS["a backbone that torchvision or timm knows"]
    assert backbone.startswith("one YAML in `conf/model/`, or `model.name=`")
    for folder in ("experiment", "model"):
        (here / "mine" / folder).mkdir(parents=True)
    resnet = (ROOT / "conf" / "model" / "resnet34.yaml").read_text()
    (here / "mine/model/resnet50.yaml").write_text(resnet.replace("resnet34", "resnet50"))
    (here / "mine/experiment/roses.yaml").write_text(
        "# @package _global_\ndefaults: [override /model: resnet50]\nname: roses\n"
    )
    words = with_search_path(["--config-dir", "mine", "experiment=roses"])
    config = validate(load(words))
    assert (config.name, config.model.name) == ("roses", "resnet50")


def test_one_file_and_one_line_are_a_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ROWS["a command"] == "one file in `cli/`, one line in `cli/__init__.py`"
    (tmp_path / "greet.py").write_text("def main(argv):\n    print('hello', *argv)\n    return 0\n")
    monkeypatch.setattr(breedlab.cli, "__path__", [*breedlab.cli.__path__, str(tmp_path)])
    monkeypatch.setitem(breedlab.cli.COMMANDS, "greet", "greet somebody: greet NAME")
    monkeypatch.setattr(sys, "argv", ["breedlab", "greet", "Anna"])
    with pytest.raises(SystemExit) as ended:
        breedlab.cli.main()
    assert ended.value.code == 0 and capsys.readouterr().out == "hello Anna\n"
    sys.modules.pop("breedlab.cli.greet")
