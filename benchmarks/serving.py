"""What serving costs beside the bare engine, and beside LitServe and TorchServe with the same engine.

Real HTTP requests with photos of about 75 KB over loopback, 1, 8 and 32 at once, each asked again as soon as it is
answered. The bare engine decodes the same photos on as many threads as the server may, in the best batches that so many
photos allow, on all cores or on each by itself. The peers prepare photos as their documentation does, by Pillow and
torchvision; by our decoder with `--decoder ours`, so that only the servers differ. The load generator is one process
that takes a few percent of a core from each server alike.
"""

from __future__ import annotations

import os
import threading
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
from _served import ENGINES, Served, exported, free_port, litserve, ours, torchserve

from breedlab.backends.sagemaker.stack import find_environment

CONCURRENCY = (1, 8, 32)
_BARE_TARGETS = {1: 0.95, 8: 0.88, 32: 0.95}
_LITSERVE_TARGETS = {1: 1.15, 8: 0.97, 32: 0.97}
_TORCHSERVE_TARGETS = {1: 1.2, 8: None, 32: 1.2}
_BATCHES = ((1, 0.0), (8, 0.005), (32, 0.01))
"""Both peers' documentation has one set the largest batch, and how many seconds to wait for it; each is tried."""


def main() -> None:
    engines = ("--engine", f"one of {', '.join(ENGINES)} (default: openvino-int8)")
    decoders = ("--decoder", "ours: the peers get our decoder, too (default: usual, that of their documentation)")
    args = parse(__doc__, 5, 1, engines, decoders, ("--seconds", "of each measurement (default: 5, with --small 2)"))
    engine, decoder = args.engine or ENGINES[-1], args.decoder or "usual"
    if decoder not in ("usual", "ours"):
        raise SystemExit(f"--decoder: expected usual or ours, not {decoder}")
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
            stack.enter_context(litserve(folder, files, free_port(), batch, timeout, decoder))
            for batch, timeout in _BATCHES
        ]
        python, missing = find_environment()
        others = [] if python is None else stack.enter_context(torchserve(folder, files, python, _BATCHES, decoder))
        if not others:
            say(f"without TorchServe: {missing}")
        for server in (mine, *theirs, *others):
            _ask(server, 8, 1.0)
        for number in range(args.rounds):
            for at_once in CONCURRENCY:
                alone = bare(at_once, seconds)
                answers = {server.name: _ask(server, at_once, seconds) for server in (mine, *theirs, *others)}
                figures[f"bare engine at {at_once}, photos/s"].append(alone)
                for name, found in answers.items():
                    figures[f"{name} at {at_once}, photos/s"].append(found["per_second"])
                    figures[f"{name} at {at_once}, p50 ms"].append(found["p50"])
                    figures[f"{name} at {at_once}, p99 ms"].append(found["p99"])
                own = answers["ours"]["per_second"]
                claims = [(f"ours / bare engine at {at_once}", own / alone, _BARE_TARGETS[at_once])]
                for peer, servers, targets in (
                    ("LitServe", theirs, _LITSERVE_TARGETS),
                    ("TorchServe", others, _TORCHSERVE_TARGETS),
                ):
                    if servers:
                        best = max(answers[server.name]["per_second"] for server in servers)
                        claims.append((f"ours / the best {peer} at {at_once}", own / best, targets[at_once]))
                for title, ratio, target in claims:
                    ratios.setdefault(title, Ratio(title, [], target)).pairs.append(ratio)
                shown = ", ".join(f"{name} {found['per_second']:.1f}" for name, found in answers.items())
                load_share = answers["ours"]["cores"]
                say(f"round {number + 1}, {at_once} at once: bare {alone:.1f}, {shown} photos/s; load {load_share:.0%}")
    suffix = "-our-decoder" if decoder == "ours" else ""
    report(args, f"serving-{engine}{suffix}", here, list(ratios.values()), {k: median(v) for k, v in figures.items()})


def _ask(server: Served, at_once: int, seconds: float) -> dict[str, Any]:
    """What the server answers, while all others are halted, and once its memory is warm again."""
    server.go_on()
    try:
        load(server.port, server.path, at_once, 1.0, server.kind, server.files)
        return load(server.port, server.path, at_once, seconds, server.kind, server.files)
    finally:
        server.halt()


def _bare(folder: Path, files: list[Path]) -> Callable[[int, float], float]:
    """Photos a second of the engine alone, by how many there are at once: the best way to compute so many.

    Batches of any size that so many allow, each on all cores, or on a part of them with the others beside it.
    """
    import numpy as np
    import torch

    from breedlab.data.decode import keep_memory
    from breedlab.serving.handler import Model
    from breedlab.serving.intake import decoders

    keep_memory()
    model = Model(folder)
    parts = model.engine.split()
    contents = cycle([path.read_bytes() for path in files])
    threads = decoders(os.cpu_count() or 1, "decode")

    def prepare(photo: bytes) -> Any:
        return model.prepare(photo).contiguous().numpy()

    def together(batch: int) -> None:
        # As the server does: what it spares must be spared here, too.
        model.scores(torch.from_numpy(np.stack(list(threads.map(prepare, islice(contents, batch))))))

    def rate(batch: int, until: float) -> float:
        started, done = time.perf_counter(), 0
        while time.perf_counter() < until:
            together(batch)
            done += batch
        return done / (time.perf_counter() - started)

    def rate_apart(batch: int, until: float) -> float:
        lock, started = threading.Lock(), time.perf_counter()

        def work(part: Callable[[Any], Any]) -> int:
            done = 0
            while time.perf_counter() < until:
                with lock:
                    photos = list(islice(contents, batch))
                part(torch.from_numpy(np.stack([prepare(photo) for photo in photos])))
                done += batch
            return done

        done = sum(threads.map(work, parts))
        return done / (time.perf_counter() - started)

    best: dict[int, tuple[Callable[[int, float], float], int]] = {}

    def measure(at_once: int, seconds: float) -> float:
        if at_once not in best:
            # Found once: the best of many short measurements of each round would be their luckiest, too.
            ways = [(rate, size) for size in (1, 2, 4, 8, 16, 32) if size <= at_once]
            ways += [(rate_apart, size) for size in (1, 2, 4, 8, 16) if parts and size * len(parts) <= at_once]
            for way, size in ways:
                way(size, time.perf_counter() + 0.01)  # once, for what the first time costs
            best[at_once] = max(ways, key=lambda found: found[0](found[1], time.perf_counter() + 2))
        way, size = best[at_once]
        return way(size, time.perf_counter() + seconds)

    return measure


if __name__ == "__main__":
    main()
