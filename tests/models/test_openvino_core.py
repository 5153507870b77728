"""OpenVINO leaves the process's signals alone: a run that used it can still be told to stop."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("openvino")
pytest.importorskip("nncf")

PROGRAM = """
import ctypes, gc, os, signal, threading
import torch
from breedlab.models.openvino_core import core
from breedlab.models.openvino_export import convert
from breedlab.serving.openvino_export import quantize


def stack():
    words = (ctypes.c_size_t * 3)()
    ctypes.CDLL(None).sigaltstack(None, ctypes.byref(words))
    return list(words)


class Network(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Conv2d(3, 4, 3)

    def forward(self, images):
        return self.layer(images.float()).mean((2, 3))


heard = []
signal.signal(signal.SIGUSR1, lambda *_: heard.append(1))
before = stack()


def use():
    graph = convert(Network().eval(), 16)
    compiled = core().compile_model(graph, "CPU")
    compiled([torch.zeros(1, 3, 16, 16, dtype=torch.uint8).numpy()])
    held.append(quantize(graph, [torch.zeros(3, 16, 16, dtype=torch.uint8)] * 2, lambda *_: None))
    held.append(compiled)


held = []
{order}
assert stack() == before, (stack(), before)
for _ in range(200):
    os.kill(os.getpid(), signal.SIGUSR1)
print(len(heard))
"""

ORDERS = {
    "made here, gone in a thread": (
        """
use()
thread = threading.Thread(target=lambda: (held.clear(), gc.collect()))
thread.start()
thread.join()
"""
    ),
    "made in a thread, gone here": (
        """
thread = threading.Thread(target=use)
thread.start()
thread.join()
held.clear()
gc.collect()
"""
    ),
    "the first gone first": (
        """
use()
use()
del held[:2]
gc.collect()
held.clear()
gc.collect()
"""
    ),
}


@pytest.mark.parametrize("order", ORDERS)
def test_a_process_that_used_openvino_hears_signals(order: str, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM.replace("{order}", ORDERS[order]))
    done = subprocess.run([sys.executable, program], capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout.split()[-1:]) == (0, ["200"]), done.stderr[-2000:]
