"""Loading images where the shared memory is small, as in a container: on a real one, which is
mounted for it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from breedlab.data.shared_memory import Loading, fitting

MB = 10**6

LOAD = """
import sys, time
from pathlib import Path
from breedlab.config import validate
from breedlab.config.compose import load
from breedlab.data.folders import scan
from breedlab.data.module import ImageData
from breedlab.data.transforms import EvalTransform
config = validate(load(["experiment=quickstart", "data=image_folder", f"data.root={sys.argv[1]}",
                        "data.batch_size=10", "data.num_workers=4"]))
evaluation = EvalTransform(146, 128, "bilinear", (0.5,) * 3, (0.5,) * 3)
images = scan(Path(sys.argv[1]), valid_fraction=0.1, test_fraction=0.1, seed=0)
data = ImageData(images, config.data, evaluation, 0, None)
print(data.describe_loading())
seen = 0
for images, labels in data.train_dataloader():
    time.sleep(0.2)  # a step, during which batches pile up
    seen += len(labels)
print("seen", seen)
"""


@pytest.mark.parametrize(
    ("megabytes", "says"),
    [(1, "images are loaded in this process"), (3, "images are loaded in this process"), (200, "")],
)
def test_images_are_loaded_whatever_size_the_shared_memory_has(
    image_folder: Path, megabytes: int, says: str
) -> None:
    command = (
        f"mount -t tmpfs -o size={megabytes}m tmpfs /dev/shm && exec {sys.executable} -c '{LOAD}'"
        f" {image_folder}"
    )
    if subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode:
        pytest.skip("this user may mount nothing")
    done = subprocess.run(
        ["unshare", "-m", "bash", "-c", command], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    first, last = done.stdout.splitlines()
    assert last == "seen 100"
    assert says in first and bool(first) == bool(says)
    assert not says or (f"/dev/shm has {megabytes} MB free" in first and "--shm-size" in first)


@pytest.mark.parametrize(
    ("free", "expected"),
    [
        (None, Loading(8)),
        (300 * MB, Loading(8)),
        (150 * MB, Loading(8, 1)),
        (64 * MB, Loading(3, 1)),
        (MB, Loading(0)),
    ],
)
def test_fewer_batches_are_ahead_before_fewer_processes_load(
    free: int | None, expected: Loading
) -> None:
    assert fitting(8, 64 * 3 * 224 * 224, free) == expected
    assert fitting(0, MB, free) == Loading(0)
