"""`breedlab launch` as a person meets it: help, flags, grids, resuming, exit codes, and how fast it
answers."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from math import prod
from pathlib import Path

import pytest
import yaml
from codes import Names, check_names

from breedlab.cli.launch import main
from breedlab.config import validate
from breedlab.config.compose import load
from breedlab.config.yaml_folders import groups
from breedlab.errors import BreedlabError
from breedlab.pipeline.rundir import write_yaml

Launch = Callable[..., tuple[int, str, str]]

# Runs one command like scripts/*.py do, then tells which heavy packages it imported.
_PROBE = """
import sys
from breedlab.cli import run
sys.argv = ["breedlab launch", *sys.argv[1:]]
try:
    run("launch")
except SystemExit as end:
    heavy = {"torch", "torchvision", "lightning", "sagemaker", "optuna", "timm", "smdebug"} & sys.modules.keys()
    print(f"heavy: {sorted(heavy)}")
    raise
"""  # noqa: E501


@pytest.fixture
def launch(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Launch:
    """Runs `launch` in this process and an empty folder: exit code (of the error, if any), stdout,
    stderr."""
    monkeypatch.setattr(sys, "argv", ["launch"])
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")

    def run(*words: str) -> tuple[int, str, str]:
        try:
            code, message = main(list(words)), ""
        except BreedlabError as error:
            code, message = error.exit_code, error.shown()
        printed = capsys.readouterr()
        assert "Traceback" not in printed.err + message
        return code, printed.out, printed.err + message

    return run


def in_a_process(*words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", _PROBE, *words],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "COLUMNS": "200"},
    )


@pytest.mark.parametrize("word", ["--help", "-h"])
def test_help_names_every_group_with_its_choices_and_shows_examples(
    word: str, launch: Launch
) -> None:
    code, out, err = launch("experiment=resnet34", word)
    assert (code, err) == (0, "")
    for group, choices in groups().items():
        assert any(
            line.split() == f"{group} {', '.join(choices)}".split() for line in out.splitlines()
        )
    assert out.count("\n  breedlab launch ") >= 5
    for thing in ("dry_run=true", "resume=", "-m", "--cfg job", "data=image_folder"):
        assert thing in out


def test_the_examples_of_the_help_can_be_planned(launch: Launch) -> None:
    _, out, _ = launch("--help")
    examples = [
        line.split()[2:] for line in out.splitlines() if line.startswith("  breedlab launch")
    ]
    needs_nothing = [
        words
        for words in examples
        if not any(word.startswith(("resume=", "experiment=NAME", "data.root=")) for word in words)
    ]
    assert len(needs_nothing) >= 4
    for words in needs_nothing:
        code, plans, err = launch(*words, *([] if "dry_run=true" in words else ["dry_run=true"]))
        assert (code, err) == (0, "")
        assert plans.count("dry run: nothing is started") == prod(
            word.count(",") + 1 for word in words
        )


def test_cfg_job_prints_the_whole_config(launch: Launch, here: Path) -> None:
    code, out, _ = launch("--cfg", "job", "--resolve", "experiment=resnet34_hpo", "optim.lr=0.5")
    assert code == 0
    assert yaml.safe_load(out) == load(["experiment=resnet34_hpo", "optim.lr=0.5"])
    assert list(here.iterdir()) == []


def test_cfg_job_shows_names_of_ones_own_and_a_space_as_it_was_changed(
    launch: Launch, here: Path
) -> None:
    """Hydra is not told of these: it would merge them, or know no such name."""
    words = ["experiment=resnet34_hpo", "backend.tags.team=vision", "+backend.environment.DEPTH=3"]
    code, out, _ = launch("--cfg", "job", *words, "tuner.space.optim.lr=[0.1,0.2]")
    tree = yaml.safe_load(out)
    assert code == 0
    assert tree["backend"]["tags"] == {"team": "vision"}
    assert str(tree["backend"]["environment"]["DEPTH"]) == "3"
    assert tree["tuner"]["space"]["optim"]["lr"] == [0.1, 0.2]
    assert tree == load([*words, "tuner.space.optim.lr=[0.1,0.2]"])


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["--lr", "0.1"], ("--lr: ", " optim.lr=")),
        (["--lr=0.1"], ("--lr: ", " optim.lr=0.1")),
        (["--optim.lr=0.1"], ("--optim.lr: ", " optim.lr=0.1")),
        (["--batch-size=32"], ("--batch-size: ", " data.batch_size=32")),
        (["--whatever=3"], ("--whatever: ", "path=value")),
        (["-lr=0.1"], "-lr: "),
    ],
)
def test_a_flag_as_other_tools_have_it_is_answered_with_the_way_to_write_it(
    words: list[str], names: Names, launch: Launch, here: Path
) -> None:
    code, out, err = launch("experiment=quickstart", *words)
    assert (code, out) == (2, "")
    assert err.startswith("[BL107] ")
    check_names(err, names)
    assert len(err.splitlines()) == 1
    assert list(here.iterdir()) == []


def test_several_values_need_the_flag_of_a_grid(launch: Launch, here: Path) -> None:
    code, _, err = launch("optim.lr=0.1,0.2")
    assert code == 2
    assert err.startswith("[BL106] ")
    check_names(err, ("optim.lr: ", "0.1,0.2", "-m"))
    assert list(here.iterdir()) == []


def test_a_grid_plans_every_combination_under_its_words_and_leaves_nothing(
    launch: Launch, here: Path
) -> None:
    code, out, err = launch(
        "-m", "experiment=quickstart,resnet34", "trainer.max_epochs=3", "dry_run=true"
    )
    assert (code, err) == (0, "")
    assert [line for line in out.splitlines() if line.startswith("── ")] == [
        "── 1: experiment=quickstart trainer.max_epochs=3",
        "── 2: experiment=resnet34 trainer.max_epochs=3",
    ]
    assert list(here.iterdir()) == []
    plans = out.split("experiment ")[1:]
    assert [plan.partition(" ")[0] for plan in plans] == ["quickstart", "resnet34"]
    assert all("3 epochs x" in plan for plan in plans)


@pytest.mark.parametrize(
    ("word", "code", "names"),
    [
        ("optim.lrr=0.1,0.2", "BL101", ("optim.lrr: ", "optim.lr?")),
        (
            "experiment=quickstart,resnet43",
            "BL103",
            ("experiment: ", "'resnet43'", "auto, quickstart, resnet34"),
        ),
        ("optim.lr=[0.1", "BL106", ("optim.lr: ", "'[0.1'")),
    ],
)
def test_a_typo_in_a_grid_starts_none_of_it(
    word: str, code: str, names: Names, launch: Launch, here: Path
) -> None:
    status, out, err = launch("-m", word, "dry_run=true")
    assert (status, out) == (2, "")
    assert err.startswith(f"[{code}] ")
    check_names(err, names)
    assert list(here.iterdir()) == []


# What the run to continue was started with; another experiment than the one without words.
STARTED = ["experiment=resnet34", "model.name=resnet18", "model.weights=none", "optim.lr=0.002"]


@pytest.fixture
def recorded(here: Path) -> Path:
    """A run directory as far as resuming reads it before anything starts."""
    run = here / "runs" / "resnet34" / "yesterday"
    run.mkdir(parents=True)
    write_yaml(run / "config.yaml", validate(load(STARTED)).model_dump())
    write_yaml(run / "overrides.yaml", STARTED)
    return run


def test_a_run_is_continued_with_the_config_it_was_started_with(
    recorded: Path, launch: Launch
) -> None:
    code, out, err = launch(f"resume={recorded}", "dry_run=true")
    assert (code, err) == (0, "")
    assert "network   resnet18, weights none" in out
    assert f"output    {recorded}/" in out
    assert sorted(path.name for path in recorded.iterdir()) == ["config.yaml", "overrides.yaml"]


def test_words_that_agree_with_the_record_are_no_contradiction(
    recorded: Path, launch: Launch
) -> None:
    code, out, err = launch(*STARTED, f"resume={recorded}", "dry_run=true")
    assert (code, err) == (0, "")
    assert "network   resnet18, weights none" in out


def test_words_that_contradict_the_record_are_listed_with_both_values(
    recorded: Path, launch: Launch
) -> None:
    code, out, err = launch(
        *STARTED, f"resume={recorded}", "optim.lr=0.5", "model.head=[64]", "dry_run=true"
    )
    assert (code, out) == (2, "")
    title, *lines = err.splitlines()
    assert title.startswith("[BL110] resume: ")
    assert str(recorded) in title
    assert [line.strip() for line in lines] == [
        "model.head: recorded [512, 256], given [64]",
        "optim.lr: recorded 0.002, given 0.5",
    ]


def test_only_what_was_typed_is_called_given(recorded: Path, launch: Launch) -> None:
    code, _, err = launch(f"resume={recorded}", "optim.lr=0.5", "dry_run=true")
    assert code == 2
    assert [line.strip() for line in err.splitlines()[1:]] == [
        "optim.lr: recorded 0.002, given 0.5"
    ]


def test_a_word_that_agrees_needs_no_others(recorded: Path, launch: Launch) -> None:
    code, _, err = launch(f"resume={recorded}", "optim.lr=0.002", "dry_run=true")
    assert (code, err) == (0, "")


@pytest.mark.parametrize(
    ("content", "code", "named"),
    [
        (None, "BL110", "config.yaml"),
        ("", "BL110", "config.yaml"),
        ("optim: {lr: [", "BL110", "config.yaml"),
        ("name: x\n", "BL102", "config.yaml"),
    ],
    ids=["no record", "empty record", "broken record", "record of something else"],
)
def test_a_folder_that_is_no_run_is_one_message(
    content: str | None, code: str, named: str, here: Path, launch: Launch
) -> None:
    folder = here / "folder"
    folder.mkdir()
    if content is not None:
        (folder / "config.yaml").write_text(content)
    status, out, err = launch(f"resume={folder}")
    assert (status, out) == (2, "")
    assert err.startswith(f"[{code}] ")
    check_names(err, (named, folder))


def test_a_run_that_is_not_there_is_one_message(here: Path, launch: Launch) -> None:
    code, _, err = launch("resume=runs/nowhere")
    assert code == 2
    assert (
        err == "[BL110] resume: runs/nowhere does not exist; expected a run directory such as"
        " runs/<experiment>/<stamp>"
    )
    assert list(here.iterdir()) == []


def test_images_that_are_gone_are_asked_for_with_the_command(
    recorded: Path, here: Path, launch: Launch
) -> None:
    config = yaml.safe_load((recorded / "config.yaml").read_text())
    config["data"] |= {"root": "gone/dogs", "archive": None}
    write_yaml(recorded / "config.yaml", config)
    code, _, err = launch(f"resume={recorded}")
    assert code and "gone/dogs, which does not exist" in err and str(here) in err
    assert f"resume={recorded} data.root=DIR" in err


def test_a_checkpoint_in_place_of_a_run_is_one_message(here: Path, launch: Launch) -> None:
    (here / "last.ckpt").touch()
    code, _, err = launch("resume=last.ckpt")
    assert code == 2 and err.startswith("[BL110] ")
    check_names(err, ("last.ckpt", "runs/<experiment>/<stamp>"))


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["--help"], 0, "Groups and their choices"),
        (["optim.lrr=0.1"], 2, "[BL101] "),
        (["experiment=quickstart", "dry_run=true"], 0, "dry run: nothing is started"),
    ],
    ids=["help", "typo", "dry run"],
)
def test_an_answer_that_needs_nothing_heavy_imports_nothing_heavy(
    words: list[str], code: int, says: str, here: Path
) -> None:
    ended = in_a_process(*words, folder=here)
    assert ended.returncode == code
    assert says in (ended.stderr if code else ended.stdout)
    assert "Traceback" not in ended.stderr
    assert ended.stdout.endswith("heavy: []\n")
    if code:
        assert ended.stdout == "heavy: []\n"  # errors go to stderr alone
    else:
        assert ended.stderr == ""
    assert list(here.iterdir()) == []


def test_a_job_that_fails_does_not_stop_a_grid_and_is_told_once(here: Path) -> None:
    ended = in_a_process("-m", "optim.lr=-1,0.1", "dry_run=true", folder=here)
    assert ended.returncode == 1
    problem = "optim.lr: got -1; expected a number greater than 0"
    assert ended.stderr.splitlines() == ["[BL103] config: 1 problem", f"  {problem}"]
    assert ended.stdout.count("dry run: nothing is started") == 1
    (summary,) = here.glob("runs/grids/*/summary.json")
    failed, planned = json.loads(summary.read_text())
    assert problem in failed["error"]
    assert "error" not in planned


def test_a_missing_folder_is_one_message(launch: Launch, here: Path) -> None:
    code, out, err = launch("data=image_folder", "data.root=nowhere", "dry_run=true")
    assert (code, out) == (2, "")
    expected = "expected a folder such as ROOT/train/<class>/photo.jpg"
    assert err == f"[BL200] data.root: nowhere does not exist; {expected}"
    assert list(here.iterdir()) == []


def test_a_grid_leaves_warnings_to_be_heard(words: Callable[..., list[str]], here: Path) -> None:
    logging.getLogger("breedlab.serving.engines.eager")  # is there by the grid's second run
    assert main(["-m", *words("name=grid", "optim.lr=0.001,0.01", "dry_run=true")]) == 0
    assert logging.getLogger("breedlab.serving.engines.eager").isEnabledFor(logging.WARNING)


def test_without_words_it_prints_how_to_use_it_and_starts_nothing(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([]) == 2
    said = capsys.readouterr()
    assert "experiment=NAME" in said.out + said.err
    assert list(here.iterdir()) == []
