"""From the network to OpenVINO's graph, in 32-bit or 8-bit numbers, as files that are the same each time."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn

Progress = Callable[[int, int], None]


def is_installed() -> bool:
    """Whether the `engines` extra is there."""
    return find_spec("openvino") is not None and find_spec("nncf") is not None


def convert(network: nn.Module, side: int) -> Any:
    """OpenVINO's graph of a network in evaluation mode: uint8 photos (n, 3, side, side) in, logits out."""
    with _quiet():
        import openvino

        # Two photos: traced with one, some networks take the one for a constant.
        example = torch.zeros(2, 3, side, side, dtype=torch.uint8)
        graph = openvino.convert_model(network, example_input=example)
        graph.reshape([-1, 3, side, side])
    return graph


def quantise(graph: Any, photos: Sequence[torch.Tensor], progress: Progress) -> Any:
    """The graph in int8: static ranges, found by running it on photos.

    Args:
        graph: From `convert`.
        photos: uint8 (3, side, side) each; what the model will be asked about, and not what tests it.
        progress: Called with how many have been run.
    """
    with _quiet():
        import nncf

        def photo(numbered: tuple[int, torch.Tensor]) -> Any:
            progress(numbered[0], len(photos))
            return numbered[1][None].contiguous().numpy()

        data = nncf.Dataset(list(enumerate(photos, 1)), photo)
        return nncf.quantize(graph, data, subset_size=len(photos), preset=nncf.QuantizationPreset.MIXED)


def write_graph(graph: Any, file: Path, *, halves: bool) -> None:
    """Writes an .xml, and a .bin beside it.

    Args:
        graph: From `convert` or `quantise`; it gets other names.
        file: The .xml.
        halves: Keep weights in 16 bits: half the size, and nothing lost to what computes in bf16.
    """
    import openvino

    # Names hold running numbers of the process, and the rest says which program wrote it and how.
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


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the tools' own bars and lines, and without their reports to their makers.

    OpenVINO's converter and NNCF send usage figures out unless the package that does so is missing.
    """
    import rich

    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)  # NNCF tells how it goes, and its import looks for a CUDA compiler in vain
    rich.reconfigure(quiet=True)  # the console that NNCF draws on; ours is another
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        rich.reconfigure()
        logging.disable(before)
