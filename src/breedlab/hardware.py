"""How many cores there are for this process: in a container often fewer than the machine has."""

from __future__ import annotations


def available() -> int:
    """Cores that this process may keep busy, by its affinity and its cgroup's quota; at least 1.

    With more threads than that, a container (`docker run --cpus 2`, a limit of Kubernetes) is halted for the rest of
    each tenth of a second, and all that it does waits. Python and torch know no quota.
    """
    from joblib import cpu_count  # slower to import than all that `--help` needs

    return int(cpu_count())


def heed() -> None:
    """Has torch compute on no more threads than there are cores for."""
    import torch

    torch.set_num_threads(min(torch.get_num_threads(), available()))
