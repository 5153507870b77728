"""What strangers look for in a repository, and that it says the same as the package does."""

from __future__ import annotations

import platform
import re
import subprocess
import sys
import tomllib
from importlib import import_module, metadata
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


@pytest.mark.skipif(
    sys.version_info[:2] != (3, 11) or (sys.platform, platform.machine()) != ("linux", "x86_64"),
    reason="the notices are of Python 3.11 on Linux",
)
def test_the_third_party_notices_are_those_of_the_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    """`make notices` writes them again after `make lock`."""
    monkeypatch.syspath_prepend(ROOT / "docs" / "make")
    notices = import_module("notices")
    try:
        page = notices.page()
    except metadata.PackageNotFoundError as error:
        pytest.skip(f"{error.name} is not installed; make .venv/dev installs every extra")
    assert notices.OUTPUT.read_text() == page
    for name in ("torch", "smdebug", "altair", "openvino", "sagemaker", "mlflow", "onnx"):
        assert f"| {name} | {notices.locked()[name]} | " in page


def test_the_prose_linter_finds_nothing_in_the_pages_and_something_in_a_bad_one(
    tmp_path: Path,
) -> None:
    proselint = Path(sys.executable).with_name("proselint")
    if not proselint.exists():
        pytest.skip("proselint is not installed")
    bad = tmp_path / "bad.md"
    bad.write_text("This is very unique, and we utilize it to to the full.\n")
    pages = [*ROOT.glob("[!T]*.md"), *(ROOT / "docs").rglob("*.md")]  # no names of packages
    for files, status in (([bad], 1), (pages, 0)):
        ended = subprocess.run(
            [proselint, "check", *files], cwd=ROOT, capture_output=True, text=True
        )
        assert ended.returncode == status, ended.stdout


@pytest.mark.parametrize("repository", ["", "someone/breedlab"])
def test_a_package_names_the_repository_that_builds_it(
    repository: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("hatchling")
    from hatchling.metadata.core import ProjectMetadata
    from hatchling.plugin.manager import PluginManager

    monkeypatch.setenv("GITHUB_REPOSITORY", repository)
    monkeypatch.setenv("GITHUB_SERVER_URL", "https://github.com")
    core = ProjectMetadata(str(ROOT), PluginManager()).core
    assert core.readme_content_type == "text/markdown" and core.readme.startswith("# breedlab")
    if not repository:
        assert not core.urls and "](docs/start.md)" in core.readme
        return
    home = f"https://github.com/{repository}"
    assert core.urls["Homepage"] == home and {"Documentation", "Changelog", "Issues"} < {*core.urls}
    assert f"({home}/raw/main/docs/images/demo.svg)" in core.readme
    assert f"[Start in five minutes]({home}/blob/main/docs/start.md)" in core.readme
    assert not re.findall(r"\]\((?!https:|#)[^)]*\)", core.readme)
