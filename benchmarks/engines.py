"""What answers, without a server: our engines against eager fp32 as it is usually run, for ResNet34
at 224 px.

A ResNet34 is first trained on drawn images, once, so that the export's own gate has something to
judge: what int8 may cost. Theirs is torchvision's network under `inference_mode`, channels first,
and gets images that are normalized already. Ours is the exported archive's `Model.scores`, from
bytes. Rounds take turns.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from _harness import CACHE, NO_BF16, Ratio, machine, parse, report, say, step
from _images import drawn_images

_CLASSES, _TRAIN, _VALID = 6, 600, 600
_EPOCHS = 12
_BATCHES = (1, 8, 32)
_TARGETS = {"bf16": 2.2, "int8": 4.0}


def main() -> None:
    args = parse(__doc__, rounds=10, small_rounds=3)
    here = machine()
    native = here["native_bf16"]
    from breedlab.serving.engine_gate import LEAST_AGREEMENT, MOST_LOST

    config, context = _context()
    trained = _trained(config, context, epochs=0 if args.small else _EPOCHS)
    excuse = "targets are for the full size" if args.small else ""
    ratios: list[Ratio] = []
    figures: dict[str, Any] = {} if native else {"bf16": NO_BF16}
    with tempfile.TemporaryDirectory() as scratch:
        models = {}
        for precision in ("bf16", "int8") if native else ("int8",):
            models[precision], found = _exported(trained, precision, context, Path(scratch))
            module, mine = found.candidates
            agreement, lost = (
                f"{precision}, images in the module's class, share",
                f"{precision}, validation top-1 lost",
            )
            points = module.right - mine.right
            ratios += [
                Ratio(agreement, [mine.agreement], LEAST_AGREEMENT, excuse=excuse),
                Ratio(lost, [points], MOST_LOST, wanted="at most", excuse=excuse),
            ]
            figures |= {
                "validation images": found.images,
                "the module's validation top-1": module.right,
            }
        times = _timed(models, args.rounds)
    for precision in models:
        for size in _BATCHES:
            pairs = [
                usual / mine
                for usual, mine in zip(times["usual", size], times[precision, size], strict=True)
            ]
            name = f"eager fp32 / {precision}, batch {size}, time"
            ratios.append(Ratio(name, pairs, _TARGETS[precision], excuse=excuse))
    figures |= {
        f"{name}, batch {size}, ms/image": 1000 * median(found)
        for (name, size), found in times.items()
    }
    report(args, "engines", here, ratios, figures)


def _context() -> tuple[Any, Any]:
    from breedlab.config import validate
    from breedlab.config.compose import load
    from breedlab.pipeline.checked_images import checked_images
    from breedlab.training.preparation import prepare

    words = [
        "experiment=resnet34",
        "model.weights=none",
        "model.freeze=none",
        "data=image_folder",
        "data.batch_size=32",
        f"data.root={drawn_images(_CLASSES, _TRAIN, _VALID)}",
        "optim.lr=0.001",
        "optim.schedule=one_cycle",
        f"trainer.max_epochs={_EPOCHS}",
    ]
    config = validate(load(words))
    return config, prepare(config, checked_images(config))


def _trained(config: Any, context: Any, epochs: int) -> Path:
    """The content of an archive that answers with the module, made once and kept."""
    from breedlab.serving.archive import write_folder

    home = CACHE / f"resnet34-{_CLASSES}x{_TRAIN}x{epochs}"
    if not home.exists():
        classifier = context.classifier(config)
        with step("training a ResNet34, once"):
            for epoch in context.epochs(classifier, config, epochs) if epochs else ():
                say(
                    f"epoch {epoch.number + 1} of {epochs}: validation top-1"
                    f" {epoch.valid['valid/top1']:.1%}"
                )
        scratch = home.with_suffix(".part")
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        write_folder(scratch, classifier, context.evaluation, context.classes, {})
        scratch.rename(home)
    return home


def _exported(trained: Path, precision: str, context: Any, scratch: Path) -> tuple[Any, Any]:
    """The model as the product exports it in one precision, and what the export found out about
    it."""
    import torch

    from breedlab.config.sections import Serving
    from breedlab.serving.archive import record_engine
    from breedlab.serving.engine_selection import select
    from breedlab.serving.model import Model

    folder = scratch / precision
    shutil.copytree(trained, folder)
    wanted = Serving.model_validate(
        {"engine": "openvino", "precision": precision, "allow_urls": "none"}
    )
    cpu = torch.device("cpu")
    found = select(folder, wanted, context.data(context.config), device=cpu, seed=0)
    record_engine(folder, found.choice, found.as_dict())
    return Model(folder, cpu), found


def _timed(models: dict[str, Any], rounds: int) -> dict[tuple[str, int], list[float]]:
    """Seconds an image, one figure a round, by whose they are and the images in a batch."""
    import time

    import torch

    usual = _usual(next(iter(models.values())).network)
    batches = {
        size: torch.randint(0, 256, (size, 3, 224, 224), dtype=torch.uint8) for size in _BATCHES
    }
    normalized = {size: (batch / 255 - 0.45) / 0.225 for size, batch in batches.items()}
    calls: dict[str, Callable[[int], object]] = {"usual": lambda size: usual(normalized[size])}
    for name, model in models.items():
        calls[name] = lambda size, model=model: model.scores(batches[size])
    found: dict[tuple[str, int], list[float]] = {
        (name, size): [] for size in _BATCHES for name in calls
    }
    with torch.inference_mode():
        for number in range(rounds + 1):
            for size in _BATCHES:
                repeats = max(1, 8 // size)
                for name, call in calls.items():
                    # as a server runs: warm, without the caches that another engine filled
                    call(size)
                    started = time.perf_counter()
                    for _ in range(repeats):
                        call(size)
                    if number:
                        found[name, size].append((time.perf_counter() - started) / repeats / size)
            say(f"round {number} of {rounds}" if number else "first calls done, not counted")
    return found


def _usual(network: Any) -> Any:
    """torchvision's ResNet34 with the same weights and head, laid out as torch does it by
    itself."""
    import copy

    import torch
    from torchvision import models

    model = models.resnet34(weights=None)
    model.fc = torch.nn.Identity()
    model.load_state_dict(network.backbone.state_dict())
    model.fc = copy.deepcopy(network.head)
    return model.to(memory_format=torch.contiguous_format).eval()


if __name__ == "__main__":
    main()
