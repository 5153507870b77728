"""What a person sees in the terminal, and what a program reads in a pipe."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from codes import check_names
from rich.console import Console

from breedlab import terminal as screen
from breedlab.archives import write_archive
from breedlab.cli import predict
from breedlab.config import validate
from breedlab.config.compose import load
from breedlab.pipeline import run as runs

NAMES = [f"holiday/of a long name/and [b] :dog: {number:04}.jpg" for number in range(3)]
ANSWERS = [
    {"photo": NAMES[0], "predictions": [{"class": "Basset", "probability": 0.75}]},
    {
        "photo": NAMES[1],
        "error": "is not an image: it ends in the middle of its header, " + "and more " * 10,
    },
    {"photo": NAMES[2], "predictions": [{"class": "Basset", "probability": 0.5}]},
]


@pytest.mark.parametrize("aside", [False, True])
def test_a_bar_tells_no_count_before_one_is_known_and_goes_when_it_is_done(
    aside: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = io.StringIO()
    terminal = Console(file=drawn, width=80, force_terminal=True, color_system=None)
    monkeypatch.setattr(screen, "console", terminal)
    monkeypatch.setattr(screen, "SafeConsole", lambda **_: terminal)
    with screen.progress("predicting", aside=aside) as report:
        assert "predicting" in drawn.getvalue() and "0/" not in drawn.getvalue()
        report(0, 3)
    assert "0/3" in drawn.getvalue()
    up_and_erased = "\x1b[1A\x1b[2K"
    assert (
        up_and_erased in drawn.getvalue()
        and "━" not in drawn.getvalue().rpartition(up_and_erased)[2]
    )


def test_in_a_pipe_a_long_task_says_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    printed = io.StringIO()
    monkeypatch.setattr(screen, "console", Console(file=printed, width=10_000, soft_wrap=True))
    clock = iter(range(0, 10_000, 5))  # every look at it finds five seconds gone
    monkeypatch.setattr(screen.time, "monotonic", lambda: float(next(clock)))
    with screen.progress("activations of train", aside=False) as report:
        for done in range(0, 1001, 50):
            report(done, 1000)
    lines = printed.getvalue().splitlines()
    assert lines[0] == "  activations of train: 50 of 1,000, about 3 min 10 s left"
    assert 3 <= len(lines) <= 6  # not one for each of the twenty reports
    assert lines[-1] == "  activations of train: 1,000 in 110.0 s"


# Runs one command like scripts/*.py do, then tells which heavy packages it imported.
_PROBE = """
import sys
from breedlab.cli import run
command, *sys.argv = sys.argv[1:]
sys.argv.insert(0, command)
try:
    run(command)
finally:
    print(sorted({"torch", "torchvision", "torchmetrics", "openvino"} & sys.modules.keys()))
"""


@pytest.mark.parametrize(
    ("words", "code", "names"),
    [
        ("evaluate RUN nowhere", "BL200", ["nowhere: ", "FOLDER/<class>/photo.jpg"]),
        ("evaluate nowhere photos", "BL500", ["nowhere: ", "model.tar.gz"]),
        ("evaluate RUN empty", "BL200", ["empty: ", "no images"]),
        ("evaluate RUN photos", "BL200", ["photos: ", "cat ", "basset, beagle"]),
        ("evaluate RUN cats", "BL200", ["cats: ", "00, 01, 02, 03, 04, 05, 06, 07 and 3 more"]),
        ("evaluate RUN root", "BL200", ["root: ", "Test, val, train", "root/Test"]),
        ("predict text photos/cat/1.jpg", "BL505", ["text: "]),
        ("predict unfinished photos/cat/1.jpg", "BL500", ["unfinished/model.tar.gz: ", "resume="]),
        ("predict empty photos/cat/1.jpg", "BL500", ["empty/model.tar.gz: "]),
        ("serve text --port 0", "BL505", ["text: "]),
    ],
)
def test_what_a_look_at_the_disk_refuses_is_refused_before_pytorch_is_imported(
    tmp_path: Path, words: str, code: str, names: list[str]
) -> None:
    folders = [
        "RUN",
        "content",
        "empty",
        "unfinished",
        "photos/cat",
        *(f"cats/{number:02}" for number in range(11)),
    ]
    for folder in (*folders, "root/train", "root/val", "root/Test"):
        (tmp_path / folder).mkdir(parents=True)
    for file in ("text", "unfinished/config.yaml", "photos/cat/1.jpg"):
        (tmp_path / file).write_text("no photo")
    statistics = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
    description = {
        "format": 1,
        "architecture": {
            "name": "resnet18",
            "classes": 2,
            "head": [],
            "dropout": 0.0,
            **statistics,
        },
        "classes": ["basset", "beagle"],
        "transform": {"resize": 36, "crop": 32, "interpolation": "bilinear", **statistics},
        "lineage": {},
    }
    (tmp_path / "content" / "model.json").write_text(json.dumps(description))
    write_archive(tmp_path / "RUN" / "model.tar.gz", tmp_path / "content")
    command = [sys.executable, "-c", _PROBE, *words.split()]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode and done.stderr.startswith(f"[{code}] "), done.stderr
    check_names(done.stderr, names)
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout.splitlines() == ["[]"]


def test_a_launch_says_what_it_does_before_it_imports_pytorch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said: list[str] = []

    class Prepare(ModuleType):
        def __getattr__(self, name: str) -> Any:
            if name != "prepare":
                raise AttributeError(name)
            said.append("imported")
            network = SimpleNamespace(
                accelerator="cpu",
                precision="fp32",
                evaluation=SimpleNamespace(crop=32),
                data=lambda config: SimpleNamespace(describe_loading=str),
            )
            return lambda config, report: network

    @contextmanager
    def progress(title: str) -> Iterator[None]:
        said.append(title)
        yield
        said.append("done")

    monkeypatch.setattr(runs, "stage", said.append)
    monkeypatch.setattr(runs, "progress", progress)
    monkeypatch.setattr("breedlab.training.starting_weights.describe", lambda _: [])
    monkeypatch.setattr("breedlab.training.start_checks.concerns", lambda _: [])
    monkeypatch.setitem(sys.modules, "breedlab.training.preparation", Prepare("prepare"))
    runs._make_context(validate(load([])), None, SimpleNamespace(stage=lambda name: None))  # type: ignore[arg-type]
    assert said == ["Network", "loading PyTorch", "imported", "done"]


@pytest.fixture
def width(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Of a terminal that is as wide as the test says."""
    wide: int = request.param
    terminal = Console(
        highlight=False, soft_wrap=True, width=wide, force_terminal=True, color_system=None
    )
    monkeypatch.setattr(screen, "console", terminal)
    return wide


@pytest.mark.parametrize("width", [80, 100], indirect=True)
def test_an_error_is_folded_so_that_the_images_names_are_whole(
    width: int, capsys: pytest.CaptureFixture[str]
) -> None:
    predict._show(ANSWERS)
    lines = capsys.readouterr().out.splitlines()
    assert all(sum(name in line for line in lines) == 1 for name in NAMES)
    assert max(map(len, lines)) <= width and "…" not in "".join(lines)
    assert sum("and more" in line for line in lines) > 1


@pytest.mark.parametrize("width", [40], indirect=True)
def test_names_too_long_for_a_terminal_are_folded_and_not_cut(
    width: int, capsys: pytest.CaptureFixture[str]
) -> None:
    predict._show(ANSWERS)
    out = capsys.readouterr().out
    assert "…" not in out and max(map(len, out.splitlines())) <= width
    column = "".join(line.split("│")[0].strip() for line in out.splitlines())
    assert all(name.replace(" ", "") in column.replace(" ", "") for name in NAMES)


def test_in_a_pipe_a_image_and_what_is_said_of_it_are_one_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    predict._show(ANSWERS)
    lines = capsys.readouterr().out.splitlines()
    (line,) = [line for line in lines if NAMES[1] in line]
    assert ANSWERS[1]["error"].strip() in line and "…" not in "".join(lines)


def test_the_true_class_stands_in_a_column_where_the_folder_tells_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    answers: list[dict[str, Any]] = [
        {
            "photo": "test/002.Afghan_hound/1.jpg",
            "predictions": [{"class": "Pug", "probability": 0.7}],
        },
        {"photo": "holiday/2.jpg", "predictions": [{"class": "Pug", "probability": 0.9}]},
    ]
    predict._add_truths(answers, ["Afghan hound", "Pug"])
    assert answers[0]["truth"] == "Afghan hound" and "truth" not in answers[1]
    predict._show(answers)
    table = capsys.readouterr().out
    assert "true class" in table and "Afghan hound" in table


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has neither")
def test_what_is_no_file_has_an_answer_that_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """They were left out without a word; a link to itself was a traceback."""
    os.mkfifo(tmp_path / "fifo.jpg")
    (tmp_path / "zero.jpg").symlink_to("/dev/zero")
    (tmp_path / "loop.jpg").symlink_to(tmp_path / "loop.jpg")
    (tmp_path / "gone.jpg").symlink_to(tmp_path / "nothing.jpg")
    names = [str(tmp_path / f"{name}.jpg") for name in ("fifo", "zero", "loop", "gone")]
    assert predict.main(["--endpoint", "http://127.0.0.1:9", "--json", *names]) == 1
    answers = json.loads(capsys.readouterr().out)
    assert [answer["photo"] for answer in answers] == names
    errors = [answer["error"] for answer in answers]
    assert errors[:2] == ["is not a regular file"] * 2
    assert all(error.startswith("cannot be read") for error in errors[2:])


def test_launch_without_words_prints_how_it_is_used(capsys: pytest.CaptureFixture[str]) -> None:
    from breedlab.cli import launch

    assert launch.main([]) == 2
    assert "experiment=NAME" in capsys.readouterr().out
