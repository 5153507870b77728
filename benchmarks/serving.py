"""What serving costs beside the bare engine, and beside LitServe and TorchServe with the same
engine.

Real HTTP requests with images of about 75 KB over loopback, 1, 8 and 32 at once, each asked again
as soon as it is answered. The bare engine decodes the same images on as many threads as the server
may, in the best batches that so many images allow, on all cores or on each by itself. The peers are
set up in each way that their documentation advises: one worker for all cores or one for each,
batches of several sizes; the best counts. They prepare images as it says, too, by Pillow and
torchvision; by our decoder with `--decoder ours`, so that only the servers differ. The load
generator is one process that takes a few percent of a core from each server alike.
"""

from __future__ import annotations

import os
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from itertools import chain, cycle, islice, product
from pathlib import Path
from statistics import median
from typing import Any

from _harness import Ratio, machine, parse, report, say
from _images import drawn_images
from _load import load
from _served import ENGINES, Served, Setting, exported, litserve, ours, torchserve

from breedlab.backends.sagemaker.endpoints.torchserve import find_environment

CONCURRENCY = (1, 8, 32)
_BARE_TARGETS = {1: 0.95, 8: 0.88, 32: 0.95}
_TARGETS = {"LitServe": {1: 1.15, 8: 0.97, 32: 0.97}, "TorchServe": {1: 1.2, 8: None, 32: 1.2}}
_CORES = os.cpu_count() or 1
_SETTINGS = [Setting(1, 1, 0.0), Setting(1, 8, 0.005), Setting(1, 32, 0.01)]
if _CORES > 1:
    _SETTINGS += [Setting(_CORES, 1, 0.0), Setting(_CORES, 8, 0.005)]
"""Of the peers, whose documentation has one set how many processes work, the largest batch, and the
wait for it."""


def main() -> None:
    engines = ("--engine", f"one of {', '.join(ENGINES)} (default: openvino-int8)")
    decoders = (
        "--decoder",
        "ours: the peers get our decoder, too (default: usual, that of their documentation)",
    )
    only = (
        "--at-once",
        (
            f"only so many requests at once: {' or '.join(map(str, CONCURRENCY))} (default: all of"
            " them)"
        ),
    )
    length = ("--seconds", "of each measurement (default: 5, with --small 2)")
    args = parse(__doc__, 5, 1, engines, decoders, only, length)
    engine, decoder = args.engine or ENGINES[-1], args.decoder or "usual"
    if decoder not in ("usual", "ours"):
        raise SystemExit(f"--decoder: expected usual or ours, not {decoder}")
    concurrency = [each for each in CONCURRENCY if args.at_once in (None, str(each))]
    if not concurrency:
        raise SystemExit(
            f"--at-once: expected one of {', '.join(map(str, CONCURRENCY))}, not {args.at_once}"
        )
    seconds = float(args.seconds or (2 if args.small else 5))
    here = machine()
    files = sorted((drawn_images(20, 60, 20) / "train").rglob("*.jpg"))
    folder = exported(engine, files)
    bare = _bare(folder, files)
    alone: dict[int, list[float]] = {at_once: [] for at_once in concurrency}
    answers: dict[tuple[str, int], list[dict[str, Any]]] = defaultdict(list)

    with ExitStack() as stack:
        mine = stack.enter_context(ours(folder, files))
        peers = {
            "LitServe": [
                stack.enter_context(litserve(folder, files, each, decoder)) for each in _SETTINGS
            ]
        }
        python, missing = find_environment()
        if python is None:
            say(f"without TorchServe: {missing}")
        else:
            peers["TorchServe"] = stack.enter_context(
                torchserve(folder, files, python, _SETTINGS, decoder)
            )
        servers = [mine, *chain.from_iterable(peers.values())]
        for server in servers:
            _ask(server, 8, 1.0)
        for number, at_once in product(range(args.rounds), concurrency):
            alone[at_once].append(bare(at_once, seconds))
            for server in servers:
                answers[server.name, at_once].append(_ask(server, at_once, seconds))
            shown = ", ".join(
                f"{server.name} {answers[server.name, at_once][-1]['per_second']:.1f}"
                for server in servers
            )
            load_share = answers["ours", at_once][-1]["cores"]
            say(
                f"round {number + 1}, {at_once} at once: bare {alone[at_once][-1]:.1f}, {shown};"
                f" load {load_share:.0%}"
            )

    ratios = []
    figures = {}
    for at_once in concurrency:
        rates = {
            server.name: [each["per_second"] for each in answers[server.name, at_once]]
            for server in servers
        }
        own = rates["ours"]
        ratios.append(
            _ratio(f"ours / bare engine at {at_once}", own, alone[at_once], _BARE_TARGETS[at_once])
        )
        for peer, settings in peers.items():
            # Its best setting, by all rounds: the best of each round would be its luckiest.
            best = max((server.name for server in settings), key=lambda name: median(rates[name]))
            ratios.append(
                _ratio(f"ours / {best} at {at_once}", own, rates[best], _TARGETS[peer][at_once])
            )
        figures[f"bare engine at {at_once}, images/s"] = median(alone[at_once])
        for server in servers:
            for key, unit in (("per_second", "images/s"), ("p50", "p50 ms"), ("p99", "p99 ms")):
                found = median(each[key] for each in answers[server.name, at_once])
                figures[f"{server.name} at {at_once}, {unit}"] = found
    suffix = ("-our-decoder" if decoder == "ours" else "") + (
        f"-at-{args.at_once}" if args.at_once else ""
    )
    report(args, f"serving-{engine}{suffix}", here, ratios, figures)


def _ratio(title: str, ours: list[float], theirs: list[float], target: float | None) -> Ratio:
    return Ratio(title, [one / other for one, other in zip(ours, theirs, strict=True)], target)


def _ask(server: Served, at_once: int, seconds: float) -> dict[str, Any]:
    """What the server answers, while all others are halted, and once its memory is warm again."""
    server.go_on()
    try:
        load(server.port, server.path, at_once, 1.0, server.kind, server.files)
        return load(server.port, server.path, at_once, seconds, server.kind, server.files)
    finally:
        server.halt()


def _bare(folder: Path, files: list[Path]) -> Callable[[int, float], float]:
    """Images a second of the engine alone, by how many there are at once: the best way to compute
    so many.

    Batches of any size that so many allow, each on all cores, or on a part of them with the others
    beside it.
    """
    import numpy as np
    import torch

    from breedlab.data.decode import keep_memory
    from breedlab.serving.model import Model
    from breedlab.serving.scoring import decoders

    keep_memory()
    model = Model(folder)
    parts = model.engine.split()
    contents = cycle([path.read_bytes() for path in files])
    threads = decoders(_CORES, "decode")

    def prepare(image: bytes) -> Any:
        return model.prepare(image).contiguous().numpy()

    def together(batch: int) -> None:
        # As the server does: what it spares must be spared here, too.
        model.scores(
            torch.from_numpy(np.stack(list(threads.map(prepare, islice(contents, batch)))))
        )

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
                    images = list(islice(contents, batch))
                part(torch.from_numpy(np.stack([prepare(image) for image in images])))
                done += batch
            return done

        done = sum(threads.map(work, parts))
        return done / (time.perf_counter() - started)

    best: dict[int, tuple[Callable[[int, float], float], int]] = {}

    def measure(at_once: int, seconds: float) -> float:
        if at_once not in best:
            # Found once: the best of many short measurements of each round would be their luckiest,
            # too.
            ways = [(rate, size) for size in (1, 2, 4, 8, 16, 32) if size <= at_once]
            ways += [
                (rate_apart, size)
                for size in (1, 2, 4, 8, 16)
                if parts and size * len(parts) <= at_once
            ]
            for way, size in ways:
                way(size, time.perf_counter() + 0.01)  # once, for what the first time costs
            best[at_once] = max(ways, key=lambda found: found[0](found[1], time.perf_counter() + 2))
        way, size = best[at_once]
        return way(size, time.perf_counter() + seconds)

    return measure


if __name__ == "__main__":
    main()
