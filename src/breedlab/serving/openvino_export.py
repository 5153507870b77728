"""From the network to OpenVINO's graph, in 32-bit or 8-bit numbers, as files that are the same each
time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from breedlab import signals
from breedlab.models.openvino_export import convert as convert
from breedlab.models.openvino_export import quiet

Progress = Callable[[int, int], None]


def is_installed() -> bool:
    """Return whether the `engines` extra is installed."""
    return find_spec("openvino") is not None and find_spec("nncf") is not None


def quantize(graph: Any, images: Sequence[torch.Tensor], progress: Progress) -> Any:
    """Quantize the graph to int8 with static ranges, calibrated on images.

    Args:
        graph: From `convert`.
        images: uint8 (3, side, side) each; like those that the model will be asked about, but not
            those that test it.
        progress: Called with how many have been run.
    """

    def image(numbered: tuple[int, torch.Tensor]) -> Any:
        progress(numbered[0], len(images))
        return as_input(numbered[1])

    with quantizing() as nncf:
        data = nncf.Dataset(list(enumerate(images, 1)), image)
        return nncf.quantize(
            graph, data, subset_size=len(images), preset=nncf.QuantizationPreset.MIXED
        )


@contextmanager
def quantizing() -> Iterator[Any]:
    """Yield NNCF, kept quiet; it compiles with its own Core, which may replace the thread's signal
    stack (`signals.same_stack`)."""
    with quiet(), signals.same_stack():
        import nncf

        yield nncf


def as_input(image: torch.Tensor) -> Any:
    """Return an image, uint8 (3, side, side), as a graph takes it: a batch of one."""
    return image[None].contiguous().numpy()


def write_graph(graph: Any, file: Path, *, halves: bool) -> None:
    """Write an .xml file, and a .bin file next to it.

    Args:
        graph: From `convert` or `quantize`; it gets other names.
        file: The .xml.
        halves: Keep weights in 16 bits: half the size, and nothing lost to what computes in bf16.
    """
    import openvino

    # Names contain the process's running numbers, and the rest says which program wrote the file
    # and how.
    for number, node in enumerate(graph.get_ordered_ops()):
        node.set_friendly_name(f"{node.get_type_name()}_{number}")
        for port in node.outputs():
            port.get_tensor().set_names(set())
    graph.set_friendly_name("classifier")
    rt_info = graph.get_rt_info()
    for key in list(rt_info):
        del rt_info[key]
    file.parent.mkdir(exist_ok=True)
    openvino.save_model(graph, str(file), compress_to_fp16=halves)
