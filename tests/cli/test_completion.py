"""Real bash and fish complete breedlab's command lines by the scripts that `breedlab completion`
prints."""

from __future__ import annotations

import io
import shutil
import subprocess
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from breedlab.cli import COMMANDS
from breedlab.cli.completion import main

# What readline does at a press of TAB: it sets these, and calls the function of `complete -F`.
_PRESS = r"""
source "$1"
COMP_LINE="$2"; COMP_POINT=${#2}; COMP_WORDBREAKS=$' \t\n"\'><=;|&(:'
$(complete -p breedlab | sed 's/.*-F \([^ ]*\).*/\1/')
printf '%s\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = io.StringIO()
    with redirect_stdout(out):
        assert main(["bash"]) == 0
    file = tmp_path_factory.mktemp("completion") / "breedlab.bash"
    file.write_text(out.getvalue())
    return file


def pressed(script: Path, line: str, folder: Path) -> list[str]:
    """Return what bash offers for the last word of a line."""
    command = ["bash", "--norc", "-c", _PRESS, "bash", str(script), line]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    assert not done.stderr
    return [word for word in done.stdout.split("\n") if word]


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("breedlab dep", ["deploy "]),
        ("breedlab predict x --engine ", ["eager ", "openvino "]),
        ("breedlab predict --en", ["--endpoint ", "--engine "]),
        ("breedlab launch op", ["optim.", "optim="]),
        ("breedlab launch optim.name=ad", ["adam ", "adamw "]),
        ("breedlab launch optim.sch", ["optim.schedule="]),
        ("breedlab check d --p", ["--page "]),
        ("breedlab check d data.fix", ["data.fixes="]),
        ("breedlab launch experiment=resnet34_h", ["resnet34_hpo "]),
        ("breedlab launch resume=", ["runs/dogs/1 "]),
        ("breedlab deploy ru", ["runs/dogs/1 "]),
        ("breedlab deploy runs/dogs/1 endpoint=", ["async ", "realtime ", "serverless "]),
        ("breedlab deploy runs/dogs/1 endpoint.inst", ["endpoint.instance_type="]),
        ("breedlab help optim.lr", ["optim.lr "]),
        ("breedlab jobs f", ["fetch "]),
        ("breedlab predict nowhere", []),
    ],
)
def test_bash_offers_what_may_follow(
    script: Path, line: str, offered: list[str], tmp_path: Path
) -> None:
    (tmp_path / "runs" / "dogs" / "1").mkdir(parents=True)
    (tmp_path / "runs" / "dogs" / "1" / "config.yaml").touch()
    assert pressed(script, line, tmp_path) == offered


def test_bash_offers_every_command(script: Path, tmp_path: Path) -> None:
    assert pressed(script, "breedlab ", tmp_path) == [f"{name} " for name in COMMANDS]


FISH = shutil.which("fish")


@pytest.fixture(scope="module")
def fish_script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = io.StringIO()
    with redirect_stdout(out):
        assert main(["fish"]) == 0
    file = tmp_path_factory.mktemp("completion") / "breedlab.fish"
    file.write_text(out.getvalue())
    return file


@pytest.mark.skipif(FISH is None, reason="fish is not installed")
@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("breedlab dep", ["deploy"]),
        ("breedlab predict x --engine ", ["eager", "openvino"]),
        ("breedlab predict --en", ["--endpoint", "--engine"]),
        ("breedlab launch optim.name=ad", ["optim.name=adam", "optim.name=adamw"]),
        ("breedlab launch experiment=resnet34_h", ["experiment=resnet34_hpo"]),
        ("breedlab launch resume=runs/d", ["resume=runs/dogs/", "resume=runs/dogs/1"]),
        ("breedlab deploy ru", ["runs/", "runs/dogs/1"]),
        ("breedlab deploy x endpoint=s", ["endpoint=serverless"]),
        ("breedlab deploy x endpoint.inst", ["endpoint.instance_type="]),
        ("breedlab help optim.lr", ["optim.lr"]),
        ("breedlab jobs f", ["fetch"]),
        ("breedlab jobs fetch f", []),
        ("breedlab predict jobs f", []),
        ("breedlab predict nowhere", []),
    ],
)
def test_fish_offers_what_may_follow(
    fish_script: Path, line: str, offered: list[str], tmp_path: Path
) -> None:
    (tmp_path / "runs" / "dogs" / "1").mkdir(parents=True)
    (tmp_path / "runs" / "dogs" / "1" / "config.yaml").touch()
    source = 'source $argv[1]; complete -C "$argv[2]"'
    command = [str(FISH), "--no-config", "-c", source, str(fish_script), line]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert not done.stderr
    # behind a tab is what a word means
    assert [word.partition("\t")[0] for word in done.stdout.splitlines()] == offered


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_get_every_command_and_setting(shell: str, capsys: Any) -> None:
    assert main([shell]) == 0
    script = capsys.readouterr().out
    assert all(name in script for name in COMMANDS)
    assert "optim.schedule=" in script and "endpoint.instance_type=" in script
