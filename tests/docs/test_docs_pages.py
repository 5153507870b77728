"""README.md and docs/ say what the code does: commands, flags, settings, and code are real."""

from __future__ import annotations

import argparse
import ast
import contextlib
import re
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml
from documents import (
    CHECKED,
    PAGES,
    ROOT,
    RUN,
    Command,
    blocks,
    commands,
    of_breedlab,
    runner,
    write_own_configs,
)

from breedlab.cli import COMMANDS
from breedlab.config import validate
from breedlab.config.compose import load
from breedlab.config.endpoint import Deploying
from breedlab.config.schema import schema
from breedlab.config.setting import settings
from breedlab.config.yaml_folders import groups, with_search_path

OURS = [command for command in commands(RUN, CHECKED) if of_breedlab(command.args)]


def test_the_readme_is_one_that_people_read_to_its_end() -> None:
    text = (ROOT / "README.md").read_text()
    code = re.compile(r"```python\n(.*?)```", re.S)
    assert len(code.sub("", text).split()) <= 600
    assert text.count("![") == 1
    train_and_predict, _leave = code.findall(text)
    assert len(train_and_predict.splitlines()) <= 10


class Parsed(Exception):
    """argparse took the args; what follows would need a model or an account."""


@pytest.mark.parametrize("command", OURS, ids=str)
def test_a_command_is_one_that_breedlab_takes(
    command: Command, monkeypatch: pytest.MonkeyPatch, own_configs: Path
) -> None:
    name, *args = of_breedlab(command.args) or []
    if name.startswith("-") or "--help" in args or runner(command) == "plugins":
        return  # a test runs these
    if name == "launch":
        takes_overrides(args)
    elif name == "help":
        known = {setting.path for setting in [*settings(Deploying), *settings(schema())]}
        plugins = [word for word in args if "=" in word]
        assert plugins or set(args) <= known
    elif name in COMMANDS:
        # tests/plugins makes the packages, and runs the commands
        parse(name, [word for word in args if not word.startswith("plugins=")], monkeypatch)
    else:  # a folder
        assert "=" not in name and command.args[0] == "breedlab"
        takes_overrides(["experiment=quickstart", "data=image_folder", f"data.root={name}", *args])


def takes_overrides(args: list[str]) -> None:
    """Compose and validate what `launch` is given."""
    args = [re.sub(r"\$[A-Z]+", "us-east-1", word) for word in args]
    if any(word.startswith("plugins=") for word in args):
        return  # tests/plugins makes these packages, and runs them
    words = [word for word in with_search_path(args) if not word.startswith("-")]
    words = [word for word in words if word != "job"]  # --cfg job
    if any(word.startswith("resume=") for word in words):
        words = ["experiment=quickstart", *(w for w in words if not w.startswith("resume="))]
    if "-m" in args or "--multirun" in args:
        words = [re.sub(r"(=[^\[,]+),.*", r"\1", word) for word in words]
    validate(load(words))


def parse(name: str, args: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    original = argparse.ArgumentParser.parse_args

    def parse_args(self: argparse.ArgumentParser, *given: Any, **named: Any) -> Any:
        original(self, *given, **named)
        raise Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_args)
    # `deploy` takes settings as well, which are composed and checked before this.
    monkeypatch.setattr("breedlab.cli.deploy._carry_out", lambda *_: None)
    monkeypatch.setattr(sys, "argv", [f"breedlab {name}", *args])
    args = [re.sub(r"\$[A-Z]+", "us-east-1", word) for word in args]
    with contextlib.suppress(Parsed):
        assert import_module(f"breedlab.cli.{name}").main(args) == 0


@pytest.fixture
def own_configs(here: Path) -> Path:
    """The files that the pages show."""
    write_own_configs(here)
    return here


FOLDERS = ("benchmarks", "conf", "docker", "entry", "notebooks", "src")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_of_the_repository_that_a_page_names_is_there(page: Path) -> None:
    for name in re.findall(r"`([\w./-]+/[\w./-]*)`", page.read_text()):
        if name.startswith(tuple(f"{folder}/" for folder in FOLDERS)) and "NAME" not in name:
            assert (ROOT / name).exists(), f"{page.name}: {name}"


@pytest.fixture(scope="module")
def known_paths() -> set[str]:
    return {setting.path for setting in [*settings(Deploying), *settings(schema())]}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_setting_that_a_page_names_exists(page: Path, known_paths: set[str]) -> None:
    known = known_paths
    sections = {path.split(".")[0] for path in known if "." in path}
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.S | re.M)
    choices = groups()
    for code in re.findall(r"`([^`\n]+)`", text):
        for word in code.split():
            path, equals, value = word.partition("=")
            if path in choices and equals and value not in ("", "NAME"):
                assert set(re.split(r"[|]", value)) <= {*choices[path]}, f"{page.name}: {word}"
            elif re.fullmatch(r"[a-z_]+(\.[a-z_]+)+", path) and path.split(".")[0] in sections:
                assert is_known(path, known), f"{page.name}: {word}"


FILES = (
    ".py",
    ".txt",
    ".md",
    ".txt",
    ".md",
    ".yaml",
    ".json",
    ".html",
    ".csv",
    ".gz",
    ".ckpt",
    ".db",
    ".safetensors",
    ".onnx",
    ".js",
    ".pth",
)
EXAMPLES = (  # of docs/plugins.md, where tests/plugins runs them
    "optim.sign",
    "optim.linear",
    "data.blank",
    "data.stripes",
    "monitor.worst_class",
    "endpoint.detached",
    "tuner.space",
    "debugger.rules",
    "profiler.rules",
)


def is_known(path: str, known: set[str]) -> bool:
    return path in known or path.endswith(FILES) or path.startswith(EXAMPLES)


def test_every_flag_that_a_page_names_is_in_some_help() -> None:
    sys.path.insert(0, str(ROOT / "docs" / "make"))
    reference = import_module("reference")
    helps = reference.commands_page()
    helps += "".join(file.read_text() for file in (ROOT / "benchmarks").glob("*.py"))
    for page in PAGES:
        text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.S | re.M)
        for flag in re.findall(r"`(--[a-z][a-z-]+)", text):
            assert flag in helps, f"{page.name}: {flag}"


@pytest.mark.parametrize("block", blocks("python"), ids=lambda block: block.page.name)
def test_python_in_the_docs_imports_what_is_there(block: Any) -> None:
    for node in ast.walk(ast.parse(block.text)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("breedlab"):
            module = import_module(str(node.module))
            assert all(hasattr(module, alias.name) for alias in node.names)


def test_yaml_in_the_docs_is_yaml() -> None:
    assert all(yaml.safe_load(block.text) for block in blocks("yaml"))


def test_a_generated_page_has_every_setting_command_and_public_name() -> None:
    sys.path.insert(0, str(ROOT / "docs" / "make"))
    reference = import_module("reference")
    config = reference.config_page()
    assert all(
        f"`{setting.path}`" in config for setting in settings(schema()) if setting.section is None
    )
    python = reference.python_page()
    import breedlab

    assert all(f"breedlab.{name}" in python for name in breedlab.__all__)
    pages: dict[str, Callable[[], str]] = reference.PARTS
    assert all(write().count("\n") > 3 for write in pages.values())


def test_the_page_on_refused_int8_has_the_words_of_each_refusal() -> None:
    """It paraphrased them, and nobody found what their own table said."""
    from breedlab.serving.engine_candidates import Candidate
    from breedlab.serving.engine_gate import objection
    from breedlab.serving.engine_kinds import MODULE, OPENVINO, Choice

    module = Candidate(MODULE, agreement=1.0, right=0.95)
    int8 = Choice(OPENVINO, "int8")
    refusals = [
        objection(Candidate(int8, agreement=agreement, right=right), module, images)
        for agreement, right, images in (
            (0.969, 0.95, 9),
            (1, 0.94, 9),
            (1, 0.95, 9),
            (0.98, 0.95, 100),
        )
    ]
    page = (ROOT / "docs" / "how-to" / "engines.md").read_text()
    rows = re.findall(r"^\| (.*?) \|", page.partition("refused. What now?")[2], re.MULTILINE)[1:]
    assert [re.sub(r"[\d.]+", "N", row) for row in rows] == [
        re.sub(r"[\d.]+", "N", refusal.split("; ")[-1]) for refusal in refusals
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_to_a_file_of_the_repository(page: Path) -> None:
    """On a code host the pages are read as they are, without the site's generated ones."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.S | re.M)
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
        if "://" not in target and not target.startswith("mailto:"):
            assert (page.parent / target).exists(), target
