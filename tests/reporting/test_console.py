"""What a person sees in the terminal, and what a program reads in a pipe."""

from __future__ import annotations

import pytest
from rich.console import Console

from breedlab import predict
from breedlab.reporting import console as screen

NAMES = [f"holiday/of a long name/and [b] :dog: {number:04}.jpg" for number in range(3)]
ANSWERS = [
    {"photo": NAMES[0], "predictions": [{"class": "Basset", "probability": 0.75}]},
    {"photo": NAMES[1], "error": "is not an image: it ends in the middle of its header, " + "and more " * 10},
    {"photo": NAMES[2], "predictions": [{"class": "Basset", "probability": 0.5}]},
]


@pytest.fixture
def width(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Of a terminal that is as wide as the test says."""
    wide: int = request.param
    terminal = Console(highlight=False, soft_wrap=True, width=wide, force_terminal=True, color_system=None)
    monkeypatch.setattr(screen, "console", terminal)
    return wide


@pytest.mark.parametrize("width", [80, 100], indirect=True)
def test_an_error_is_folded_so_that_the_photos_names_are_whole(width: int, capsys: pytest.CaptureFixture[str]) -> None:
    predict._show(ANSWERS)
    lines = capsys.readouterr().out.splitlines()
    assert all(sum(name in line for line in lines) == 1 for name in NAMES)
    assert max(map(len, lines)) <= width and "…" not in "".join(lines)
    assert sum("and more" in line for line in lines) > 1


@pytest.mark.parametrize("width", [40], indirect=True)
def test_names_too_long_for_a_terminal_are_folded_and_not_cut(width: int, capsys: pytest.CaptureFixture[str]) -> None:
    predict._show(ANSWERS)
    out = capsys.readouterr().out
    assert "…" not in out and max(map(len, out.splitlines())) <= width
    column = "".join(line.split("│")[0].strip() for line in out.splitlines())
    assert all(name.replace(" ", "") in column.replace(" ", "") for name in NAMES)


def test_in_a_pipe_a_photo_and_what_is_said_of_it_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    predict._show(ANSWERS)
    lines = capsys.readouterr().out.splitlines()
    (line,) = [line for line in lines if NAMES[1] in line]
    assert ANSWERS[1]["error"].strip() in line and "…" not in "".join(lines)
