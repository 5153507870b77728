"""What users type as places and as folders of their own configs."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from codes import problems_of, raises_code

from breedlab.cli.launch import main
from breedlab.config.compose import load
from breedlab.config.overrides import quoted
from breedlab.config.yaml_folders import groups, with_search_path

SAGEMAKER = ["backend=sagemaker", "backend.role=r", "backend.bucket=my-bucket"]


@pytest.mark.parametrize(
    ("word", "tags"),
    [
        ("backend.tags.Cost Center=vision", {"Cost Center": "vision"}),
        ('backend.tags.Cost Center="vision"', {"Cost Center": "vision"}),
        ("backend.tags.Cost Center=12 / 7 (=x)", {"Cost Center": "12 / 7 (=x)"}),
        ("backend.tags.team:owner=it's mine", {"team:owner": "it's mine"}),
        ("backend.tags.team:owner=1", {"team:owner": "1"}),
        ('backend.tags={"Cost Center": vision}', {"Cost Center": "vision"}),
        ('backend.tags={"team:owner": "1", b: c}', {"team:owner": "1", "b": "c"}),
        ('backend.tags={team:owner: "vision"}', {"team:owner": "vision"}),
    ],
)
def test_what_is_said_of_a_tag_that_cannot_be_read_works(word: str, tags: dict[str, str]) -> None:
    with raises_code("BL106") as caught:
        load([*SAGEMAKER, word])
    (advice,) = problems_of(caught.value).values()
    typed = shlex.split(advice[advice.index("'backend.tags=") :])
    assert load(["backend=sagemaker", *typed])["backend"]["tags"] == tags


@pytest.mark.parametrize("plus", ["", "+"])
@pytest.mark.parametrize("path", ["backend.tags", "backend.environment"])
def test_a_colon_too_many_is_not_read_as_a_shorter_name(path: str, plus: str) -> None:
    with raises_code("BL106", names=(f"{path}: ", "team:owner: vision", r"team\:owner: vision")):
        load([*SAGEMAKER, f"{plus}{path}={{a: b, team:owner: vision}}"])


@pytest.mark.parametrize(
    ("written", "tags"),
    [
        (r"{team\:owner: vision}", {"team:owner": "vision"}),
        ("{team: 'owner: vision'}", {"team": "owner: vision"}),
        ("{page: https://a.example:80/x}", {"page": "https://a.example:80/x"}),
    ],
)
def test_colons_that_are_meant_are_read(written: str, tags: dict[str, str]) -> None:
    assert load([*SAGEMAKER, f"backend.tags={written}"])["backend"]["tags"] == tags


NAMES = [
    "archive (1)",
    "photos(copy)",
    "/mnt/c/Program Files (x86)/photos",
    "r [a]=1,b",
    "it's",
    "a{b",
    "a#b",
    "2024",
]


@pytest.mark.parametrize(
    "name", [*NAMES, "true", "1e5", "C:\\photos\\", 'a "b" (c)', "\\\\nas\\x (1)", "50% off", "$5"]
)
@pytest.mark.parametrize("path", ["data.root", "runs_dir", "cache.dir", "model.weights"])
def test_a_place_is_taken_as_it_is_written(path: str, name: str) -> None:
    tree = load(["experiment=quickstart", "data=image_folder", "data.root=p", f"{path}={name}"])
    node = tree
    for part in path.split("."):
        node = node[part]
    assert node == name


def test_quotes_lists_of_a_grid_and_null_stay_what_they_are() -> None:
    words = [
        'data.root="a (1)"',
        "data.root=a,b",
        "data.root=null",
        "data.root=${oc.env:PHOTOS}",
        "optim.lr=1",
    ]
    assert quoted(words) == words


@pytest.mark.parametrize("word", ["name=a(b)", "monitor.metric=valid(1)", "optim.lr=x(2)"])
def test_parentheses_elsewhere_are_one_problem(word: str) -> None:
    key = word.partition("=")[0]
    with raises_code("BL106") as caught:
        load(["experiment=quickstart", word])
    (problem,) = problems_of(caught.value).items()
    assert problem[0] == key and f"{key}=" in problem[1]  # how to write it


def test_the_same_in_a_grid(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "experiment=resnet34",
        "data=image_folder",
        "data.root=photos (1)",
        "optim.lr=0.1,0.2",
        "dry_run=true",
    ]
    assert main(["-m", *words]) == 1  # there are no such images
    assert capsys.readouterr().err.count("data.root: photos (1) does not exist") == 2


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A folder of configs of one's own, in a folder whose name is none of Hydra's liking."""
    folder = tmp_path / "my conf (1)"
    (folder / "experiment").mkdir(parents=True)
    (folder / "optim").mkdir()
    (folder / "experiment" / "mine.yaml").write_text(
        "# @package _global_\ndefaults: [quickstart, override /optim: ours, _self_]\nname:"
        " mine\nseed: 99\n"
    )
    (folder / "optim" / "ours.yaml").write_text("defaults: [adam, _self_]\nlr: 0.123\n")
    return folder


@pytest.mark.parametrize("form", ["two words", "one word", "searchpath"])
def test_configs_of_ones_own_are_choices_like_all_others(own: Path, form: str) -> None:
    searchpath = f'hydra.searchpath=["{own}"]'
    flags = {
        "two words": ["--config-dir", str(own)],
        "one word": [f"--config-dir={own}"],
        "searchpath": [searchpath],
    }
    words = with_search_path([*flags[form], "experiment=mine"])
    assert {"mine", "quickstart"} <= set(groups(words)["experiment"])
    tree = load(words)
    assert (tree["name"], tree["seed"], tree["optim"]["lr"]) == ("mine", 99, 0.123)
    assert "hydra" not in tree
    with raises_code("BL103", names="did you mean mine"):
        load([*words, "experiment=mime"])


def test_configs_of_ones_own_with_every_flag(
    own: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--config-dir", str(own), "experiment=mine", "--cfg", "job"]) == 0
    assert "name: mine" in capsys.readouterr().out
    assert main(["--config-dir", str(own), "--help"]) == 0
    assert "mine" in capsys.readouterr().out
    assert (
        main(
            ["-m", "--config-dir", str(own), "experiment=mine", "optim.lr=0.1,0.2", "dry_run=true"]
        )
        == 0
    )
    assert capsys.readouterr().out.count("runs/mine/") == 2
    assert list(here.iterdir()) == [own]


def test_a_folder_that_is_not_there_is_one_message(tmp_path: Path) -> None:
    with raises_code("BL107", names=("--config-dir", "nowhere")):
        with_search_path(["--config-dir", str(tmp_path / "nowhere"), "experiment=mine"])


@pytest.mark.parametrize(
    "word", ["hydra.run.dir=out", "hydra.output_subdir=out", "hydra.sweep.dir=out"]
)
def test_a_dry_run_makes_no_folder_of_hydras(here: Path, word: str) -> None:
    assert main(["experiment=quickstart", "dry_run=true", word]) == 0
    assert list(here.iterdir()) == []


@pytest.mark.slow
def test_configs_of_ones_own_with_an_installed_wheel(own: Path, site: Path, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "breedlab.cli",
        "launch",
        "--config-dir",
        str(own),
        "experiment=mine",
        "--cfg",
        "job",
    ]
    told = subprocess.run(
        command,
        cwd=tmp_path,
        env={"PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "name: mine" in told.stdout
