"""What serving costs beside the bare engine, and beside LitServe and TorchServe with the same engine.

Real HTTP requests with photos of about 75 KB over loopback, 1, 8 and 32 at once, each asked again as soon as it is
answered. The bare engine decodes the same photos on as many threads as the server may, and takes the best batch that so
many photos allow. The load generator is one process that takes a few percent of a core from each server alike.
"""

from __future__ import annotations

import os
import socket
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from itertools import cycle, islice
from pathlib import Path
from statistics import median
from typing import Any

from _harness import Ratio, machine, parse, report, say
from _load import load
from _photos import photos
from _served import ENGINES, Served, exported, litserve, ours

CONCURRENCY = (1, 8, 32)
_BARE_TARGETS = {1: 0.95, 8: 0.88, 32: 0.95}
_LITSERVE_TARGETS = {1: 1.15, 8: 0.97, 32: 0.97}


def main() -> None:
    engines = ("--engine", f"one of {', '.join(ENGINES)} (default: openvino-int8)")
    args = parse(__doc__, 5, 1, engines, ("--seconds", "of each measurement (default: 5, with --small 2)"))
    engine = args.engine or ENGINES[-1]
    seconds = float(args.seconds or (2 if args.small else 5))
    here = machine()
    files = sorted((photos(20, 60, 20) / "train").rglob("*.jpg"))
    folder = exported(engine, files)
    bare = _bare(folder, files)
    ratios: dict[str, Ratio] = {}
    figures: dict[str, list[float]] = defaultdict(list)

    with ExitStack() as stack:
        mine = stack.enter_context(ours(folder, files))
        # Its documentation: batches for throughput, with a small timeout; and as it comes, without.
        theirs = [
            stack.enter_context(litserve(folder, files, _free_port(), batch, timeout))
            for batch, timeout in ((1, 0.0), (8, 0.005), (32, 0.01))
        ]
        for server in (mine, *theirs):
            _ask(server, 8, 1.0)
        for number in range(args.rounds):
            for at_once in CONCURRENCY:
                alone = bare(at_once, seconds)
                answers = {server.name: _ask(server, at_once, seconds) for server in (mine, *theirs)}
                figures[f"bare engine at {at_once}, photos/s"].append(alone)
                for name, found in answers.items():
                    figures[f"{name} at {at_once}, photos/s"].append(found["per_second"])
                    figures[f"{name} at {at_once}, p50 ms"].append(found["p50"])
                    figures[f"{name} at {at_once}, p99 ms"].append(found["p99"])
                own = answers["ours"]["per_second"]
                best = max(answers[server.name]["per_second"] for server in theirs)
                for title, ratio, target in (
                    (f"ours / bare engine at {at_once}", own / alone, _BARE_TARGETS[at_once]),
                    (f"ours / the better LitServe at {at_once}", own / best, _LITSERVE_TARGETS[at_once]),
                ):
                    ratios.setdefault(title, Ratio(title, [], target)).pairs.append(ratio)
                shown = ", ".join(f"{name} {found['per_second']:.1f}" for name, found in answers.items())
                load_share = answers["ours"]["cores"]
                say(f"round {number + 1}, {at_once} at once: bare {alone:.1f}, {shown} photos/s; load {load_share:.0%}")
    report(args, f"serving-{engine}", here, list(ratios.values()), {k: median(v) for k, v in figures.items()})


def _ask(server: Served, at_once: int, seconds: float) -> dict[str, Any]:
    return load(server.port, server.path, at_once, seconds, server.kind, server.files)


def _bare(folder: Path, files: list[Path]) -> Callable[[int, float], float]:
    """Photos a second of the engine alone, by how many there are at once: the best batch that allows."""
    import numpy as np
    import torch

    from breedlab.data.decode import keep_memory
    from breedlab.serving.handler import Model
    from breedlab.serving.intake import decoders

    keep_memory()
    model = Model(folder)
    contents = cycle([path.read_bytes() for path in files])
    threads = decoders(os.cpu_count() or 1, "decode")

    def prepare(photo: bytes) -> Any:
        return model.prepare(photo).contiguous().numpy()

    def run(batch: int) -> None:
        # As the server does: what it spares must be spared here, too.
        model.scores(torch.from_numpy(np.stack(list(threads.map(prepare, islice(contents, batch))))))

    def measure(at_once: int, seconds: float) -> float:
        sizes = [size for size in (1, 2, 4, 8, 16, 32) if size <= at_once]
        best = 0.0
        for size in sizes:
            run(size)
            share = seconds / len(sizes)
            started, done = time.perf_counter(), 0
            while time.perf_counter() - started < share:
                run(size)
                done += size
            best = max(best, done / (time.perf_counter() - started))
        return best

    return measure


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


if __name__ == "__main__":
    main()
