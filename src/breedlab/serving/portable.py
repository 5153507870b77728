"""A model as a file that other programs run without breedlab: ONNX, or PyTorch's exported program.

Both take uint8 RGB images (n, 3, side, side), resized and cropped as `preprocessing` says, and
answer calibrated logits (`scores`) and `probabilities`. Normalization and temperature are inside.
"""

from __future__ import annotations

import io
import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from breedlab import extras
from breedlab.errors import ServingError
from breedlab.files import atomic_open
from breedlab.serving.engine_loading import probe
from breedlab.serving.engine_output import mirrored
from breedlab.serving.model import Model
from breedlab.version import __version__

OPSET = 18
_FAR = 1e-4
"""The largest accepted difference of two logits, as a share of the largest logit."""
_LIMIT = 2_000_000_000
"""Bytes of a protobuf message, which an ONNX file is."""


class Portable(nn.Module):
    """What the file computes: the network, its temperature, and softmax, or sigmoid if it is
    multi-label.

    Args:
        model: A loaded archive, on the CPU.
    """

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.network = model.network
        self.temperature = model.answers.temperature
        self.multi_label = model.answers.multi_label
        self.flip_tta = model.answers.flip_tta

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        compute = mirrored(self.network) if self.flip_tta else self.network
        scores = compute(images) / self.temperature
        return scores, scores.sigmoid() if self.multi_label else scores.softmax(1)


def metadata(model: Model) -> dict[str, str]:
    """Return what travels inside the file, as text: class names as JSON, and how to prepare an
    image."""
    transform, thresholds = model.transform, model.answers.thresholds
    return {
        **({} if thresholds is None else {"thresholds": json.dumps(thresholds)}),
        "classes": json.dumps(model.classes, ensure_ascii=False),
        "resize": str(transform.resize),
        "crop": str(transform.crop),
        "interpolation": transform.interpolation,
        "mean": json.dumps(transform.mean),
        "std": json.dumps(transform.std),
        "temperature": repr(model.answers.temperature),
        "preprocessing": (
            f"RGB, upright; shorter side to {transform.resize} pixels, {transform.interpolation},"
            f" antialiased; {transform.crop}x{transform.crop} from the center; uint8, channels"
            " first. Normalization and temperature are inside."
        ),
        "architecture": model.network.architecture.name,
        "breedlab": __version__,
    }


def write_onnx(model: Model, file: Path) -> None:
    """Write a model as ONNX, and have ONNX Runtime check that it answers the same.

    Raises:
        MissingExtra: If the `onnx` extra is not installed.
        ServingError: If the network cannot be written as ONNX, or the file answers otherwise.
    """
    extras.require("onnx", "an ONNX file")
    graph, example = _context(model)
    buffer = io.BytesIO()
    names = {"images": {0: "n"}, "scores": {0: "n"}, "probabilities": {0: "n"}}
    if sum(t.numel() * t.element_size() for t in graph.state_dict().values()) > _LIMIT:
        raise ServingError(
            f"{file}: the weights take more than {_LIMIT / 1e9:.0f} GB, which one ONNX file cannot"
            " hold; export --torch"
        )
    try:
        with _quiet(), torch.no_grad():
            # The newer exporter needs packages that smdebug's pin of protobuf forbids.
            torch.onnx.export(
                graph,
                (example,),
                buffer,  # type: ignore[arg-type]  # a file object is taken, too
                dynamo=False,
                opset_version=OPSET,
                input_names=["images"],
                output_names=["scores", "probabilities"],
                dynamic_axes=names,
            )
    except Exception as error:  # torch raises its own errors, RuntimeError, TypeError ...
        raise _not_written(model, file, error) from error
    content = buffer.getvalue() + _properties(metadata(model))
    _compare(_answers_of_onnx(content, example), graph, example, file)
    with atomic_open(file) as out:
        out.write(content)


def write_program(model: Model, file: Path) -> None:
    """Write a model as `torch.export` has it (.pt2): `torch.export.load(FILE).module()`.

    Raises:
        ServingError: If the network cannot be exported, or the file answers otherwise.
    """
    graph, example = _context(model)
    buffer = io.BytesIO()
    many = {"images": {0: torch.export.Dim("n", min=1)}}
    try:
        with _quiet(), torch.no_grad():
            program = torch.export.export(graph, (example,), dynamic_shapes=many)
            torch.export.save(
                program, buffer, extra_files={"metadata.json": json.dumps(metadata(model))}
            )
            buffer.seek(0)
            scores = torch.export.load(buffer).module()(example)[0]
    except Exception as error:
        raise _not_written(model, file, error) from error
    _compare(scores, graph, example, file)
    with atomic_open(file) as out:
        out.write(buffer.getvalue())


def _context(model: Model) -> tuple[Portable, torch.Tensor]:
    """Return the network to trace, and two images: traced with one, some networks take the one for
    a constant."""
    wave = probe(model.transform.crop)
    return Portable(model).eval(), torch.cat([wave, 255 - wave])


def _answers_of_onnx(content: bytes, images: torch.Tensor) -> torch.Tensor:
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    (scores,) = session.run(["scores"], {"images": images.numpy()})
    return torch.from_numpy(scores)


def _compare(outputs: torch.Tensor, graph: Portable, images: torch.Tensor, file: Path) -> None:
    with torch.no_grad():
        expected = graph(images)[0]
    apart = float((outputs - expected).abs().max())
    if not apart <= _FAR * max(1.0, float(expected.abs().max())):
        raise ServingError(
            f"{file}: would answer otherwise than the model (logits differ by up to {apart:.3g});"
            " it is not written"
        )


def _not_written(model: Model, file: Path, error: Exception) -> ServingError:
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    name = model.network.architecture.name
    return ServingError(f"{file}: PyTorch cannot export {name} to that ({reason})")


def _properties(pairs: Mapping[str, str]) -> bytes:
    """Return metadata as protobuf: appended to a serialized ModelProto, it becomes part of it.

    `metadata_props` is its field 14, of messages with a key (1) and a value (2).
    """
    content = b""
    for key, value in pairs.items():
        pair = _field(1, key.encode()) + _field(2, value.encode())
        content += _field(14, pair)
    return content


def _field(number: int, content: bytes) -> bytes:
    """Return a length-delimited field of protobuf."""
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    digits = []
    while value > 0x7F:
        digits.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*digits, value])


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporters' own warnings, which are about their authors' plans."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
