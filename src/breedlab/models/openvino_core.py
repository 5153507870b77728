"""OpenVINO's Core: one a process, kept until its end, that leaves the process's signals as they
were."""

from __future__ import annotations

from functools import cache
from typing import Any

from breedlab import signals


@cache
def core() -> Any:
    """Return the process's only Core.

    A Core costs a tenth of a second and, on processors with AMX, a signal stack: see
    `signals.same_stack`.
    """
    import openvino

    with signals.same_stack():
        core = openvino.Core()
        # a graph's file may be deleted before the model that was compiled from it
        core.set_property({"ENABLE_MMAP": False})
        core.get_versions("CPU")  # loads the plugin, which replaces the signal stack
    return core


def settings(precision: str, threads: int, streams: int) -> dict[str, Any]:
    """Return the settings by which a graph is compiled for the CPU.

    Args:
        precision: `bf16`; else fp32.
        threads: In all.
        streams: Requests that are computed side by side, which have the threads among them.
    """
    return {
        "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": streams,
        # Bound to cores, the threads of each process would take the first ones, and leave the
        # others idle; and threads that decode meanwhile need the cores, too.
        "ENABLE_CPU_PINNING": False,
    }


def computes_bf16() -> bool:
    """Return whether OpenVINO computes in bf16 here; where it would not, it takes fp32 without a
    word."""
    return "BF16" in core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
