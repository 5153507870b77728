"""The feature pass of a frozen backbone, decoding counted in: ours against an eager bf16 pass in
channels-last.

Both read the same JPEGs by the same decoder and workers, in the same run and in turn. Ours is the
product's own pass, into an empty cache, by the engine that it chose before; the choice (conversion
and measurement) is timed by itself. The other keeps nothing. ResNet34's weights are random,
EfficientNet-Lite0's those of the `pretrained` extra.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from _harness import CACHE, NO_BF16, Ratio, interleave, machine, parse, report, step
from _images import drawn_images

_MODELS = {
    "ResNet34": (["model=resnet34", "model.weights=none"], 2.0),
    "EfficientNet-Lite0": (["model=efficientnet_lite0"], 5.0),
}


def main() -> None:
    args = parse(__doc__, 3, 1)
    here = machine()
    train, valid = (448, 64) if args.small else (1536, 192)
    root = drawn_images(8, train, valid)
    small = "targets are for the full size" if args.small else ""
    excuse = small or ("" if here["native_bf16"] else NO_BF16)
    ratios, figures = [], {"images": f"{train:,} + {valid:,}"}
    for name, (words, target) in _MODELS.items():
        CACHE.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix="features-", dir=CACHE))
        try:
            context = prepare(root, folder, words)
            with step(f"{name}: choosing an engine") as choosing:
                choice = choose(context)
            pairs = interleave(
                f"{name}, eager and ours", eager(context), ours(context, folder), args.rounds
            )
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        ratios.append(
            Ratio(
                f"{name}: eager bf16 pass / ours, time",
                [theirs / ours for theirs, ours in pairs],
                target,
                excuse=excuse,
            )
        )
        images = train + valid
        figures |= {
            f"{name}: engine": f"{choice.versioned} {context.precision}",
            f"{name}: cosine similarity at least": choice.cosine,
            f"{name}: linear readouts alike": choice.readout,
            f"{name}: choosing, once, s": choosing[0],
            f"{name}: eager, images/s": images / median(theirs for theirs, _ in pairs),
            f"{name}: ours, images/s": images / median(ours for _, ours in pairs),
        }
    report(args, "features", here, ratios, figures)


def prepare(root: Path, folder: Path, words: list[str], experiment: str = "resnet34") -> Any:
    from breedlab.config import validate
    from breedlab.config.compose import load
    from breedlab.pipeline.checked_images import checked_images
    from breedlab.training.preparation import prepare as prepare_training

    overrides = [
        f"experiment={experiment}",
        *words,
        "data=image_folder",
        f"data.root={root}",
        f"cache.dir={folder / 'cache'}",
    ]
    config = validate(load(overrides))
    context = prepare_training(config, checked_images(config))
    run = folder / "run"
    run.mkdir()
    context.engines.begin(run)
    return context


def choose(context: Any) -> Any:
    """One pass of ours, which leaves its choice in the record; it is timed with the pass."""
    from breedlab.training.engine_choice import Choice

    context._cached(context.classifier(context.config), context.config)
    return context.engines.recorded("backbone") or Choice()


def ours(context: Any, folder: Path) -> Callable[[], None]:
    classifier = context.classifier(context.config)

    def feature_pass() -> None:
        for file in folder.glob("cache/*.npy"):
            file.unlink()
        assert context._cached(classifier, context.config) is not None

    return feature_pass


def eager(context: Any) -> Callable[[], None]:
    from breedlab.training.feature_engines import BATCH, Eager

    engine = Eager(context.classifier(context.config), context.device, "bf16")
    data = context.data(context.config)

    def feature_pass() -> None:
        for batch, _ in data.stream([("train", 0, 0), ("valid", 0, 0)], BATCH):
            engine(batch)

    return feature_pass


if __name__ == "__main__":
    main()
