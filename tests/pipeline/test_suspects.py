"""Labels that are probably wrong, in a run's fixes.csv."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from breedlab.config import Config
from breedlab.data.fixes import LABEL
from breedlab.pipeline.run import run


def test_a_planted_wrong_label_leads_the_list_and_the_report(
    configure: Callable[..., Config], here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Reddish, greenish, and bluish images, one of them in the wrong folder."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 16), ("valid", 6), ("test", 6)):
        for channel, name in enumerate(("red", "green", "blue")):
            folder = here / "photos" / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 120, (48, 48, 3))
                pixels[..., channel] += 80
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.png")
    (here / "photos/train/blue/0.png").rename(here / "photos/train/red/wrong.png")
    # whose random features tell the colors apart
    words = ("model.name=resnet18", "model.head_type=logistic")
    result = run(configure(f"data.root={here / 'photos'}", *words), [])
    first = next(csv.DictReader((result.run / "fixes.csv").open()))
    assert (first["file"], first["split"]) == ("train/red/wrong.png", "train")
    assert (first["label"], first["suggested"], first["why"]) == ("red", "blue", LABEL)
    assert "1 label is probably wrong" in " ".join(capsys.readouterr().out.split())
    assert "wrong.png" in (result.run / "report.html").read_text()
