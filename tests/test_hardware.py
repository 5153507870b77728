"""Threads are counted by the cores that are there for a process, not by those that the machine
has."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest


@pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity"), reason="this system binds no process to cores"
)
def test_a_process_bound_to_one_core_has_one() -> None:
    one = min(os.sched_getaffinity(0))
    code = (
        f"import os; os.sched_setaffinity(0, {{{one}}}); from breedlab import hardware;"
        " print(hardware.available())"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "1"


def test_torch_takes_no_more_threads_than_there_are_cores() -> None:
    code = """if True:
        import torch
        from breedlab import hardware
        torch.set_num_threads(4)
        hardware.heed()
        print(torch.get_num_threads())
    """
    # joblib's own way to say what a cgroup's quota says
    limited = {**os.environ, "LOKY_MAX_CPU_COUNT": "1"}
    assert (
        subprocess.check_output([sys.executable, "-c", code], text=True, env=limited).strip() == "1"
    )
