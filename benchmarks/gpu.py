"""What one GPU makes of training and serving, in ten minutes.

- A full step of ResNet34, both loops of ours, beside the plain fp32 loop and beside a step as
  timm's training script makes it (bf16 autocast, channels last, fused optimizer, compiled), with
  its share of what the GPU multiplies at most.
- An epoch with the loader beside one that gets the same batch again and again.
- The feature pass of a frozen ResNet34, decoding counted in, beside an eager pass that keeps
  nothing.
- A head's trial on cached features beside a bare loop, and beside one whose steps are a CUDA graph.
- The exported ResNet34 at batches of 1, 8, and 32, beside eager fp32.

Without a GPU it refuses; `--rehearse yes` goes through all of it on a CPU, at sizes that say
nothing.
"""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import features
import search
import step
from _harness import CACHE, Ratio, interleave, machine, parse, report, say, seconds
from _images import drawn_images
from _peers import bare_trial, make_head
from _served import exported

_MATRIX, _PEAK_REPEATS = 8192, 20
_MOST_WAIT, _EPOCHS = 1.05, 5


class _Size(NamedTuple):
    batch: int
    images: int
    valid: int
    matrix: int


_FULL, _REHEARSAL = _Size(256, 6656, 832, _MATRIX), _Size(4, 64, 32, 256)

Measured = tuple[list[Ratio], dict[str, Any]]


def main() -> None:
    args = parse(__doc__, 20, 2, ("--rehearse", "yes: on a CPU, to see that all of it runs"))
    import torch

    here = machine()
    rehearsal = args.rehearse == "yes"
    if not rehearsal and not torch.cuda.is_available():
        raise SystemExit("no GPU here; expected one, or --rehearse yes")
    args.small = args.small or rehearsal  # and so its results are not taken for those of a GPU
    size = _REHEARSAL if args.small else _FULL
    excuse = "targets are for the full size" if args.small else ""
    CACHE.mkdir(parents=True, exist_ok=True)
    ratios: list[Ratio] = []
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="gpu-", dir=CACHE) as scratch:
        for part in (_steps, _loader, _pass, _heads, _engines):
            began = time.monotonic()
            more, seen = part(Path(scratch), size, args.rounds, excuse)
            ratios += more
            figures |= seen
            say(f"{part.__name__.strip('_')}: {time.monotonic() - began:.0f} s")
    report(args, "gpu", here, ratios, figures)


def _steps(folder: Path, size: _Size, rounds: int, excuse: str) -> Measured:
    context = step.prepare_resnet34(folder / "steps", size.batch)
    images, labels = batch = step.batch_of(size.batch)
    peers = {
        "plain fp32 step": step.usual_step(images, labels, context.device),
        "step as timm's script": _timm_step(images, labels, context.device),
    }
    ratios, figures = [], {"batch size": size.batch}
    loops = {step.LEAN: step.train_lean, step.LIGHTNING: step.train_by_lightning}
    for (name, train), (peer, usual) in itertools.product(loops.items(), peers.items()):
        alternating = step.Alternating(f"{name}, {peer}", batch, usual, rounds)
        train(context, alternating, folder / f"{name} {peer}")
        pairs = alternating.pairs
        ratios.append(Ratio(f"{peer} / {name}, time", [theirs / ours for theirs, ours in pairs]))
        figures[f"{name}, images/s"] = size.batch / median(ours for _, ours in pairs)
        figures[f"{peer}, images/s"] = size.batch / median(theirs for theirs, _ in pairs)
    work = _flops(images[:2], context) / 2
    peak = _peak(size.matrix, context.device)
    figures["largest bf16 product measured, TFLOP/s"] = peak / 1e12
    for name in loops:
        figures[f"{name}, share of that"] = figures[f"{name}, images/s"] * work / peak
    return ratios, figures


def _timm_step(images: Any, labels: Any, device: Any) -> Callable[[], None]:
    """A step with timm's network and optimizer as its train.py is run for speed: `--amp --amp-dtype
    bfloat16 --channels-last --torchcompile`."""
    import timm
    import torch
    from timm.optim import create_optimizer_v2

    network = timm.create_model("resnet34", num_classes=step.CLASSES)
    network = network.to(device, memory_format=torch.channels_last).train()
    optimizer = create_optimizer_v2(network, opt="adamw", lr=1e-3, fused=True)
    criterion = torch.nn.CrossEntropyLoss(label_smoothing=0.1)
    run = torch.compile(network) if device.type == "cuda" else network
    inputs = ((images / 255 - 0.45) / 0.225).to(device, memory_format=torch.channels_last)
    targets = labels.to(device)

    def one_step() -> None:
        with torch.autocast(device.type, torch.bfloat16):
            loss = criterion(run(inputs), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return one_step


def _flops(images: Any, context: Any) -> float:
    """Return the floating-point operations of a step on images, forward and backward."""
    from torch.utils.flop_counter import FlopCounterMode

    classifier = context.classifier(context.config).to(context.device)
    counter = FlopCounterMode(display=False)
    with counter:
        classifier(images.to(context.device)).sum().backward()
    return float(counter.get_total_flops())


def _peak(side: int, device: Any) -> float:
    """Return the operations a second of a large bf16 product of matrices, the best of some."""
    import torch

    left, right = (torch.randn(side, side, dtype=torch.bfloat16, device=device) for _ in range(2))
    taken = [seconds(lambda: left @ right) for _ in range(_PEAK_REPEATS)]
    return 2 * side**3 / min(taken)


def _loader(folder: Path, size: _Size, rounds: int, excuse: str) -> Measured:
    """An epoch with the loader, and as many steps on one batch that lies on the device."""
    from breedlab.training import loop

    root = drawn_images(16, size.images, size.valid)
    context = step.prepare_resnet34(folder / "loader", size.batch, root)
    config = context.config
    batch = tuple(
        part.to(context.device) for part in step.batch_of(size.batch, len(context.classes))
    )
    learner, loader = context.learner(context.classifier(config), config, epochs=1)
    steps = len(loader.train(0))

    class Fed:
        """The loader's batches, or as many times the one that is on the device."""

        def __init__(self, loads: bool) -> None:
            self.loads = loads

        def train(self, epoch: int) -> Any:
            return loader.train(epoch) if self.loads else itertools.repeat(batch, steps)

        def valid(self) -> Any:
            return [tuple(part[:2] for part in batch)]

    def epoch(feed: Fed) -> None:
        ours = {"accelerator": context.accelerator, "precision": context.precision}
        for _ in loop.epochs(learner, feed, config, count=1, **ours):
            pass

    loads, repeats = Fed(True), Fed(False)
    pairs = interleave(
        "an epoch with and without the loader", lambda: epoch(loads), lambda: epoch(repeats), 3
    )
    waits = [loaded / same for loaded, same in pairs]
    name = "epoch with the loader / without, time"
    figures = {"an epoch with the loader, images/s": size.images / median(one for one, _ in pairs)}
    return [Ratio(name, waits, _MOST_WAIT, "at most", excuse)], figures


def _pass(folder: Path, size: _Size, rounds: int, excuse: str) -> Measured:
    home = folder / "pass"
    home.mkdir()
    words = ["model=resnet34", "model.weights=none"]
    context = features.prepare(drawn_images(16, size.images, size.valid), home, words)
    choice = features.choose(context)
    pairs = interleave(
        "feature pass, eager and ours", features.eager(context), features.ours(context, home), 3
    )
    images = size.images + size.valid
    figures = {
        "feature pass: engine": f"{choice.versioned} {context.precision}",
        "feature pass: ours, images/s": images / median(ours for _, ours in pairs),
    }
    return [
        Ratio("eager bf16 pass / ours, time", [theirs / ours for theirs, ours in pairs])
    ], figures


def _heads(folder: Path, size: _Size, rounds: int, excuse: str) -> Measured:
    """A trial of ours and one on PyTorch alone, by batch size; where there is a GPU, also one whose
    steps are one CUDA graph."""
    home = folder / "heads"
    home.mkdir()
    words = ["model=resnet34", "model.weights=none", f"tuner.max_epochs={_EPOCHS}"]
    root = drawn_images(16, size.images, size.valid)
    context = features.prepare(root, home, words, "resnet34_hpo")
    activations = context.activations(context.classifier(context.config), context.config)
    classes = len(context.classes)
    ratios = []
    for batch in (32, 256):
        peers = {"bare loop": bare_trial(activations, classes, batch, _EPOCHS, context.device)}
        if context.device.type == "cuda":
            peers["CUDA graphs"] = _graphed_trial(activations, classes, batch, context.device)
        for peer, theirs in peers.items():
            name = f"cached trial / {peer}, batch size {batch}, time"
            pairs = interleave(name, search.our_trial(context, batch), theirs, 3)
            ratios.append(Ratio(name, [ours / other for ours, other in pairs]))
    return ratios, {}


def _graphed_trial(
    activations: Any, classes: int, batch_size: int, device: Any
) -> Callable[[], None]:
    """The bare loop's training, of which a step is recorded once and replayed; a batch that is not
    full is left out."""
    import torch

    train, labels = activations.train[0].float().to(device), activations.labels.to(device)

    def trial() -> None:
        head = make_head(classes).to(device).train()
        optimizer = torch.optim.AdamW(head.parameters(), lr=1e-3, fused=True, capturable=True)
        criterion = torch.nn.CrossEntropyLoss(label_smoothing=0.1)
        inputs, targets = train[:batch_size].clone(), labels[:batch_size].clone()

        def one_step() -> None:
            optimizer.zero_grad(set_to_none=True)
            criterion(head(inputs), targets).backward()
            optimizer.step()

        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):  # lazy allocations must not be recorded
            for _ in range(3):
                one_step()
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            one_step()
        for _ in range(_EPOCHS):
            for index in torch.randperm(len(labels), device=device).split(batch_size):
                if len(index) == batch_size:
                    inputs.copy_(train[index])
                    targets.copy_(labels[index])
                    graph.replay()

    return trial


def _engines(folder: Path, size: _Size, rounds: int, excuse: str) -> Measured:
    import torch

    from breedlab.serving.model import Model

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = Model(exported("eager-fp32", []), device)
    usual = step.usual_network(device).eval()
    ratios, figures = [], {}
    for batch in (1, 8, 32):
        images = torch.randint(0, 256, (batch, 3, 224, 224), dtype=torch.uint8)
        normalized = (images / 255 - 0.45) / 0.225

        def theirs(normalized: Any = normalized) -> None:
            with torch.inference_mode():
                usual(normalized.to(device)).cpu()

        def ours(images: Any = images) -> None:
            model.scores(images)

        pairs = interleave(f"engine, batch {batch}", theirs, ours, rounds)
        name = f"eager fp32 / exported, batch {batch}, time"
        ratios.append(Ratio(name, [other / mine for other, mine in pairs]))
        figures[f"exported, batch {batch}, ms/image"] = (
            1000 * median(mine for _, mine in pairs) / batch
        )
    return ratios, figures


if __name__ == "__main__":
    main()
