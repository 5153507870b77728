"""int8 whose rounding loses the answers, and NNCF's accuracy control, which finds where."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from breedlab.serving import accuracy_control, openvino_export
from breedlab.serving.accuracy_control import restore_accuracy
from breedlab.serving.answers import Answers
from breedlab.serving.engine_candidates import Candidate
from breedlab.serving.engine_gate import most_differing, objection
from breedlab.serving.engine_kinds import MODULE, Choice
from breedlab.serving.engines.openvino import OpenVinoEngine

pytestmark = pytest.mark.skipif(
    not openvino_export.is_installed(), reason="needs the engines extra"
)

SIDE, IMAGES = 16, 128


class Overshadowed(nn.Module):
    """Redder than green or not: a difference of a few steps of 255, beside a channel a thousand
    times as large, which shares its int8 range."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Conv2d(3, 3, 1)
        self.compare = nn.Conv2d(3, 2, 1)
        self.mix.weight.data = torch.tensor(
            [[1.0, -1.0, 0.0], [-1.0, 1.0, 0.0], [300.0, 300.0, 400.0]]
        )[..., None, None]
        self.mix.bias.data = torch.tensor([1.0, 1.0, 0.0])
        self.compare.weight.data = torch.tensor([[1.0, -1.0, 0.0], [-1.0, 1.0, 0.0]])[
            ..., None, None
        ]
        self.compare.bias.data.zero_()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        mixed = self.mix(images.float() / 255).relu()
        result: torch.Tensor = self.compare(mixed).mean((2, 3))
        return result


def some_images(seed: int) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    base = torch.randint(60, 200, (IMAGES, 1, 1, 1), generator=draw)
    offset = torch.randint(4, 12, (IMAGES, 1, 1, 1), generator=draw)
    sign = torch.randint(0, 2, (IMAGES, 1, 1, 1), generator=draw) * 2 - 1
    colors = torch.cat([base + sign * offset, base, base], 1)
    return colors.expand(-1, -1, SIDE, SIDE).to(torch.uint8).contiguous()


def decided(engine: OpenVinoEngine, images: torch.Tensor) -> torch.Tensor:
    return engine.scores(images).argmax(1)


Refused = tuple[Candidate, Any, Path, torch.Tensor, torch.Tensor, torch.Tensor]


@pytest.fixture
def refused(tmp_path: Path) -> Refused:
    """An int8 engine that the gate refuses, and what `restore_accuracy` gets with it."""
    network = Overshadowed().eval()
    calibration, validation = some_images(0), some_images(1)
    with torch.inference_mode():
        reference = network(validation).argmax(1)
    graph = openvino_export.convert(network, SIDE)
    file = tmp_path / "int8.xml"
    plain = openvino_export.quantize(graph, [*calibration], lambda *_: None)
    openvino_export.write_graph(plain, file, halves=False)
    candidate = Candidate(Choice("openvino", "int8"), OpenVinoEngine(file, "int8"), right=1.0)
    candidate.agreement = float((decided(candidate.engine, validation) == reference).float().mean())
    module = Candidate(MODULE, agreement=1.0, right=1.0)
    candidate.objection = objection(candidate, module, IMAGES)
    assert "agrees with the module on" in candidate.objection
    return candidate, graph, file, calibration, validation, reference


def test_layers_that_int8_ruins_stay_in_fp32(
    refused: Refused, capsys: pytest.CaptureFixture[str]
) -> None:
    candidate, _, file, *_ = refused
    assert restore_accuracy(*refused, Answers(classes=2))
    unseen = some_images(2)
    with torch.inference_mode():
        expected = Overshadowed().eval()(unseen).argmax(1)
    assert candidate.engine is not None
    agreement = float((candidate.engine.scores(unseen).argmax(1) == expected).float().mean())
    assert agreement >= 1 - most_differing(IMAGES)
    assert "FakeQuantize" in file.read_text(), "what does not lose stays in int8"
    assert "fp32" in candidate.as_dict()["verdict"]
    assert "again" in capsys.readouterr().out


def test_a_search_that_takes_too_long_leaves_the_engine_as_it_was(
    refused: Refused, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accuracy_control, "PATIENCE_S", 0.0)
    candidate, _, file, *_ = refused
    engine, content = candidate.engine, file.read_text()
    assert not restore_accuracy(*refused, Answers(classes=2))
    assert candidate.engine is engine and file.read_text() == content
    assert "took more than 0 minutes" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(("images", "allowed"), [(100, 0), (128, 1), (1000, 20)])
def test_as_many_answers_may_differ_as_the_gate_lets_through(images: int, allowed: int) -> None:
    module = Candidate(MODULE, agreement=1.0, right=0.9)
    assert round(most_differing(images) * images) == allowed
    for differing, refused in ((allowed, False), (allowed + 1, True)):
        agreement = (images - differing) / images
        int8 = Candidate(Choice("openvino", "int8"), agreement=agreement, right=0.9)
        assert bool(objection(int8, module, images)) is refused
