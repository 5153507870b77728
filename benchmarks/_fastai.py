"""The peer of accuracy.py: fastai's `fine_tune`, in a process and an environment of its own.

    python _fastai.py FOLDER SEED EPOCHS WEIGHTS

FOLDER has train, valid and test; WEIGHTS is a file of timm's `tf_efficientnet_lite0`. Prints the
top-1 on the test.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any


def main() -> None:
    root, seed, epochs = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    import timm
    import torch
    from fastai.callback import schedule  # noqa: F401  # gives Learner its fine_tune
    from fastai.data.block import CategoryBlock, DataBlock
    from fastai.data.transforms import GrandparentSplitter, Normalize, get_image_files, parent_label
    from fastai.learner import Learner
    from fastai.metrics import accuracy
    from fastai.torch_core import params, set_seed
    from fastai.vision.augment import Resize, aug_transforms
    from fastai.vision.data import ImageBlock
    from fastai.vision.learner import create_head

    set_seed(seed, reproducible=True)
    body = timm.create_model("tf_efficientnet_lite0", num_classes=0, global_pool="")
    body.load_state_dict(torch.load(sys.argv[4], weights_only=True), strict=False)
    # timm's transform: the shorter side to 256, 224 of it, mean and deviation of a half
    block = DataBlock(
        blocks=(ImageBlock, CategoryBlock),
        get_items=lambda folder: get_image_files(folder, folders=["train", "valid"]),
        splitter=GrandparentSplitter("train", "valid"),
        get_y=parent_label,
        item_tfms=Resize(256),
        batch_tfms=[
            *aug_transforms(size=224, min_scale=0.75),
            Normalize.from_stats([0.5] * 3, [0.5] * 3),
        ],
    )
    loaders = block.dataloaders(root, bs=32, num_workers=2)
    network = torch.nn.Sequential(body, create_head(1280, loaders.c))

    def splitter(model: Any) -> list[Any]:
        return [params(model[0]), params(model[1])]

    learner = Learner(loaders, network, splitter=splitter, metrics=accuracy)
    learner.freeze()
    with learner.no_bar(), learner.no_logging():
        learner.fine_tune(epochs)
        test = loaders.test_dl(get_image_files(root / "test"), with_labels=True)
        _, top1 = learner.validate(dl=test)
    print(f"top1 {float(top1):.6f}")


if __name__ == "__main__":
    main()
