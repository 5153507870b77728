"""Memory of a search over activations that are larger than the memory there is.

The product's own command, from the check of the images to the export, on a network that is frozen
after its first layer: 600 KB an image and view, 5 GB in all. Where this user may make a cgroup (in
a container usually root), the run gets 2.5 GB, page cache included, and so has to read activations
from the disk again and again; elsewhere it is only watched. What counts is the peak of memory that
no file stands behind, over all processes of the run.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from _harness import CACHE, ROOT, Ratio, machine, parse, report, say
from _images import drawn_images

_MOST_GB, _LIMIT_GB = 1.5, 2.5
_EVERY_S = 0.5
_CGROUPS = {  # where a group is made, and the file that limits it: version 2, and 1
    Path("/sys/fs/cgroup"): "memory.max",
    Path("/sys/fs/cgroup/memory"): "memory.limit_in_bytes",
}


def main() -> None:
    args = parse(__doc__, 1, 1)
    here = machine()
    views = 2 if args.small else 8
    root = drawn_images(16, 1024, 256)
    peaks: list[float] = []
    with tempfile.TemporaryDirectory(prefix="memory-", dir=CACHE) as scratch, _limited() as group:
        for number in range(args.rounds):
            home = Path(scratch, str(number))
            peak, line = _peak(_command(root, home, views), group)
            peaks.append(peak / 1e9)
            say(f"round {number + 1} of {args.rounds}: {peaks[-1]:.2f} GB at most, after: {line}")
            activations = sum(file.stat().st_size for file in home.glob("cache/*.npy")) / 1e9
    excuse = "targets are for the full size" if args.small else ""
    ratios = [Ratio("memory that no file stands behind, GB", peaks, _MOST_GB, "at most", excuse)]
    figures = {
        "activations, GB": activations,
        "memory that the run may take, page cache included, GB": _LIMIT_GB if group else "all",
    }
    report(args, "memory", here, ratios, figures)


def _command(root: Path, home: Path, views: int) -> list[str]:
    return [
        sys.executable,
        str(ROOT / "scripts" / "launch.py"),
        "experiment=resnet34_hpo",
        "model.name=shufflenet_v2_x0_5",
        "model.weights=none",
        "model.freeze=conv1",
        "data=image_folder",
        f"data.root={root}",
        f"runs_dir={home / 'runs'}",
        f"cache.dir={home / 'cache'}",
        f"cache.views={views}",
        "cache.max_gb=20",
        "data.augment=basic",
        "tuner.trials=2",
        "tuner.max_epochs=1",
        "trainer.max_epochs=1",
        "debugger=none",
        "profiler=none",
        "serving.engine=eager",
        "serving.precision=fp32",
    ]


@contextmanager
def _limited() -> Iterator[Path | None]:
    """Give the folder of a cgroup that limits memory; None where this user may make none."""
    for parent, file in _CGROUPS.items():
        group = parent / f"breedlab-{os.getpid()}"
        try:
            group.mkdir()
            with (group / file).open("r+") as limit:  # never made: it is there in a cgroup alone
                limit.write(str(int(_LIMIT_GB * 1e9)))
        except OSError:
            with suppress(OSError):
                group.rmdir()
            continue
        try:
            yield group
        finally:
            group.rmdir()
        return
    say("this user may make no cgroup: the run is watched, not limited")
    yield None


def _peak(command: list[str], group: Path | None) -> tuple[int, str]:
    """Return the most bytes that a command and its processes had at once, and the last line that it
    had printed by then."""

    def join() -> None:
        if group is not None:
            (group / "cgroup.procs").write_text(str(os.getpid()))

    peak, line = 0, ""
    with tempfile.NamedTemporaryFile("w+") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, preexec_fn=join)
        try:
            while process.poll() is None:
                if (now := sum(map(_unbacked, _tree(process.pid)))) > peak:
                    peak, printed = now, Path(log.name).read_text().split("\n")
                    line = next(filter(None, map(str.strip, reversed(printed))), "")
                time.sleep(_EVERY_S)
        finally:
            process.kill()
        if process.returncode:
            printed = Path(log.name).read_text()
            raise SystemExit(f"the run ended with {process.returncode}:\n{printed[-3000:]}")
    return peak, line


def _tree(pid: int) -> list[int]:
    import psutil

    try:
        root = psutil.Process(pid)
        return [pid, *(child.pid for child in root.children(recursive=True))]
    except psutil.NoSuchProcess:
        return []


def _unbacked(pid: int) -> int:
    """Return the bytes of a process's memory that are in no file; what processes share is divided
    among them."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:  # it ended
        return 0
    wanted = [line.split() for line in lines if line.startswith(("Pss_Anon:", "Pss_Shmem:"))]
    return 1024 * sum(int(kilobytes) for _, kilobytes, _ in wanted)


if __name__ == "__main__":
    main()
