"""report.html: what it shows of runs, that nothing in it comes from elsewhere, that no name in it
can do harm."""

from __future__ import annotations

import html.parser
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import yaml
from codes import raises_code
from made_runs import HOSTILE, write_run

from breedlab.cli import launch, report
from breedlab.data.image_set import ImageSet, LabeledImage
from breedlab.evaluation.statistics import wilson
from breedlab.pipeline.final_test import most_frequent_class
from breedlab.reporting import (
    comparison,
    diagnosis_sections,
    paired_runs,
    quality_sections,
    sections,
)
from breedlab.reporting import report as reports
from breedlab.reporting.record import read_run
from breedlab.reporting.summary import metrics_table

CLASSES = ["Afghan hound", HOSTILE, "O'Neill & Söhne", "Basset"]
ANCHORS = {
    "summary",
    "data",
    "loss",
    "curves",
    "search",
    "confusion",
    "calibration",
    "classes",
    "rules",
    "profile",
    *("debug", "model"),
}
Words = Callable[..., list[str]]


class Page(html.parser.HTMLParser):
    """The parts of a page that the tests ask about."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.scripts: list[str] = []
        self.text = ""
        self._inside: str = ""
        self.feed(text)
        self.charts: dict[str, Any] = json.loads(self.scripts[0])

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        self._inside = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            self.scripts[-1] += data
        elif self._inside != "style":
            self.text += data

    def all(self, attribute: str) -> list[str]:
        return [attributes[attribute] for _, attributes in self.tags if attribute in attributes]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of few classes, one with a hostile name, with images."""
    folder = tmp_path_factory.mktemp("made")
    return write_run(folder / "runs" / "made" / "one", classes=CLASSES, images=folder / "photos")


@pytest.fixture(scope="module")
def page(made: Path) -> Page:
    return Page(reports.write_report([made]).read_text())


def test_every_section_and_everything_that_verdicts_link_to_is_there(page: Page) -> None:
    ids = page.all("id")
    assert set(ids) >= ANCHORS and len(ids) == len(set(ids))
    inner = [link for link in page.all("href") if link.startswith("#")]
    assert "#profile" in inner and {link.removeprefix("#") for link in inner} <= set(ids)


def test_nothing_comes_from_elsewhere(page: Page) -> None:
    assert not [tag for tag, _ in page.tags if tag in ("iframe", "object", "embed", "base")]
    assert all(address.startswith("data:image/webp;base64,") for address in page.all("src"))
    assert all(address.startswith(("#", "data:,")) for address in page.all("href"))
    policy = next(
        attributes["content"] for _, attributes in page.tags if "http-equiv" in attributes
    )
    assert "default-src 'none'" in policy and "unsafe-inline' 'unsafe-eval" not in policy


def test_the_library_is_in_it_once_and_every_chart_has_its_place(page: Page) -> None:
    assert sum("vegaEmbed=" in script for script in page.scripts) == 1
    places = page.all("data-chart")
    assert sorted(places) == sorted(page.charts["specs"]) and len(places) >= 12
    assert {
        "loss",
        "accuracy",
        "history",
        "parallel",
        "best_and_worst",
        "calibration",
        "counts",
        "steps",
    } <= set(places)


def test_the_library_is_made_once_and_done_without_a_place_to_keep_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []

    def make() -> str:
        made.append("x")
        return "let vega;"

    monkeypatch.setattr(reports, "_made_bundle", make)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for _ in range(2):
        assert reports._bundle.__wrapped__() == "let vega;"
    assert len(made) == 1 and [
        file.suffix for file in (tmp_path / "cache" / "breedlab").iterdir()
    ] == [".js"]
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert reports._bundle.__wrapped__() == "let vega;" and len(made) == 2


def test_names_from_files_are_text_and_nothing_else(made: Path, page: Page) -> None:
    text = (made / "report.html").read_text()
    assert HOSTILE not in text and "<b>.jpg" not in text
    assert not [attributes for tag, attributes in page.tags if "onerror" in attributes]
    assert HOSTILE in page.text  # as it reads
    counts = page.charts["specs"]["counts"]["datasets"]["table1"]
    assert HOSTILE in {row["class"] for row in counts}


def test_the_folder_of_the_images_has_its_old_name_too(made: Path) -> None:
    run = read_run(made)
    with pytest.warns(FutureWarning, match="photo_root is now image_root"):
        assert run.photo_root == run.image_root is not None


def test_figures_are_the_runs_own(made: Path, page: Page) -> None:
    test = json.loads((made / "metrics.json").read_text())["test"]
    assert f"{test['metrics']['top1']:.1%}" in page.text
    splits = json.loads((made / "splits.json").read_text())
    rows = page.charts["specs"]["counts"]["datasets"]["table1"]
    assert sum(row["images"] for row in rows) == sum(
        len(images) for images in splits["photos"].values()
    )
    for finding in (
        "few images",
        "is empty",
        "valid cut from train",
        "with changes that are not committed",
    ):
        assert finding in page.text
    pair = test["worst"][0]
    assert (
        f"{pair['truth']} taken for {pair['taken_for']}: {pair['count']} of {pair['of']}"
        in page.text
    )


@pytest.mark.parametrize("count", [19, 20])
def test_top_5_is_no_headline_where_five_guesses_are_most_of_the_classes(
    tmp_path: Path, count: int
) -> None:
    made = [
        write_run(tmp_path / str(i), classes=[f"breed {n}" for n in range(count)], seed=i)
        for i in range(2)
    ]
    runs = [read_run(path) for path in made]
    terminal = [str(cell) for cell in metrics_table("Test", runs[0].test).columns[0].cells]
    report = [name for name, *_ in sections.summary(runs[0])["tiles"]]
    compared = [row["name"] for row in comparison.figures(runs)]
    for names in (terminal, report, compared):
        assert "top-1" in names and ("top-5" in names) == (count >= 20)


def test_of_images_of_one_class_no_guess_is_told(tmp_path: Path) -> None:
    """A folder with one image read 'guessing gives 100.0%'."""
    test = dict(read_run(write_run(tmp_path / "run", classes=["cat", "dog"])).test)
    assert "guessing gives" in str(metrics_table("Test", test).title)
    test["per_class"] = {"cat": {"photos": 1}, "dog": {"photos": 0}}
    assert "guessing" not in str(metrics_table("Test", test).title)


def test_guessing_is_of_the_class_that_is_most_frequent_in_training(tmp_path: Path) -> None:
    """Whoever guesses does not know the test: 90 dogs and 10 cats there, but more cats in
    training."""
    test = dict(read_run(write_run(tmp_path / "run", classes=["cat", "dog"])).test)
    test["per_class"] = {"cat": {"photos": 10}, "dog": {"photos": 90}}
    for frequent, share in (("cat", "10.0%"), ("dog", "90.0%"), (None, "90.0%")):
        test["most_frequent_class"] = frequent
        assert f"guessing gives {share}" in str(metrics_table("Test", test).title)


def test_the_most_frequent_class_is_that_of_the_training_images() -> None:
    splits = {
        split: tuple(LabeledImage(Path("x.jpg"), label) for label in labels)
        for split, labels in {"train": [1, 2, 2, 0, 2], "test": [0, 0, 0, 1]}.items()
    }
    images = ImageSet(Path(), ("cat", "dog", "fox"), splits, cut=())
    assert most_frequent_class(images) == "fox"


def test_figures_of_verdicts_are_told_in_their_units() -> None:
    given = {
        "share_of_run": 0.25,
        "shares": {"data": 0.0174},
        "step_ms": 38.71,
        "run_s": 87.0,
        "confused_pairs": [],
    }
    given |= {
        "disk_read_mb_s": {"p50": 0.0, "max": 98.7},
        "cpu_percent_p95": 30.0,
        "gpu_percent": [95.0, 40.0],
    }
    given |= {"memory_gb": 3.5, "weights": 3, "class": "Basset"}
    assert dict(diagnosis_sections.figures(given)) == {
        "share of run": "25.0%",
        "shares": "data 1.7%",
        "step": "38.7 ms",
        "run": "87 s",
        "confused pairs": "none",
        "disk read": "p50 0 MB/s, max 98.7 MB/s",
        "cpu p95": "30%",
        "gpu": "95%, 40%",
        "memory": "3.5 GB",
        "weights": "3",
        "class": "Basset",
    }


def answers(*groups: tuple[float, int, int]) -> dict[str, list[Any]]:
    """Predictions of two classes, by groups: how sure, how many, how many of them right."""
    sure = [confidence for confidence, images, _ in groups for _ in range(images)]
    right = [number < hits for _, images, hits in groups for number in range(images)]
    return {
        "probabilities": sure,
        "labels": [0] * len(sure),
        "predicted": [0 if hit else 1 for hit in right],
    }


@pytest.mark.parametrize(
    ("found", "error", "says"),
    [
        (answers((0.9, 500, 450), (0.6, 500, 300)), 0.0, "well calibrated"),
        (answers((0.95, 1000, 800)), 0.15, "overconfident: bars below"),
        (answers((0.6, 1000, 800)), 0.2, "underconfident: bars above"),
        # As good on average as sure, and wrong by a fifth everywhere.
        (answers((0.9, 500, 350), (0.5, 500, 350)), 0.2, "The averages hide it"),
        # A few images are off by so much whatever made them.
        (
            answers((0.97, 20, 19), (0.85, 16, 11), (0.55, 12, 9)),
            0.11,
            "48 images are too few to tell",
        ),
        (
            answers((0.97, 20, 9), (0.85, 16, 6), (0.55, 12, 5)),
            0.4,
            "overconfident: bars below",
        ),
    ],
)
def test_calibration_is_judged_by_its_error_and_not_from_a_few_images(
    made: Path, found: dict[str, Any], error: float, says: str
) -> None:
    run = read_run(made)
    run.metrics["test"]["metrics"]["ece"] = error
    section = quality_sections.calibration(replace(run, predictions=found))
    assert says in section["says"]
    del run.metrics["test"]["metrics"]["ece"]
    assert quality_sections.calibration(replace(run, predictions=found))["ece"] == pytest.approx(
        error, abs=0.03
    )


def test_a_report_of_a_run_that_ended_opens_neither_pytorch_nor_optuna(
    made: Path, tmp_path: Path
) -> None:
    """What takes seconds to import; the run kept what a report shows of both."""
    run = shutil.copytree(made, tmp_path / "run")
    metrics = json.loads((run / "metrics.json").read_text())
    metrics["search"]["importance"] = {"optim.lr": 0.9, "data.batch_size": 0.1}
    (run / "metrics.json").write_text(json.dumps(metrics))
    (run / "debug" / "0").mkdir(parents=True)
    figures = {"weights": {"head.weight": [[1, 0.1], [6, 0.05]]}}
    kept = {
        "of": {},
        "losses": {"TRAIN": [[1, 2.0]]},
        "saved": {"weights": [1, 2]},
        "figures": figures,
    }
    (run / "debug" / "report.json").write_text(json.dumps(kept))
    program = (
        "import sys; from breedlab.cli import report; report.main(sys.argv[1:])\nprint([name for"
        " name in ('torch', 'optuna', 'smdebug', 'lightning', 'sklearn') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(run)], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == [str(run / "report.html"), "[]"]
    page = Page((run / "report.html").read_text())
    assert {"importance", "debug_1"} <= set(page.charts["specs"]) and "1 TRAIN losses" in page.text


def test_the_worst_confusions_and_each_class_are_shown_with_images(page: Page) -> None:
    pictures = [attributes["alt"] for tag, attributes in page.tags if tag == "img"]
    assert set(CLASSES) <= set(pictures)
    assert any(re.fullmatch(r"test/\d+/\d+\.jpg", picture) for picture in pictures)


def test_what_is_large_is_small_in_the_page(tmp_path: Path) -> None:
    classes = [f"breed {number}" for number in range(133)]
    made = write_run(tmp_path / "big", classes=classes, steps=40_000, trials=100)
    text = reports.write_report([made]).read_text()
    assert len(text) < 3e6  # without images
    specs = Page(text).charts["specs"]
    assert all(len(json.dumps(spec)) < 150_000 for spec in specs.values())


@pytest.mark.parametrize(
    ("argv", "typed"),
    [
        (["breedlab launch", "name=a b"], "breedlab launch 'name=a b'"),
        (["breedlab", "my photos"], "breedlab 'my photos'"),
        (["scripts/launch.py", "experiment=x"], "python scripts/launch.py experiment=x"),
    ],
)
def test_the_command_of_a_run_is_one_to_copy(argv: list[str], typed: str, tmp_path: Path) -> None:
    made = write_run(tmp_path / "run", classes=["dog", "fox"])
    lineage = json.loads((tmp_path / "run" / "lineage.json").read_text())
    (tmp_path / "run" / "lineage.json").write_text(json.dumps(lineage | {"command": argv}))
    assert sections.summary(read_run(made))["command"] == typed


def test_without_its_images_a_report_is_still_written_and_says_so(
    made: Path, tmp_path: Path
) -> None:
    elsewhere = shutil.copytree(made, tmp_path / "copy")
    for name in ("splits.json", "lineage.json"):
        tree = json.loads((elsewhere / name).read_text())
        (tree if name == "splits.json" else tree["data"])["root"] = str(tmp_path / "gone")
        (elsewhere / name).write_text(json.dumps(tree))
    page = Page(reports.write_report([elsewhere]).read_text())
    assert "images are not on the machine where this report was written" in page.text
    assert not [tag for tag, _ in page.tags if tag == "img"]
    assert "calibration" in page.charts["specs"]


def test_a_run_that_did_not_end_shows_what_there_is(made: Path, tmp_path: Path) -> None:
    torn = shutil.copytree(made, tmp_path / "torn")
    for name in ("metrics.json", "predictions.json", "model.tar.gz", "lineage.json"):
        (torn / name).unlink()
    (torn / "splits.json").write_text('{"root": ')
    shutil.rmtree(torn / "profile")
    page = Page(reports.write_report([torn]).read_text())
    assert (
        "This run has not been tested yet" in page.text
        and "No model has been exported yet" in page.text
    )
    assert f"resume={torn}" in page.text
    assert {"loss", "history"} <= set(page.charts["specs"])


def unfinished(made: Path, folder: Path, trials: int) -> Path:
    """A copy of a run as it is when its search is cut off after so many trials."""
    run = shutil.copytree(made, folder)
    for name in ("metrics.json", "predictions.json", "model.tar.gz"):
        (run / name).unlink()
    for name in ("profile", "tensorboard"):
        shutil.rmtree(run / name)
    for file in (run / "trials").iterdir():
        if int(file.name) >= trials:
            shutil.rmtree(file)
    return run


@pytest.mark.parametrize(
    ("trials", "says"),
    [
        (0, "No trial of the bayesian search has ended yet."),
        (
            2,
            (
                "Not finished: 2 of 20 trials have ended, and the final training has not finished"
                " an epoch."
            ),
        ),
    ],
)
def test_what_a_run_has_not_come_to_is_not_said_to_be_unasked_for(
    made: Path, tmp_path: Path, trials: int, says: str
) -> None:
    run = unfinished(made, tmp_path / "run", trials)
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["tuner"] |= {"strategy": "bayesian", "trials": 20}
    config["debugger"]["level"], config["profiler"]["level"] = "default", "system"
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    text = Page(reports.write_report([run]).read_text()).text
    assert says in text
    assert (
        "The rules of the debugger and the profiler have not run: the run did not get that"
        " far." in text
    )
    assert "The profiler has written nothing." in text and "The debugger has saved nothing" in text
    for false in (
        "searched nothing",
        "No rules are on",
        "was not profiled",
        "debugger=losses",
    ):
        assert false not in text
    compared = Page(
        reports.write_report([run, shutil.copytree(run, tmp_path / "two")]).read_text()
    ).text
    assert "No rules have run yet." in compared and "The profiler has written nothing." in compared
    shutil.copy(made / "metrics.json", run)
    assert "did not get that far" not in (
        ended := Page(reports.write_report([run]).read_text()).text
    )
    assert "search has ended yet" not in ended and "have not run." in ended
    (run / "metrics.json").unlink()
    config["tuner"]["strategy"] = config["debugger"]["level"] = config["profiler"]["level"] = "none"
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    text = Page(reports.write_report([run]).read_text()).text
    for true in ("No rules are on", "was not profiled", "debugger=losses"):
        assert true in text
    assert ("searched nothing" in text) == (trials == 0)


def test_several_runs_are_compared(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    other = write_run(made.parent / "two", classes=CLASSES, seed=1)
    config = (other / "config.yaml").read_text().replace("dropout: 0.2", "dropout: 0.7")
    (other / "config.yaml").write_text(config)
    (made / "report.html").touch()  # is linked where it exists
    tested = Mock(return_value=["One is better."])
    monkeypatch.setattr(comparison, "paired", tested)
    assert report.main([str(made), str(other), str(made)]) == 0
    file = made.parent / "comparison.html"
    printed = capsys.readouterr()
    assert printed.out.strip() == str(file)
    page = Page(file.read_text())
    # a bootstrap takes a second or two: in the terminal and on the page is the same one
    assert "One is better." in printed.err and "One is better." in page.text
    tested.assert_called_once()
    assert "2 runs compared" in page.text and "model.dropout" in page.text and "0.7" in page.text
    metrics = json.loads((other / "metrics.json").read_text())
    metrics["search"]["values"]["optim.lr"] = 0.003480723265642345
    (other / "metrics.json").write_text(json.dumps(metrics))
    assert ("optim.lr", ["0.01", "0.003481"]) in comparison.differences(
        [read_run(made), read_run(other)]
    )
    assert "The runs used different images" not in page.text
    values = page.charts["specs"]["compared_1"]["datasets"]["table1"]
    assert {row["run"] for row in values} == {"one", "two"}
    assert "one/report.html" in page.all("href")
    assert report.main([str(made), str(other), "--out", str(tmp_path / "page.html")]) == 0
    assert (tmp_path / "page.html").exists()

    lineage = json.loads((other / "lineage.json").read_text())
    lineage["data"]["fingerprint"] = "of other images"
    (other / "lineage.json").write_text(json.dumps(lineage))
    assert report.main([str(made), str(other), "--out", str(tmp_path / "page.html")]) == 0
    assert "The runs used different images" in Page((tmp_path / "page.html").read_text()).text


def test_a_comparison_says_what_is_not_finished_and_shows_what_was_searched_only_where_it_was_found(
    made: Path, tmp_path: Path
) -> None:
    runs = [read_run(made), read_run(unfinished(made, tmp_path / "two", trials=2))]
    rows = {row["name"]: [text for text, _ in row["cells"]] for row in comparison.figures(runs)}
    assert len(rows) >= 6 and {texts[1] for texts in rows.values()} == {"not finished"}
    assert "not finished" not in {texts[0] for texts in rows.values()}
    found = dict(comparison.differences(runs))
    assert found["optim.lr"] == ["0.01", "not finished"] and found["data.batch_size"] == [
        "64",
        "not finished",
    ]
    assert [row["best"] for row in comparison.searched(runs)] == ["0.9000", "not finished"]
    page = Page(reports.write_report([made, runs[1].path], tmp_path / "page.html").read_text())
    assert page.text.count("not finished") >= 10


@pytest.mark.parametrize("name", ["none", "file", ""])
def test_what_is_no_run_is_one_message(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    with raises_code("BL115", names=tmp_path / name):
        report.main([str(tmp_path / name)])


def test_a_place_that_cannot_be_written_is_told(made: Path, tmp_path: Path) -> None:
    with raises_code("BL107", names=("--out", "report.html")):
        report.main([str(made), "--out", str(tmp_path)])
    (tmp_path / "file").touch()
    for folder in ("file", "nope"):
        with raises_code("BL600", names=f"{folder}/page.html"):
            report.main([str(made), "--out", str(tmp_path / folder / "page.html")])
    assert not (tmp_path / "nope").exists()


def test_a_report_that_cannot_be_written_warns_and_fails_nothing(
    here: Path, words: Words, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("no ink")

    with monkeypatch.context() as patched:
        patched.setattr(reports, "write_report", broken)
        assert launch.main(words("name=x", "trainer.max_epochs=1")) == 0
    told = capsys.readouterr().out
    assert "warning: no report was written (no ink); try: breedlab report runs/x/" in told
    assert (
        Path("runs/latest/metrics.json").exists() and not Path("runs/latest/report.html").exists()
    )
    assert report.main(["runs/latest"]) == 0
    page = Page(Path("runs/latest/report.html").read_text())
    assert {"loss", "confidences", "counts"} <= set(page.charts["specs"])
    assert any(picture.startswith("test/") for picture in page.all("alt"))  # an image of the test
    assert "breedlab predict runs/latest IMAGE..." in page.text


def answered(run: Path, right: int, of: int) -> None:
    """Makes a run be right on the first so many of its test images."""
    columns = {
        "photos": [f"test/a/{number:04}.jpg" for number in range(of)],
        "labels": [0] * of,
        "predicted": [int(number >= right) for number in range(of)],
        "probabilities": [0.9] * of,
    }
    (run / "predictions.json").write_text(json.dumps(columns))
    metrics = json.loads((run / "metrics.json").read_text())
    metrics["test"]["metrics"]["top1"], metrics["test"]["photos"] = right / of, of
    (run / "metrics.json").write_text(json.dumps(metrics))


@pytest.mark.parametrize(("right", "bold"), [(83, False), (90, True)])
def test_only_what_a_paired_test_confirms_is_bold(right: int, bold: bool, tmp_path: Path) -> None:
    made = [write_run(tmp_path / name, classes=["a", "b"], seed=0) for name in ("one", "two")]
    answered(made[0], 80, 100)
    answered(made[1], right, 100)
    runs = [read_run(path) for path in made]
    rows = {row["name"]: row["cells"] for row in comparison.figures(runs)}
    assert rows["top-1"][0] == ("80.0% (71.1% to 86.7%)", False)
    assert rows["top-1"][1][1] is bold
    assert not any(marked for name, cells in rows.items() if name != "top-1" for _, marked in cells)
    (sentence,) = paired_runs.paired(runs, ["one", "two"])
    assert sentence.startswith(f"two is right on {right - 80} more of 100 test images than one, ")
    assert ("more than chance explains" in sentence) is bold
    more = 100 * (right / (100 + right) - 80 / 180)  # half of class a's F1: b's is 0
    assert f"Its macro F1 is {more:.1f} points higher (" in sentence
    assert "its calibration error is 0." in sentence and "cross-entropy" not in sentence
    page = Page(reports.write_report(made, tmp_path / "page.html").read_text())
    assert sentence in page.text


@pytest.mark.parametrize("content", [b"", b"\xc4\xa5\x00", b"[1]", b"data: {root: x}"])
def test_a_damaged_config_is_named(made: Path, tmp_path: Path, content: bytes) -> None:
    copied = Path(shutil.copytree(made, tmp_path / "copy"))
    (copied / "config.yaml").write_bytes(content)
    with raises_code("BL115", names="config.yaml"):
        reports.write_report([copied], tmp_path / "page.html")


@pytest.mark.parametrize(
    "content", ["", "file;split;label\na;b;c\n", "file,confidence\na.jpg,\n", "file,confidence\na"]
)
def test_a_list_of_fixes_that_a_spreadsheet_wrote_ends_no_report(
    made: Path, tmp_path: Path, content: str
) -> None:
    copied = Path(shutil.copytree(made, tmp_path / "copy"))
    (copied / "fixes.csv").write_text(content)
    page = Page(reports.write_report([copied], tmp_path / "page.html").read_text())
    assert "Labels that may be wrong" not in page.text


def test_a_trial_record_without_its_number_is_passed_over(made: Path, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(made, tmp_path / "copy"))
    before = len(read_run(copied).trials)
    (copied / "trials" / "0" / "trial.json").write_text('{"state": "complete"}')
    assert len(read_run(copied).trials) == before - 1


def test_the_figures_have_their_intervals_and_what_guessing_gives(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", classes=["a", "b"], seed=0)
    answered(run, 210, 245)
    page = Page(reports.write_report([run], tmp_path / "page.html").read_text())
    assert "95% interval 80.8% to 89.5%" in page.text
    assert "Always guessing the most frequent training class gives" in page.text


def test_the_classes_have_their_intervals_and_a_comparison_is_told_in_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = [write_run(tmp_path / name, classes=["a", "b"], seed=0) for name in ("one", "two")]
    for row in quality_sections.classes(read_run(made[0]))["rows"]:
        hits, images = round(row["recall"] * row["test"]), row["test"]
        assert row["interval"] == "{:.1%} to {:.1%}".format(*wilson(hits, images))
        predicted = round(hits / row["precision"])
        assert row["precision_interval"] == "{:.1%} to {:.1%}".format(*wilson(hits, predicted))
    answered(made[0], 80, 100)
    answered(made[1], 95, 100)
    assert report.main([str(path) for path in made]) == 0
    told = capsys.readouterr()
    assert told.err.startswith(
        "two is right on 15 more of 100 test images than one, more than chance explains"
    )
    assert told.out.endswith("comparison.html\n")


def test_the_trial_that_other_seeds_chose_leads_the_table(made: Path, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(made, tmp_path / "copy"))
    highest, second = (row["number"] for row in sections.search(read_run(copied))["rows"][:2])
    metrics = json.loads((copied / "metrics.json").read_text())
    metrics["search"]["trial"] = second
    (copied / "metrics.json").write_text(json.dumps(metrics))
    (copied / "confirmed.json").write_text(json.dumps({str(second): {"0": [0.9, 0.1]}}))
    chosen = sections.search(read_run(copied))
    assert [row["number"] for row in chosen["rows"][:2]] == [second, highest]
    assert chosen["ends"][0][0] == second


def test_the_weights_that_a_search_found_are_what_a_run_starts_from(
    made: Path, tmp_path: Path
) -> None:
    copied = Path(shutil.copytree(made, tmp_path / "copy"))
    metrics = json.loads((copied / "metrics.json").read_text())
    metrics["search"] = {"values": {"model.weights": "package:efficientnet_lite1"}}
    (copied / "metrics.json").write_text(json.dumps(metrics))
    pedigree = sections.summary(read_run(copied))["pedigree"]
    assert pedigree["starts from"] == "package:efficientnet_lite1"


def test_a_class_without_test_images_has_no_recall_to_compare(made: Path) -> None:
    run = read_run(made)
    name, *_ = run.test["per_class"]
    empty = {**run.test["per_class"], name: {"photos": 0, "top1": 0.0, "precision": 0.0}}
    other = replace(run, metrics={**run.metrics, "test": {**run.test, "per_class": empty}})
    (row,) = [row for row in comparison.classes([run, other]) if row["name"] == name]
    assert row["recalls"][1] is None and row["spans"][1] == "" and row["spread"] is None


def test_trials_and_classes_have_intervals(made: Path) -> None:
    run = read_run(made)
    count = len(run.splits["photos"]["valid"])
    shown = sections.search(run)
    for row in shown["rows"]:
        low, high = wilson(row["objective"] * count, count)
        assert row["interval"] == f"{low:.4f} to {high:.4f}"
    page = Page(reports.write_report([made], made.parent / "intervals.html").read_text())
    assert shown["rows"][0]["interval"] in page.text
    for row in comparison.classes([run, run]):
        own = run.test["per_class"][row["name"]]
        low, high = wilson(own["top1"] * own["photos"], own["photos"])
        assert row["spans"] == [f"{low:.1%} to {high:.1%}"] * 2
