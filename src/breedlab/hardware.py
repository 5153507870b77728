"""How many cores and how much memory there are for this process, in a container often less than the
machine has; and work on them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import TypeVar

_In = TypeVar("_In")
_Out = TypeVar("_Out")
_AHEAD = 64
_CGROUPS = Path("/sys/fs/cgroup")
_CGROUP_FILES = (
    (_CGROUPS / "memory.max", _CGROUPS / "memory.current", _CGROUPS / "memory.stat"),
    (
        _CGROUPS / "memory" / "memory.limit_in_bytes",
        _CGROUPS / "memory" / "memory.usage_in_bytes",
        _CGROUPS / "memory" / "memory.stat",
    ),
)
"""The limit, the use, and the cached files of versions 2 and 1, as a container sees its own."""


def available() -> int:
    """Return the number of cores that this process may use, by its affinity and its cgroup's quota;
    at least 1.

    With more threads than that, a container (`docker run --cpus 2`, a limit of Kubernetes) is
    halted for the rest of each tenth of a second, and all of its threads wait. Python and torch do
    not see the quota.
    """
    from joblib import cpu_count  # slower to import than all that `--help` needs

    return int(cpu_count())


def multiplies_bf16(device_type: str) -> bool:
    """Return whether a device, `cuda` or `cpu`, multiplies bf16 natively; emulated it is slower
    than fp32."""
    import torch

    if device_type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def free_memory() -> int:
    """Return how many bytes of memory this process can still have, by the machine and its
    container."""
    import psutil

    free = int(psutil.virtual_memory().available + psutil.swap_memory().free)
    for limit, used, cached in _CGROUP_FILES:
        try:
            most, used_bytes = int(limit.read_text()), int(used.read_text())
            stat = dict(line.split() for line in cached.read_text().splitlines())
        except (OSError, ValueError):  # not in such a cgroup, or "max"
            continue
        # Cached files are counted as used, and given back when something else needs the memory.
        given_back = int(stat.get("total_inactive_file", stat.get("inactive_file", 0)))
        free = min(free, max(0, most - used_bytes + given_back))
    return free


def in_threads(work: Callable[[_In], _Out], items: Iterable[_In]) -> Iterator[_Out]:
    """Yield what `work` returns for each item, in order, computed by a thread a core.

    Only a few items are taken ahead: Ctrl-C waits for a few, and few results are in memory.
    """
    with ThreadPoolExecutor(available()) as pool:
        queue = iter(items)
        window = [pool.submit(work, item) for item in islice(queue, _AHEAD)]
        while window:
            result = window.pop(0).result()
            window += [pool.submit(work, item) for item in islice(queue, 1)]
            yield result


def heed() -> None:
    """Limit torch to the available cores."""
    import torch

    torch.set_num_threads(min(torch.get_num_threads(), available()))
