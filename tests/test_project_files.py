"""What strangers look for in a repository, and that it says the same as the package does."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

from breedlab import __version__

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_the_citation_has_the_packages_name_version_and_license() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert (citation["title"], str(citation["version"])) == (PROJECT["name"], __version__)
    assert citation["license"] == PROJECT["license"]
    assert [author["name"] for author in citation["authors"]] == [
        author["name"] for author in PROJECT["authors"]
    ]


def test_the_changelog_has_a_section_for_what_is_not_released_yet() -> None:
    assert re.search(r"^## \[?Unreleased\]?", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)


def test_the_install_page_has_every_extra_and_no_other() -> None:
    rows = re.findall(
        r"^\| `([a-z]+)` \|", (ROOT / "docs" / "install.md").read_text(), re.MULTILINE
    )
    assert sorted(rows) == sorted(PROJECT["optional-dependencies"])


def test_all_is_every_extra_but_those_that_say_why_not() -> None:
    (line,) = PROJECT["optional-dependencies"]["all"]
    named = re.fullmatch(r"breedlab\[([a-z,]+)\]", line)
    assert named and {*named[1].split(","), "all", "dev", "onnx"} == {
        *PROJECT["optional-dependencies"]
    }


@pytest.mark.parametrize(
    "form", sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml")), ids=lambda form: form.stem
)
def test_an_issue_form_is_one_that_github_takes(form: Path) -> None:
    tree = yaml.safe_load(form.read_text())
    assert {"name", "description", "body"} <= set(tree)
    labels = [field["attributes"]["label"] for field in tree["body"] if field["type"] != "markdown"]
    assert labels and len(labels) == len(set(labels))


@pytest.mark.parametrize(
    "page",
    [
        "CODE_OF_CONDUCT.md",
        "CONTRIBUTING.md",
        "SECURITY.md",
        "ARCHITECTURE.md",
        "CHANGELOG.md",
        "README.md",
    ],
)
def test_a_page_names_no_file_that_is_not_there(page: str) -> None:
    text = (ROOT / page).read_text()
    linked = re.findall(r"\]\((?!https?:|#|mailto:)([^)#]+)", text)
    assert all((ROOT / name).exists() for name in linked), linked


def test_no_file_of_a_run_or_a_build_is_tracked() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a checkout")
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--ignored", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert listing.stdout.split() == []
