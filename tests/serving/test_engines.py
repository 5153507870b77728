"""What answers: OpenVINO where the archive has a file for it and the machine takes it, else
PyTorch, and it says so."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from codes import raises_code

from breedlab.models import openvino_core
from breedlab.models.classifier import Classifier
from breedlab.serving import openvino_export
from breedlab.serving.archive import write_folder
from breedlab.serving.engine_kinds import MODULE, Choice
from breedlab.serving.engines import eager
from breedlab.serving.engines.openvino import OpenVinoEngine
from breedlab.serving.model import Model
from breedlab.training.context import TrainingContext

pytest.importorskip("openvino")
pytest.importorskip("nncf")

CPU = torch.device("cpu")


@pytest.fixture
def content(with_openvino: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(with_openvino, tmp_path / "content"))


@pytest.fixture(scope="module")
def batch(context: TrainingContext) -> torch.Tensor:
    return torch.cat([images for images, _ in context.data(context.config).test_dataloader()])


def test_openvino_answers_what_the_module_answers_for_any_number_of_images(
    with_openvino: Path, classifier: Classifier, batch: torch.Tensor
) -> None:
    model = Model(with_openvino, CPU)
    assert str(model.engine.choice) == "openvino fp32"
    with torch.inference_mode():
        own = classifier(batch)
    for count in (1, 3, 8, len(batch)):
        np.testing.assert_allclose(model.scores(batch[:count]), own[:count], rtol=1e-3, atol=1e-5)
    channels_last = batch.contiguous(memory_format=torch.channels_last)
    np.testing.assert_allclose(model.scores(channels_last), own, rtol=1e-3, atol=1e-5)


def test_a_small_graph_of_a_huge_layer_is_not_taken(tmp_path: Path) -> None:
    import openvino
    from openvino import opset13

    images = opset13.parameter([-1, 3, 32, 32], np.float32)
    huge = opset13.broadcast(
        opset13.constant(np.float32(1)), opset13.constant([1_000_000, 100_000])
    )
    scores = opset13.add(
        opset13.reduce_mean(images, [1, 2, 3], keep_dims=True), opset13.reduce_mean(huge, [0, 1])
    )
    openvino.save_model(openvino.Model([scores], [images]), tmp_path / "model.xml")
    with raises_code("BL509", names="100,000,000,000"):
        OpenVinoEngine(tmp_path / "model.xml", "fp32")


def test_rows_stay_with_their_images_when_many_threads_ask(
    with_openvino: Path, batch: torch.Tensor
) -> None:
    model = Model(with_openvino, CPU)
    alone = [model.scores(image[None]) for image in batch]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda image: model.scores(image[None]), batch))
    for one, other in zip(alone, together, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.skipif(
    not Path("/proc/self/task").exists(), reason="tells threads apart by Linux's /proc"
)
def test_threads_may_run_on_any_core_so_that_two_workers_do_not_share_one(
    with_openvino: Path,
) -> None:
    others = {task.name for task in Path("/proc/self/task").iterdir()}  # of other tests' engines
    model = Model(with_openvino, CPU, "openvino")
    images = torch.zeros(32, 3, model.transform.crop, model.transform.crop, dtype=torch.uint8)
    seen: set[frozenset[int]] = set()
    with ThreadPoolExecutor(1) as pool:
        for compute in (model.scores, *model.engine.split()):
            computed = pool.submit(lambda compute=compute: [compute(images) for _ in range(10)])
            while not computed.done():  # a thread is bound for as long as it computes
                for task in Path("/proc/self/task").iterdir():
                    if task.name in others:
                        continue
                    with suppress(OSError):  # it has ended
                        seen.add(frozenset(os.sched_getaffinity(int(task.name))))
    assert seen == {frozenset(os.sched_getaffinity(0))}


def test_the_network_is_there_for_explanations_whatever_answers(with_openvino: Path) -> None:
    from breedlab.serving.grad_cam import Explainer

    model = Model(with_openvino, CPU)
    assert Explainer(model.network, model.transform).layer


def test_an_engine_can_be_asked_for(with_openvino: Path, folder: Path) -> None:
    assert Model(with_openvino, CPU, "eager").engine.choice == MODULE
    assert Model(with_openvino, CPU, "openvino").engine.choice.engine == "openvino"
    with raises_code("BL500", names="serving.engine=openvino"):
        Model(folder, CPU, "openvino")


def missing_package(content: Path, patch: pytest.MonkeyPatch) -> None:
    patch.setitem(sys.modules, "openvino", None)
    # this process has one already
    patch.setattr(openvino_core, "core", openvino_core.core.__wrapped__)


def missing_file(content: Path, patch: pytest.MonkeyPatch) -> None:
    shutil.rmtree(content / "engines")


def cut_weights(content: Path, patch: pytest.MonkeyPatch) -> None:
    file = content / "engines" / "fp32.bin"
    file.write_bytes(file.read_bytes()[:1000])


def no_graph(content: Path, patch: pytest.MonkeyPatch) -> None:
    (content / "engines" / "fp32.xml").write_text("<net/>")


def other_network(content: Path, patch: pytest.MonkeyPatch) -> None:
    network = Model(content, CPU, "eager").network
    torch.nn.init.normal_(network.head[-1].weight)
    openvino_export.write_graph(
        openvino_export.convert(network, network.side), content / "engines/fp32.xml", halves=False
    )


def other_classes(content: Path, patch: pytest.MonkeyPatch) -> None:
    network = Model(content, CPU, "eager").network
    network.head[-1] = torch.nn.Linear(network.head[-1].in_features, 5)
    openvino_export.write_graph(
        openvino_export.convert(network, network.side), content / "engines/fp32.xml", halves=False
    )


@pytest.mark.parametrize(
    ("damage", "code", "named"),
    [
        (missing_package, "BL401", "openvino"),
        (missing_file, "BL509", "OpenVINO"),
        (cut_weights, "BL509", "OpenVINO"),
        (no_graph, "BL509", "OpenVINO"),
        (other_network, "BL510", "scores"),
        (other_classes, "BL510", "5 scores"),
    ],
)
def test_what_cannot_run_here_leaves_the_answer_to_pytorch_and_says_so(
    damage: Callable[[Path, pytest.MonkeyPatch], None],
    code: str,
    named: str,
    content: Path,
    classifier: Classifier,
    batch: torch.Tensor,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    damage(content, monkeypatch)
    model = Model(content, CPU)
    assert model.engine.choice == MODULE
    (warning,) = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert warning.startswith("engines/fp32.xml ") and named in warning
    assert "PyTorch" in warning and "\n" not in warning
    with torch.inference_mode():
        np.testing.assert_allclose(model.scores(batch), classifier(batch), rtol=1e-4, atol=1e-5)
    with raises_code(code, names=("engines/fp32.xml", named)):
        Model(content, CPU, "openvino")


def test_bf16_is_not_emulated(
    add_engine: Callable[[Path, str], Path],
    classifier: Classifier,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    import openvino

    content = add_engine(tmp_path / "content", "bf16")
    caplog.clear()  # where bf16 is not native, the first load has said so, too
    asked = openvino.Core.get_property
    monkeypatch.setattr(eager, "multiplies_bf16", lambda device: False)
    monkeypatch.setattr(
        openvino.Core,
        "get_property",
        lambda self, *words: (
            ["FP32"] if words[-1] == "OPTIMIZATION_CAPABILITIES" else asked(self, *words)
        ),
    )
    assert OpenVinoEngine(content / "engines" / "bf16.xml", "bf16").choice == Choice(
        "openvino", "fp32"
    )
    assert eager.EagerEngine(classifier, CPU, "bf16").choice == Choice("eager", "fp32")
    assert [("no native bf16" in record.message) for record in caplog.records] == [True, True]


@pytest.mark.parametrize("halves", [False, True])
def test_the_same_network_makes_the_same_files(
    classifier: Classifier, graph: Any, tmp_path: Path, halves: bool
) -> None:
    made = []
    again = openvino_export.convert(classifier, classifier.side)
    for name, each in (("a", graph), ("b", again)):
        openvino_export.write_graph(each, tmp_path / name / "graph.xml", halves=halves)
        made.append({file.name: file.read_bytes() for file in (tmp_path / name).iterdir()})
    assert made[0] == made[1]
    assert sorted(made[0]) == ["graph.bin", "graph.xml"]
    text = made[0]["graph.xml"].decode()
    assert '"/' not in text and str(Path.cwd()) not in text and str(tmp_path) not in text


def test_an_archive_with_openvino_says_what_it_needs_and_runs_without_what_training_needs(
    with_openvino: Path, image: bytes, tmp_path: Path
) -> None:
    assert "openvino==" in (with_openvino / "code" / "requirements.txt").read_text()
    assert "nncf" not in (with_openvino / "code" / "requirements.txt").read_text()
    (tmp_path / "photo.jpg").write_bytes(image)
    program = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("lightning", "hydra", "pydantic", "rich", "nncf", "openvino_telemetry"):
            raise ImportError(f"{name} is not in the container")
sys.meta_path.insert(0, Refuse())
sys.path.insert(0, sys.argv[1] + "/code")
import inference
model = inference.model_fn(sys.argv[1])
images = inference.input_fn(open(sys.argv[2], "rb").read(), "image/jpeg")
print(inference.output_fn(inference.predict_fn(images, model), "application/json; verbose=1")[0].decode())
"""  # noqa: E501
    done = subprocess.run(
        [sys.executable, "-c", program, str(with_openvino), str(tmp_path / "photo.jpg")],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["engine"] == "openvino fp32"


def test_an_archive_of_before_there_were_engines_answers_with_the_module(
    folder: Path, tmp_path: Path, context: TrainingContext, classifier: Classifier
) -> None:
    write_folder(tmp_path, classifier, context.evaluation, context.classes, {})
    assert Model(tmp_path, CPU).engine.choice == MODULE
