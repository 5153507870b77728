"""A folder of 10,000 images by `breedlab predict`, beside the bare engine with decoding.

Both answer the same JPEGs with the same archive, a ResNet34 with random weights. Ours is the whole
command, from finding the files to printing JSON, without starting Python and loading PyTorch. The
bare engine decodes a batch on a thread a core while it computes the one before, and keeps nothing;
the batch size that is fastest for it in a short trial counts.
"""

from __future__ import annotations

import io
import os
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import redirect_stdout
from pathlib import Path
from statistics import median
from typing import Any

from _harness import NO_BF16, Ratio, interleave, machine, parse, report, say
from _images import drawn_images
from _served import ENGINES, exported

_IMAGES, _SMALL = 10_000, 640
_TARGET = 0.95
_BATCHES = (4, 8, 16, 32, 64)
_TRIED_S = 3.0


def main() -> None:
    args = parse(__doc__, 3, 1, ("--engine", f"of {', '.join(ENGINES)}; default openvino-bf16"))
    here = machine()
    engine = args.engine or "openvino-bf16"
    count = _SMALL if args.small else _IMAGES
    drawn = sorted(drawn_images(16, 1024, 256).glob("train/*/*.jpg"))
    archive = exported(engine, drawn)
    with tempfile.TemporaryDirectory() as scratch:
        files = _linked(drawn, Path(scratch), count)
        model, batch = _fastest(archive, files)
        pairs = interleave(
            f"{count:,} images, the bare engine and ours",
            lambda: _bare(model, files, batch),
            lambda: _ours(archive, Path(scratch), count),
            args.rounds,
        )
    excuse = "targets are for the full size" if args.small else ""
    if engine.endswith("bf16") and not here["native_bf16"]:
        excuse = NO_BF16
    ratios = [
        Ratio(
            "predict / bare engine with decoding, images/s",
            [bare / ours for bare, ours in pairs],
            _TARGET,
            excuse=excuse,
        )
    ]
    figures = {
        "images": count,
        "engine": engine,
        "bare engine's batch": batch,
        "bare engine, images/s": count / median(bare for bare, _ in pairs),
        "predict, images/s": count / median(ours for _, ours in pairs),
    }
    report(args, "folder", here, ratios, figures)


def _linked(drawn: Sequence[Path], folder: Path, count: int) -> list[Path]:
    """Return as many files as are asked for, each with a path of its own."""
    files = [folder / f"{number:05}.jpg" for number in range(count)]
    for number, file in enumerate(files):
        os.link(drawn[number % len(drawn)], file)
    return files


def _ours(archive: Path, folder: Path, count: int) -> None:
    from breedlab.cli import predict

    printed = io.StringIO()
    with redirect_stdout(printed):
        predict.main([str(archive), str(folder), "--json", "--top", "1"])
    assert printed.getvalue().count('"predictions"') == count


def _fastest(archive: Path, files: Sequence[Path]) -> tuple[Any, int]:
    """Return the model, and the batch size by which the bare engine answers most images a
    second."""
    from breedlab.data.decode import keep_memory
    from breedlab.serving.model import Model

    keep_memory()
    model = Model(archive)
    rates = {}
    for batch in _BATCHES:
        _bare(model, files[: 2 * batch], batch)
        done, started = 0, time.perf_counter()
        while time.perf_counter() < started + _TRIED_S:
            done += len(_bare(model, files[: 4 * batch], batch))
        rates[batch] = done / (time.perf_counter() - started)
        say(f"bare engine, batches of {batch}: {rates[batch]:.1f} images/s")
    return model, max(rates, key=lambda batch: rates[batch])


def _bare(model: Any, files: Sequence[Path], batch: int) -> list[Any]:
    """Return the scores of every image, decoded a batch ahead on a thread a core."""
    import torch

    def prepare(path: Path) -> Any:
        return model.prepare(path.read_bytes())

    def decoded(start: int) -> list[Future[Any]]:
        return [pool.submit(prepare, path) for path in files[start : start + batch]]

    scores: list[Any] = []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        ready = decoded(0)
        for start in range(batch, len(files) + batch, batch):
            images = torch.stack([image.result() for image in ready])
            ready = decoded(start)
            scores += model.scores(images)
    return scores


if __name__ == "__main__":
    main()
