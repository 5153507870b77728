"""The commands as processes, and what a run that cannot start leaves behind."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import preloaded
import pytest
from codes import raises_code

from breedlab.cli.launch import main
from breedlab.config import Config, validate
from breedlab.config.compose import load
from breedlab.config.yaml_folders import config_folder
from breedlab.pipeline.rundir import write_yaml

LAUNCH = config_folder().parent / "scripts" / "launch.py"
BREEDLAB = Path(sys.executable).with_name("breedlab")

# Several commands in one process, then the heavy packages that they imported.
_PROBE = """
import sys
from breedlab.cli.launch import main
for words in sys.argv[1].split(";"):
    assert main(words.split()) == 0
heavy = {"torch", "torchvision", "lightning", "sagemaker", "optuna", "timm", "smdebug"} & sys.modules.keys()
print(f"heavy: {sorted(heavy)}")
"""  # noqa: E501


def process(*words: str | Path, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *words], cwd=folder, capture_output=True, text=True, timeout=60
    )


@pytest.fixture
def recorded(here: Path) -> Callable[..., Path]:
    """Makes a run directory as far as resuming reads it before anything starts."""

    def make(*words: str) -> Path:
        config: Config = validate(load([*words]))
        run = here / "runs" / config.name / "yesterday"
        run.mkdir(parents=True)
        write_yaml(run / "config.yaml", config.model_dump())
        write_yaml(run / "overrides.yaml", list(words))
        return run

    return make


def test_the_script_says_errors_on_stderr_and_ends_with_2(here: Path) -> None:
    ended = process(LAUNCH, "optim.lr=-1", "seed=x", folder=here)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.splitlines() == [
        "[BL103] config: 2 problems",
        "  seed: got 'x'; expected a whole number",
        "  optim.lr: got -1; expected a number greater than 0",
    ]
    assert list(here.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "code", "out", "err"),
    [
        (["--help"], 0, "launch      search, train, test, and export", ""),
        ([], 2, "usage: breedlab DIR", ""),
        (["lunch"], 2, "", "[BL107] breedlab: no command 'lunch'"),
        (["deplyo"], 2, "", "deploy?"),
    ],
    ids=["help", "no command", "unknown command", "typo"],
)
def test_the_installed_command_names_its_commands(
    words: list[str], code: int, out: str, err: str, here: Path
) -> None:
    ended = process(BREEDLAB, *words, folder=here)
    assert ended.returncode == code
    assert out in ended.stdout
    assert err in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_reader_that_goes_away_is_no_error_message(here: Path) -> None:
    command = [sys.executable, str(LAUNCH), "--help"]
    with preloaded.FreshPopen(
        command, cwd=here, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        running.stdout.close()  # as `| head` does
        err = running.stderr.read()
    assert (running.returncode, err) == (141, "")


def test_looking_at_a_config_a_grid_or_an_old_run_imports_nothing_heavy(
    here: Path, recorded: Callable[..., Path]
) -> None:
    run = recorded("experiment=quickstart")
    commands = ["--cfg job", "-m seed=1,2 dry_run=true", f"resume={run} dry_run=true"]
    ended = process("-c", _PROBE, ";".join(commands), folder=here)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.endswith("heavy: []\n")


def test_a_run_without_its_images_leaves_nothing_behind(here: Path) -> None:
    with raises_code("BL200", names=("data.root", "nowhere")) as refusal:
        main(["experiment=resnet34", "data=image_folder", "data.root=nowhere"])
    assert refusal.value.exit_code == 2
    assert list(here.iterdir()) == []


def test_a_grid_goes_on_after_each_failure_and_records_them(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["launch"])
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    assert main(["-m", "data=image_folder", "data.root=here,there"]) == 1
    err = capsys.readouterr().err
    told = [line for line in err.splitlines() if " data.root: " in line]
    assert [line.partition("] ")[2] for line in told] == [
        f"data.root: {root} does not exist; expected a folder such as ROOT/train/<class>/photo.jpg"
        for root in ("here", "there")
    ]
    assert "Traceback" not in err
    (summary,) = here.glob("runs/grids/*/summary.json")
    rows = json.loads(summary.read_text())
    assert [row["overrides"].split()[-1] for row in rows] == ["data.root=here", "data.root=there"]
    assert all("does not exist" in row["error"] for row in rows)
    assert [folder.name for folder in (here / "runs").iterdir()] == ["grids"]


def test_a_run_of_another_experiment_is_continued_with_a_word_that_may_differ(
    recorded: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    run = recorded("experiment=resnet34_finetune")
    assert main([f"resume={run}", "runs_dir=elsewhere", "dry_run=true"]) == 0
    assert "experiment resnet34_finetune" in capsys.readouterr().out
    assert not Path("elsewhere").exists()


def test_a_cache_given_for_a_continued_run_is_used(
    recorded: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    run = recorded("experiment=quickstart")
    assert main([f"resume={run}", "cache.dir=other/place", "dry_run=true"]) == 0
    assert "for activations in other/place" in capsys.readouterr().out
