"""The engine that an export takes: the fastest that agrees, and what was asked for by name in any
case."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy.stats import binom

from breedlab import console
from breedlab.config.sections import Serving
from breedlab.distributed import Shard
from breedlab.models.classifier import Classifier
from breedlab.serving import (
    accuracy_control,
    engine_gate,
    engine_selection,
    engine_timing,
    openvino_export,
)
from breedlab.serving.accuracy_control import restore_accuracy
from breedlab.serving.archive import record_engine, write_folder
from breedlab.serving.engine_candidates import Candidate, Selection
from breedlab.serving.engine_gate import LEAST_AGREEMENT, MOST_LOST
from breedlab.serving.engine_kinds import MODULE, Choice
from breedlab.serving.engine_selection import possible, select
from breedlab.serving.model import Model
from breedlab.training.context import TrainingContext

CPU = torch.device("cpu")
Select = Callable[..., Selection]


def serving(engine: str = "auto", precision: str = "auto") -> Serving:
    return Serving.model_validate({"engine": engine, "precision": precision, "allow_urls": "none"})


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_timing, "BATCHES", (1, 4))
    monkeypatch.setattr(engine_timing, "_MOST_ROUNDS", 2)
    monkeypatch.setattr(engine_selection, "_CALIBRATION", 8)
    monkeypatch.setattr(engine_gate, "FEWEST_IMAGES", 10)


@pytest.fixture(scope="module")
def learned(context: TrainingContext) -> Classifier:
    """Trained for a little, so that its scores are apart by more than rounding."""
    classifier = context.classifier(context.config)
    for _ in context.epochs(classifier, context.config, 6):
        pass
    return classifier.eval()


@pytest.fixture
def content(tmp_path: Path, context: TrainingContext, learned: Classifier) -> Path:
    folder = tmp_path / "content"
    folder.mkdir()
    write_folder(folder, learned, context.evaluation, context.classes, {})
    return folder


@pytest.fixture
def choose(content: Path, context: TrainingContext, quick: None) -> Select:
    """Selects for the content and records it, as an export does."""

    def run(*wanted: str) -> Selection:
        data = context.data(context.config)
        # as several processes leave it after training; one of them exports
        data.shard = Shard(0, 2)
        found = select(content, serving(*wanted), data, device=CPU, seed=0)
        record_engine(content, found.choice, found.as_dict())
        return found

    return run


def as_if_timed(monkeypatch: pytest.MonkeyPatch, **speeds: float) -> None:
    """Engines as fast as told, by precision of OpenVINO or `module`; the clock is not what these
    tests are about."""

    def timed(candidates: Any, images: torch.Tensor) -> None:
        for candidate in candidates:
            name = "module" if candidate.choice.engine == "eager" else candidate.choice.precision
            candidate.milliseconds = {1: speeds[name]}

    monkeypatch.setattr(engine_selection, "time_engines", timed)


@pytest.fixture
def ruined(learned: Classifier, monkeypatch: pytest.MonkeyPatch) -> None:
    """A quantization whose graph answers the opposite."""

    opposite = copy.deepcopy(learned)
    for parameter in opposite.head[-1].parameters():
        parameter.data.neg_()
    graph = openvino_export.convert(opposite, learned.side)
    monkeypatch.setattr(openvino_export, "quantize", lambda *_: graph)
    monkeypatch.setattr(accuracy_control, "restore_accuracy", lambda *_: False)


@pytest.mark.parametrize(
    ("wanted", "device", "installed", "native", "expected"),
    [
        (
            ("auto", "auto"),
            "cpu",
            True,
            True,
            "eager fp32, eager bf16, openvino fp32, openvino bf16, openvino int8",
        ),
        (("auto", "auto"), "cpu", True, False, "eager fp32, openvino fp32, openvino int8"),
        (("auto", "auto"), "cpu", False, True, "eager fp32, eager bf16"),
        (("auto", "auto"), "cpu", False, False, "eager fp32"),
        (("auto", "auto"), "cuda", True, True, "eager fp32, eager bf16"),
        (("auto", "int8"), "cpu", True, True, "openvino int8"),
        (("auto", "fp32"), "cpu", True, True, "eager fp32, openvino fp32"),
        (("eager", "auto"), "cpu", True, False, "eager fp32"),
        (("eager", "bf16"), "cpu", True, False, "eager bf16"),
        (("openvino", "auto"), "cuda", True, True, "openvino fp32, openvino bf16, openvino int8"),
        (("openvino", "bf16"), "cpu", True, False, "openvino bf16"),
    ],
)
def test_what_there_is_to_choose_from(
    wanted: tuple[str, str],
    device: str,
    installed: bool,
    native: bool,
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(openvino_export, "is_installed", lambda: installed)
    monkeypatch.setattr(engine_selection, "multiplies_bf16", lambda device: native)
    assert ", ".join(map(str, possible(serving(*wanted), torch.device(device)))) == expected


def test_nothing_is_measured_where_there_is_nothing_to_choose(
    choose: Select, content: Path
) -> None:
    assert choose("eager", "fp32") == Selection(MODULE)
    description = json.loads((content / "model.json").read_text())
    assert description["engine"] == {"name": "eager", "precision": "fp32"}
    assert not (content / "engines").exists()


def test_without_the_extra_it_says_how_to_get_it(
    choose: Select, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(openvino_export, "is_installed", lambda: False)
    assert choose("auto", "fp32").choice == MODULE
    assert "pip install 'breedlab[engines]'" in capsys.readouterr().out


def test_autocast_is_measured_and_judged_like_any_other(choose: Select) -> None:
    """Without OpenVINO at hand; on machines without native bf16 it computes in fp32 and says so."""
    found = choose("eager", "bf16")
    assert found.choice == Choice("eager", "bf16")
    module, mine = found.candidates
    assert module.agreement == 1.0 and mine.agreement is not None and mine.agreement >= 0.9
    assert set(module.milliseconds) == set(mine.milliseconds) == {1, 4}
    assert min(*module.milliseconds.values(), *mine.milliseconds.values()) > 0


needs_openvino = pytest.mark.skipif(
    not openvino_export.is_installed(), reason="needs the engines extra"
)


@needs_openvino
def test_the_fastest_that_agrees_is_taken_and_only_its_file_is_kept(
    choose: Select,
    content: Path,
    context: TrainingContext,
    ruined: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    as_if_timed(monkeypatch, module=9.0, fp32=3.0, bf16=2.0, int8=1.0)
    monkeypatch.setattr(engine_selection, "multiplies_bf16", lambda device: False)
    found = choose()
    assert found.choice == Choice("openvino", "fp32")
    assert sorted(file.name for file in (content / "engines").iterdir()) == ["fp32.bin", "fp32.xml"]
    by_choice = {str(candidate.choice): candidate for candidate in found.candidates}
    refused, taken, module = (
        by_choice["openvino int8"],
        by_choice["openvino fp32"],
        by_choice["eager fp32"],
    )
    assert refused.agreement is not None and refused.agreement < LEAST_AGREEMENT
    assert f"agrees with the module on {refused.agreement:.1%}" in refused.objection
    assert taken.is_winner and taken.agreement == 1.0 and taken.right == module.right
    description = json.loads((content / "model.json").read_text())
    assert description["export"] == json.loads(json.dumps(found.as_dict()))
    assert description["export"]["photos"] == {"validation": 24, "calibration": 8}
    labels = context.data(context.config).labels("test")
    batch = torch.cat([images for images, _ in context.data(context.config).test_dataloader()])
    answered = Model(content, CPU).scores(batch).argmax(1)
    assert found.test_right == pytest.approx(float((answered == labels).float().mean()))


@needs_openvino
def test_int8_that_was_refused_is_judged_again_with_its_worst_layers_in_fp32(
    choose: Select,
    content: Path,
    ruined: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    as_if_timed(monkeypatch, module=9.0, fp32=3.0, bf16=2.0, int8=1.0)
    monkeypatch.setattr(engine_gate, "LEAST_CERTAIN_AGREEMENT", 0.5)  # there are 24 images
    monkeypatch.setattr(accuracy_control, "restore_accuracy", restore_accuracy)
    # every layer set back; what NNCF chooses is test_accuracy_control's
    monkeypatch.setattr(accuracy_control, "_controlled", lambda graph, *_: graph)
    found = choose()
    (int8,) = [each for each in found.candidates if each.choice.precision == "int8"]
    assert found.choice == int8.choice and int8.agreement == 1.0
    assert int8.as_dict()["verdict"] == "taken, the layers that lose most in fp32"
    assert "again" in capsys.readouterr().out
    assert [file.name for file in sorted((content / "engines").iterdir())] == [
        "int8.bin",
        "int8.xml",
    ]


@needs_openvino
def test_the_module_stays_where_nothing_is_faster(
    choose: Select, content: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_if_timed(monkeypatch, module=1.0, fp32=3.0)
    assert choose("auto", "fp32").choice == MODULE
    assert not list((content / "engines").iterdir())
    assert "openvino" not in (content / "code" / "requirements.txt").read_text()


@needs_openvino
def test_what_was_asked_for_by_name_is_exported_with_a_warning(
    choose: Select, content: Path, ruined: None, capsys: pytest.CaptureFixture[str]
) -> None:
    found = choose("openvino", "int8")
    assert found.choice == Choice("openvino", "int8")
    said = capsys.readouterr().out
    assert "openvino int8 was asked for, and is exported, but it agrees with the module on" in said
    assert Model(content, CPU).engine.choice == found.choice


@needs_openvino
def test_a_network_that_cannot_be_converted_is_exported_all_the_same(
    choose: Select,
    content: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shown: list[str] = []

    @contextmanager
    def progress(title: str) -> Iterator[Callable[[int, int], None]]:
        shown.append(title)
        yield lambda done, total: None
        shown.remove(title)

    def refuse(network: Any, side: int) -> Any:
        # which takes seconds
        assert shown == ["making openvino fp32", "converting the network for OpenVINO"]
        raise RuntimeError("no such\noperation")

    for module in (engine_selection, console):
        monkeypatch.setattr(module, "progress", progress)
    monkeypatch.setattr(openvino_export, "convert", refuse)
    assert choose("openvino", "fp32").choice == MODULE
    said = capsys.readouterr().out
    assert "openvino fp32 cannot be made (no such operation)" in said and "PyTorch answers" in said
    assert Model(content, CPU).engine.choice == MODULE


def test_an_engine_that_loses_accuracy_is_refused_even_if_it_agrees() -> None:
    module = Candidate(MODULE, agreement=1.0, right=0.900)
    for lost, refused in ((MOST_LOST, False), (MOST_LOST + 0.001, True), (-0.1, False)):
        other = Candidate(Choice("openvino", "int8"), agreement=0.985, right=0.900 - lost)
        assert bool(engine_gate.objection(other, module, images=2000)) is refused


def test_int8_is_taken_only_where_the_images_can_tell() -> None:
    """The rule: with 95% confidence at least 95% of all images get the module's class."""
    module = Candidate(MODULE, agreement=1.0, right=0.9)
    for images, agreeing, taken in (
        (96, 96, False),
        (100, 100, True),
        (100, 99, False),
        (1000, 981, True),
    ):
        other = Candidate(Choice("openvino", "int8"), agreement=agreeing / images, right=0.9)
        assert (engine_gate.objection(other, module, images) == "") is taken, (
            images,
            agreeing,
        )
        halves = Candidate(Choice("openvino", "bf16"), agreement=agreeing / images, right=0.9)
        assert engine_gate.objection(halves, module, images) == ""
    # An engine that 5% of images would notice is hardly ever let through, however few images there
    # are.
    for images in (20, 48, 96, 245, 835):
        passing = 0.0
        for agreeing in range(images + 1):
            other = Candidate(Choice("openvino", "int8"), agreement=agreeing / images, right=0.9)
            if not engine_gate.objection(other, module, images):
                passing += binom.pmf(agreeing, images, 0.95)
        assert passing < 0.03


@needs_openvino
def test_int8_is_not_even_made_where_too_few_images_would_judge_it(
    choose: Select, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_gate, "FEWEST_IMAGES", 25)  # there are 24
    found = choose()
    (int8,) = [candidate for candidate in found.candidates if candidate.choice.precision == "int8"]
    assert int8.engine is None and "24 images cannot judge it, at least" in int8.objection
    assert found.calibration == 0 and found.choice.precision != "int8"


@needs_openvino
@pytest.mark.slow
def test_int8_is_calibrated_and_measured_for_real_and_tells_nobody(
    content: Path, image_folder: Path, tmp_path: Path
) -> None:
    """In a process of its own, since NNCF spares tests what it does to others: reports about their
    use."""
    program = """
import sys
from pathlib import Path
import torch
from breedlab.serving import openvino_export
from breedlab.serving.engines.openvino import OpenVinoEngine
from breedlab.serving.model import Model
folder, images = Path(sys.argv[1]), sorted(Path(sys.argv[2]).rglob("*.jpg"))
model = Model(folder, torch.device("cpu"), "eager")
batch = torch.stack([model.prepare(path.read_bytes()) for path in images[:40]])
seen = []
graph = openvino_export.convert(model.network, model.transform.crop)
graph = openvino_export.quantize(graph, batch, lambda done, total: seen.append((done, total)))
openvino_export.write_graph(graph, folder / "int8.xml", halves=False)
assert seen[-1] == (40, 40), seen
assert (folder / "int8.bin").stat().st_size < (folder / "model.safetensors").stat().st_size / 3
ours, own = OpenVinoEngine(folder / "int8.xml", "int8").scores(batch), model.scores(batch)
error = float((ours - own).norm() / own.norm())
assert 0 < error < 0.2, error
assert "openvino_telemetry.main" not in sys.modules
print("done")
"""
    home = tmp_path / "home"
    home.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", program, str(content), str(image_folder)],
        capture_output=True,
        text=True,
        env={**os.environ, "HOME": str(home)},
    )
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr
    assert list(home.iterdir()) == []  # where OpenVINO's tools keep the number that they report by
