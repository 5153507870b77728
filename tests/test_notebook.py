"""The notebook, run as a person runs it: every cell, from the first to the last."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

BOOK = Path(__file__).resolve().parents[1] / "notebooks" / "dog_breeds.ipynb"
SHORT = [
    "tuner.trials=3",
    "tuner.max_epochs=2",
    "trainer.max_epochs=4",
    "data.sample.train=12",
    "data.num_workers=0",
]


@pytest.fixture(scope="module")
def book() -> Any:
    return nbformat.read(BOOK, as_version=4)


def test_the_notebook_is_kept_without_outputs_and_in_a_dozen_short_cells(book: Any) -> None:
    cells = [cell for cell in book.cells if cell.cell_type == "code"]
    assert len(cells) <= 14
    assert max(cell.source.count("\n") for cell in cells) < 18
    assert all(cell.outputs == [] and cell.execution_count is None for cell in cells)


@pytest.mark.slow
def test_the_notebook_goes_the_whole_way(
    book: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join(str(path) for path in (BOOK.parents[1] / "src",))
    )
    (parameters,) = [cell for cell in book.cells if "parameters" in cell.metadata.get("tags", [])]
    parameters.source = parameters.source.replace(
        '["experiment=quickstart"]', repr(["experiment=quickstart", *SHORT])
    )
    assert "tuner.trials=3" in parameters.source
    done = NotebookClient(
        book, timeout=420, resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    said = {
        cell.id: "".join(_text(output) for output in cell.outputs)
        for cell in done.cells
        if "outputs" in cell
    }
    whole = "\n".join(said.values())
    assert "dry run: nothing is started" in whole
    found = json.loads((tmp_path / "runs" / "latest" / "metrics.json").read_text())["search"][
        "values"
    ]
    steps = 4 * math.ceil(96 / found["data.batch_size"])
    assert f"'TRAIN': {steps}, 'EVAL': " in whole  # every step of 4 epochs
    assert "LossNotDecreasing" in whole and "CPUBottleneck" in whole
    assert "8 scores; it is a " in whole
    assert (tmp_path / "runs" / "latest" / "report.html").is_file()
    deployed = next(cell for cell in done.cells if cell.source.startswith("endpoint = "))
    assert "http://127.0.0.1:" in _text(deployed.outputs[-1])


def _text(output: Any) -> str:
    return (
        str(output.get("text", ""))
        + str(output.get("data", {}).get("text/plain", ""))
        + _html(output)
    )


def _html(output: Any) -> str:
    return str(output.get("data", {}).get("text/html", ""))
