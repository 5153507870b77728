"""`breedlab help` knows every setting, and is right."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from codes import raises_code

import breedlab
from breedlab.cli.help import main, used_in
from breedlab.config.schema import schema
from breedlab.config.setting import settings
from breedlab.config.validate import known_paths

SETTINGS = {setting.path: setting for setting in settings(schema())}


def told(capsys: Any, *argv: str) -> str:
    assert main([*argv]) == 0
    return str(capsys.readouterr().out)


def test_every_setting_and_section_has_a_meaning() -> None:
    assert list(SETTINGS) == known_paths()
    assert not [path for path, setting in SETTINGS.items() if not setting.meaning]


def test_without_a_path_it_lists_all(capsys: Any) -> None:
    text = told(capsys)
    assert not [path for path in SETTINGS if path not in text]


def test_a_setting_has_type_range_default_meaning_and_place(capsys: Any) -> None:
    lines = told(capsys, "optim.schedule").splitlines()
    assert lines[0] == "optim.schedule: The learning rate schedule."
    assert "  type      one of constant, cosine, one_cycle" in lines
    assert "  default   constant" in lines
    assert "  search    tuner.space may vary it" in lines
    assert any("optim=sgd to cosine" in line for line in lines)
    assert any("breedlab/training/optimization.py" in line for line in lines)
    assert "  constant   A constant learning rate." in lines


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("optim.lr", "a number greater than 0"),
        ("seed", "a whole number of at least 0 and less than 4294967296"),
        ("trainer.patience", "a whole number of at least 1 or null"),
        ("data.mean", "auto or a list of 3, each a number"),
        ("model.head", "a list, each a whole number of at least 1"),
        ("trainer.compile", "true or false"),
        ("serving.engine", "one of auto, eager, openvino"),
        (
            "monitor.metric",
            "one of valid/loss, valid/top1, valid/top5, valid/map, valid/f1, valid/micro_f1,"
            " valid/exact, valid/ece",
        ),
    ],
)
def test_a_range_is_told_as_the_field_checks_it(path: str, kind: str) -> None:
    assert SETTINGS[path].kind == kind


def test_where_a_setting_is_used_is_code_beyond_the_schema() -> None:
    package = Path(breedlab.__file__).parents[1]
    files = {
        path: used_in(setting) for path, setting in SETTINGS.items() if setting.section is None
    }
    assert not [
        name for names in files.values() for name in names if not (package / name).is_file()
    ]
    declared_only = {
        path
        for path, names in files.items()
        if set(names) <= {"breedlab/config/sections.py", "breedlab/config/schema.py"}
    }
    assert not declared_only
    assert "breedlab/debugging/rules/base.py" in files["debugger.rules.dead_relu.patience"]
    assert files["resume"] == ["breedlab/cli/folder.py", "breedlab/cli/launch.py"]


def test_a_typo_gets_the_nearest_name() -> None:
    with raises_code("BL101", names=("optim.lrr", "did you mean optim.lr?")):
        main(["optim.lrr"])


def test_a_key_of_a_mapping_is_explained_by_the_mapping(capsys: Any) -> None:
    text = told(capsys, "tuner.space.optim.lr", "backend.environment.TOKEN")
    for each in ("tuner.space: ", "optim.lr: ", "backend.environment: "):
        assert f"\n{each}" in f"\n{text}"
    assert "{lr: {low: 0.0001, high: 0.01, log: true}}" in " ".join(text.split()), "as YAML"
    with raises_code("BL101", names="tuner.spaces.optim.lr"):
        main(["tuner.spaces.optim.lr"])


def test_help_and_a_typo_answer_without_torch() -> None:
    program = (
        "import sys\nfrom breedlab.cli.help import main\nmain(['data.augment', 'optim',"
        " 'serving'])\nheavy = {'torch', 'numpy', 'lightning', 'hydra', 'smdebug'} &"
        " set(sys.modules)\nassert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", program], check=True, stdout=subprocess.DEVNULL)
