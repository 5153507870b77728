"""What comes from the environment is used everywhere, and written down nowhere but by the
variable's name."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from codes import raises_code

from breedlab.cli.launch import main
from breedlab.config import validate
from breedlab.config.compose import load
from breedlab.config.environment import resolved
from breedlab.config.validate import replace

CANARY = "canary8731zz"
Words = Callable[..., list[str]]


@pytest.fixture
def canary(here: Path, image_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An environment of secrets: a token, and the place of the images, whose name is one, too."""
    (here / CANARY).symlink_to(image_folder)
    monkeypatch.setenv("TOKEN", CANARY)
    monkeypatch.setenv("PHOTOS", str(here / CANARY))
    return here


SECRETS = [
    "data.root=${oc.env:PHOTOS}",
    "cache.dir=cache/${oc.env:TOKEN}",
    "+backend.environment.API_TOKEN=${oc.env:TOKEN}",
    "+backend.tags.who=by ${oc.env:TOKEN}",
    "backend.job_name=${oc.env:TOKEN}",
]


def holding(folder: Path, text: str) -> list[str]:
    """The files below a folder that hold a text, in an archive, too."""
    found = []
    for path in folder.rglob("*"):
        if not path.is_file():
            continue
        contents = [path.read_bytes()]
        if path.name.endswith(".tar.gz"):
            with tarfile.open(path) as archive:
                contents += [
                    file.read() for member in archive if (file := archive.extractfile(member))
                ]
        if text in str(path) or any(text.encode() in content for content in contents):
            found.append(str(path))
    return found


def test_a_run_writes_no_value_of_the_environment(
    canary: Path, words: Words, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    search = ["tuner=random", "tuner.trials=1", "tuner.max_epochs=1", "tuner.space.optim.lr=[0.01]"]
    assert main([*words(*search, "debugger=default", "profiler=system"), *SECRETS]) == 0
    said = capsys.readouterr()
    assert CANARY not in said.out + said.err
    assert holding(canary / "runs", CANARY) == []
    recorded = yaml.safe_load((canary / "runs/latest/config.yaml").read_text())
    assert recorded["data"]["root"] == "${oc.env:PHOTOS}"
    assert recorded["cache"]["dir"] == "cache/${oc.env:TOKEN}"
    assert recorded["backend"]["tags"] == {"who": "by ${oc.env:TOKEN}"}
    assert (
        json.loads((canary / "runs/latest/lineage.json").read_text())["data"]["root"]
        == "${oc.env:PHOTOS}"
    )
    page = (canary / "runs/latest/report.html").read_text()
    assert "data:image" in page, "the images were found all the same"

    # It goes on where the variables are set, and says which are not where they are not.
    (canary / "runs/latest/metrics.json").unlink()
    assert main(["resume=runs/latest"]) == 0
    (canary / "runs/latest/metrics.json").unlink()
    monkeypatch.delenv("PHOTOS")
    with raises_code("BL109", names=("data.root", "PHOTOS")):
        main(["resume=runs/latest"])
    assert main(["resume=runs/latest", f"data.root={canary / CANARY}", "dry_run=true"]) == 0


def test_a_dry_run_and_cfg_job_show_the_variable(
    canary: Path, words: Words, capsys: pytest.CaptureFixture[str]
) -> None:
    for flags in (["dry_run=true"], ["--cfg", "job"]):
        assert main([*words(), *SECRETS, *flags]) == 0
        shown = capsys.readouterr().out
        assert "${oc.env:PHOTOS}" in shown and CANARY not in shown, flags


def test_a_problem_of_a_value_does_not_show_it(canary: Path, words: Words) -> None:
    named = ("optim.lr", "'${oc.env:TOKEN}'", "backend.region", "'x ${oc.env:TOKEN}'")
    with raises_code("BL103", names=named) as refused:
        load_and_validate(
            [*words(), "optim.lr=${oc.env:TOKEN}", "backend.region=x ${oc.env:TOKEN}", *SECRETS]
        )
    assert CANARY not in str(refused.value)


def test_a_variable_that_is_not_set_is_named_with_its_field(words: Words) -> None:
    for word in ("data.root=${oc.env:NO_SUCH}", "+backend.tags.who=${oc.env:NO_SUCH}"):
        with raises_code("BL109", names=("NO_SUCH", word.lstrip("+").partition("=")[0])):
            load([*words(), word])


@pytest.mark.parametrize(
    ("word", "text", "value"),
    [
        ("cache.dir=${oc.env:PHOTOS}", "${oc.env:PHOTOS}", "/p"),
        (
            "cache.dir=a-${oc.env:PHOTOS}-${oc.env:TOKEN}",
            "a-${oc.env:PHOTOS}-${oc.env:TOKEN}",
            "a-/p-t",
        ),
        ("cache.dir=${data.root}/c", "${oc.env:PHOTOS}/c", "/p/c"),
        ("cache.dir=${oc.env:NO_SUCH,d}", '${oc.env:NO_SUCH, "d"}', "d"),
        ("cache.dir='${oc.env:NO_SUCH,\"a,}b\"}'", '${oc.env:NO_SUCH, "a,}b"}', "a,}b"),
        ("cache.dir='${oc.env:${oc.env:NAME}}'", "${oc.env:${oc.env:NAME}}", "t"),
        ("name=x${oc.env:TOKEN}", "xt", "xt"),  # it is the folder's name, too
        ("optim.schedule=${oc.env:SCHEDULE}", "cosine", "cosine"),  # what a record is read by
    ],
)
def test_what_is_recorded_gives_the_same_value_again(
    words: Words, monkeypatch: pytest.MonkeyPatch, word: str, text: str, value: str
) -> None:
    for name, held in {"PHOTOS": "/p", "TOKEN": "t", "NAME": "TOKEN", "SCHEDULE": "cosine"}.items():
        monkeypatch.setenv(name, held)
    path = word.partition("=")[0].split(".")
    config = validate(load([*words(), "data.root=${oc.env:PHOTOS}", word]))
    for same in (config, replace(config, {"optim.lr": 0.5}), config.model_copy(update={"seed": 1})):
        recorded = yaml.safe_load(yaml.safe_dump(same.recorded()))
        tree, missing = resolved(recorded)
        assert at(recorded, path) == text and at(tree, path) == value and not missing
        assert validate(tree).recorded() == recorded
    assert at(config.model_dump(), path) == value


def at(tree: object, path: list[str]) -> object:
    for part in path:
        assert isinstance(tree, dict)
        tree = tree[part]
    return tree


def load_and_validate(words: list[str]) -> None:
    validate(load(words))


def test_the_source_of_a_job_holds_no_value_and_the_job_reads_it(
    canary: Path, words: Words, tmp_path: Path
) -> None:
    pytest.importorskip("boto3")
    from breedlab.backends.sagemaker.jobs.source import write_source

    config = validate(load([*words(), *SECRETS]))
    (tmp_path / "source").mkdir()
    write_source(tmp_path / "source", config)
    assert holding(tmp_path / "source", CANARY) == []
    script = (
        "import sys; sys.modules['omegaconf'] = sys.modules['hydra'] = None\n"  # a job has neither
        "from pathlib import Path\n"
        "from breedlab.backends.sagemaker.jobs.job import Job, job_config, read_config\n"
        "here = Path('.'); job = Job('j', 'run', {}, {'training': here / 'in'}, here, here, here,"
        " 0, 1, 1)\n"
        "print(job_config(read_config(Path('source')), job)[0].data.root)"
    )
    environment = {
        name: value for name, value in os.environ.items() if name not in ("TOKEN", "PHOTOS")
    }
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.stdout == "in\n", done.stderr


LITERAL = "\\${oc.env:TOKEN}"


@pytest.mark.parametrize(
    ("word", "path", "value", "text"),
    [
        (f"data.root={LITERAL}", "data.root", "${oc.env:TOKEN}", LITERAL),
        (f"data.root='{LITERAL}'", "data.root", "${oc.env:TOKEN}", LITERAL),
        (f"runs_dir={LITERAL}/a", "runs_dir", "${oc.env:TOKEN}/a", f"{LITERAL}/a"),
        (
            f"cache.dir=${{oc.env:TOKEN}}/{LITERAL}",
            "cache.dir",
            f"{CANARY}/${{oc.env:TOKEN}}",
            f"${{oc.env:TOKEN}}/{LITERAL}",
        ),
        (f"+backend.tags.who='{LITERAL}'", "backend.tags.who", "${oc.env:TOKEN}", LITERAL),
    ],
)
def test_a_variable_behind_a_backslash_is_a_text(
    canary: Path, words: Words, word: str, path: str, value: str, text: str
) -> None:
    """A folder may be named so, and its name must not become what the variable holds."""
    config = validate(load([*words(), word]))
    for same in (config, replace(config, {"optim.lr": 0.5}), validate(config.tree())):
        assert at(same.tree(), path.split(".")) == value
        recorded = yaml.safe_load(yaml.safe_dump(same.recorded()))
        assert at(recorded, path.split(".")) == text
        assert CANARY not in yaml.safe_dump(recorded)
        tree, missing = resolved(recorded)
        assert at(tree, path.split(".")) == value and not missing
        assert validate(tree).recorded() == recorded


def test_a_job_takes_no_escaped_variable_from_the_shell(canary: Path, words: Words) -> None:
    config = validate(load([*words(), f"+backend.environment.NOTE='{LITERAL}'"]))
    assert config.backend.environment == {"NOTE": LITERAL}
    assert resolved(config.recorded())[0]["backend"]["environment"] == {"NOTE": LITERAL}


def test_images_in_a_folder_that_looks_like_a_variable_are_found_again(
    canary: Path, image_folder: Path, words: Words
) -> None:
    (canary / "${oc.env:TOKEN}").symlink_to(image_folder)
    assert main([*words("debugger=none", "profiler=none"), f"data.root={LITERAL}"]) == 0
    run = canary / "runs/latest"
    assert holding(canary / "runs", CANARY) == []
    assert yaml.safe_load((run / "config.yaml").read_text())["data"]["root"] == LITERAL
    assert "data:image" in (run / "report.html").read_text(), "the images were found again"
    (run / "metrics.json").unlink()
    assert main(["resume=runs/latest"]) == 0
