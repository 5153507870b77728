"""A stranger's backend for machines that share a folder with this one only sends, describes, and
ends jobs; the seam does the rest."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from strangers import Write

from breedlab.cli import jobs, launch
from breedlab.registry import BACKENDS

SOURCE = '''
import subprocess
import sys

from breedlab.backends.kinds import BackendKind
from breedlab.backends.shared_folder import SharedFolderBackend, SharedFolderJob
from breedlab.backends.submission import start_words, write_code, write_start
from breedlab.registry import BACKENDS


@BACKENDS.register("nearby")
class Nearby(BackendKind):
    """Processes on this machine."""

    address: str
    """Their shared folder."""

    def build(self):
        return NearbyBackend(self.address)


class NearbyBackend(SharedFolderBackend):
    where = "nearby"

    def __init__(self, storage):
        self.storage = storage

    def plan(self, config, resume):
        return "nearby"

    def check(self, name):
        pass

    def job(self, tree, run):
        return NearbyJob(tree, run)


class NearbyJob(SharedFolderJob):
    def state(self, submission):
        code, log = (self.place / f"{submission}.{kind}" for kind in ("code", "log"))
        if not log.exists():
            return ""
        if not code.exists() or not code.read_text():
            return "running"
        return "complete" if code.read_text() == "0\\\\n" else "failed"

    def lines(self, submission):
        return (self.place / f"{submission}.log").read_text().splitlines()

    def send(self, config, name):
        folder = self.place / f"{name}.source"
        folder.mkdir()
        write_code(folder, config)
        write_start(folder)
        words = start_words(sys.executable, self.place)
        with (self.place / f"{name}.log").open("w") as log:
            shell = ["sh", "-c", '"$@"; echo $? > "$0"', str(self.place / f"{name}.code"), *words]
            subprocess.Popen(shell, cwd=folder, stdout=log, stderr=log)

    def end(self, submission):
        raise NotImplementedError
'''


@pytest.mark.slow
def test_a_run_comes_back_from_the_shared_folder(
    package: Write, here: Path, words: Callable[..., list[str]], capsys: Any
) -> None:
    plugin = package(SOURCE.replace("\\\\", "\\"), "my_nodes")
    place = ["backend.name=nearby", f"backend.nearby.address={here}/shared"]
    assert launch.main(words("experiment=quickstart", plugin, *place, "trainer.max_epochs=1")) == 0
    (run,) = (here / "runs" / "quickstart").iterdir()
    assert json.loads((run / "metrics.json").read_text())["test"]["metrics"]
    assert (here / "shared" / "quickstart" / run.name / "model.tar.gz").is_file()
    said = capsys.readouterr().out
    assert f"breedlab predict runs/quickstart/{run.name}" in said and "epoch 1/1" in said
    # as in another process
    sys.modules.pop("my_nodes")
    BACKENDS._classes.pop("nearby")
    assert jobs.main(["list"]) == 0
    assert "complete" in capsys.readouterr().out
