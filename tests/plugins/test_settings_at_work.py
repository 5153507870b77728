"""Settings of what a plugin adds reach all that it does, and what fails of it takes nothing else
along."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from strangers import Write

from breedlab.cli import evaluate, launch
from breedlab.config import validate
from breedlab.config.compose import load
from breedlab.training import loggers

Words = Callable[..., list[str]]

SOURCE = '''
from breedlab.config.debugger import DebuggerRule
from breedlab.config.profiler import ProfilerRule
from breedlab.evaluation.metrics import Metric
from breedlab.registry import DEBUGGER_RULES, LOGGERS, METRICS, PROFILER_RULES, REPORT_SECTIONS
from breedlab.reporting.added_sections import ReportSection
from breedlab.training.logger_kinds import LoggerKind


@METRICS.register("counted")
class Counted(Metric):
    """The images, times a factor."""

    title, percent = "counted", False

    factor: float = 1.0
    """The factor."""

    def build(self, classes, **how):
        from torchmetrics import SumMetric

        factor = self.factor

        class Count(SumMetric):
            def update(self, logits, labels):
                super().update(factor * len(labels))

        return Count(**how)


@PROFILER_RULES.register("broken")
class BrokenRule(ProfilerRule):
    title = "Broken"

    def check(self, recording):
        raise KeyError("no such column")


@DEBUGGER_RULES.register("broken")
class BrokenToo(DebuggerRule):
    title = "Broken"

    def check(self, recording, step):
        raise KeyError("no such tensor")


@REPORT_SECTIONS.register("note")
class Note(ReportSection):
    title = "Note"

    text: str = "nothing"
    """The note."""

    def build(self, run):
        return f"noted: {self.text}"


@LOGGERS.register("diary")
class Diary(LoggerKind):
    """A file of one's own."""

    file: str = "diary.txt"
    """Its name."""

    def begin(self, config, run, run_id):
        with (run / self.file).open("a") as diary:
            print("begin", run_id or "anew", file=diary)
        return run_id or f"id of {run.name}"

    def build(self, config, run, run_id):
        return None

    def finish(self, config, run, run_id, metrics):
        with (run / self.file).open("a") as diary:
            print("finish", run_id, metrics["test/counted"], file=diary)
'''


def test_settings_of_plugins_reach_the_test_the_report_and_evaluate(
    package: Write, words: Words, image_folder: Path, here: Path, capsys: Any
) -> None:
    own = ["monitor.counted.factor=3", "report.note.text=ours", "logger.name=diary"]
    watched = ["debugger=losses", "profiler=system", "trainer.max_epochs=1", "name=own"]
    assert launch.main(words(package(SOURCE), *own, *watched, "logger.diary.file=d.txt")) == 0
    run = (here / "runs" / "latest").resolve()
    test = json.loads((run / "metrics.json").read_text())["test"]
    assert test["metrics"]["counted"] == 3 * test["photos"]
    assert "noted: ours" in (run / "report.html").read_text()
    begun, finished = (run / "d.txt").read_text().splitlines()
    assert begun == "begin anew" and finished == f"finish id of {run.name} {3.0 * test['photos']}"

    for file in ("debug/verdicts.json", "profile/verdicts.json"):
        verdicts = {each["rule"]: each for each in json.loads((run / file).read_text())}
        assert verdicts["Broken"]["verdict"] == "not_enough_data"
        assert "KeyError: 'no such" in verdicts["Broken"]["meaning"]
        assert len(verdicts) > 5  # the others are judged

    capsys.readouterr()
    assert evaluate.main([str(run), str(image_folder / "test"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["metrics"]["counted"] == 3 * test["photos"]


def test_a_resumed_run_is_the_same_at_a_plugins_logger(
    package: Write, words: Words, tmp_path: Path
) -> None:
    config = validate(load(words(package(SOURCE), "logger.name=diary")))
    loggers.begin(config, tmp_path)
    loggers.begin(config, tmp_path)
    assert (tmp_path / "diary.txt").read_text() == (f"begin anew\nbegin id of {tmp_path.name}\n")
    other = validate(load(words("logger=csv")))
    assert loggers._run_id(other, tmp_path) == "", "an id is its logger's alone"
