"""The activation cache: the same result as without it, computed once, bounded."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from breedlab.config import Config, replace
from breedlab.models.classifier import Classifier
from breedlab.pipeline.checked_images import checked_images
from breedlab.training import activations, cache_key
from breedlab.training.activations import ValidBatches
from breedlab.training.cache_key import code_versions
from breedlab.training.context import TrainingContext
from breedlab.training.preparation import prepare

Configure = Callable[..., Config]


def final_loss(context: TrainingContext, config: Config) -> list[float]:
    classifier = context.classifier(config)
    return [epoch.valid["valid/loss"] for epoch in context.epochs(classifier, config, 3)]


@pytest.mark.slow
@pytest.mark.parametrize("freeze", ["backbone", "stage3"])
def test_five_trials_agree_with_and_without_it(
    tmp_path: Path, configure: Configure, freeze: str
) -> None:
    """200 images, two views, five pairs of values: losses within 1 percent."""
    from breedlab.data.sample import write_sample

    root = tmp_path / "photos"
    write_sample(root, classes=4, train=42, valid=8, test=2, size=48, seed=2)
    base = configure(
        f"data.root={root}",
        "data.sample=null",
        f"cache.dir={tmp_path / 'cache'}",
        "cache.views=2",
        "data.augment=basic",
        f"model.freeze={freeze}",
    )
    report = checked_images(base)
    cached, live = prepare(base, report), prepare(replace(base, {"cache.mode": "off"}), report)
    for lr, batch_size in [(0.001, 16), (0.003, 16), (0.0003, 32), (0.002, 64), (0.001, 40)]:
        # A stage4 of one pixel with BatchNorm doubles every rounding difference; plain SGD does not
        # feed on them.
        optimizer = "adam" if freeze == "backbone" else "sgd"
        values = {"optim.lr": lr, "data.batch_size": batch_size, "optim.name": optimizer}
        with_it = final_loss(cached, replace(cached.config, values))
        without = final_loss(live, replace(live.config, values))
        assert with_it == pytest.approx(without, rel=0.01)
    assert list((tmp_path / "cache").glob("*.npy")), "the cached trials did use the cache"


def test_activations_are_computed_once_for_all_trials_and_runs(
    tmp_path: Path, configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configure(f"cache.dir={tmp_path}")
    report = checked_images(config)
    passes = []
    original = Classifier.to_boundary

    def counting(self: Classifier, images: torch.Tensor) -> torch.Tensor:
        passes.append(len(images))
        return original(self, images)

    monkeypatch.setattr(Classifier, "to_boundary", counting)
    for lr in (0.001, 0.01):
        context = prepare(config, report)
        passes.clear()
        final_loss(context, replace(config, {"optim.lr": lr}))
        final_loss(context, replace(config, {"optim.lr": lr, "data.batch_size": 8}))
        seen = [count for count in passes if count > 1]  # a single black image asks for the shape
        assert sum(seen) == (124 if lr == 0.001 else 0)


@pytest.mark.parametrize("change", ["data.resize=40", "seed=8", "model.freeze=stage2"])
def test_another_transform_network_or_boundary_has_activations_of_its_own(
    tmp_path: Path, configure: Configure, change: str
) -> None:
    for words in ([], [change]):
        config = configure(f"cache.dir={tmp_path}", *words)
        context = prepare(config, checked_images(config))
        assert context.activations(context.classifier(config), config) is not None
    assert len(list(tmp_path.glob("*.npy"))) == 4


def test_over_its_limit_it_computes_live_and_says_so(
    tmp_path: Path, configure: Configure, capsys: pytest.CaptureFixture[str]
) -> None:
    config = configure(f"cache.dir={tmp_path}", "cache.max_gb=0.0001")
    context = prepare(config, checked_images(config))
    assert context.activations(context.classifier(config), config) is None
    assert "activations are computed live every epoch" in capsys.readouterr().out
    assert not list(tmp_path.glob("*.npy"))
    assert len(final_loss(context, config)) == 3


def test_the_least_recently_used_goes_first(tmp_path: Path, configure: Configure) -> None:
    old = configure(f"cache.dir={tmp_path}", "cache.max_gb=0.0008", "seed=1")
    new = configure(f"cache.dir={tmp_path}", "cache.max_gb=0.0008", "seed=2")
    for config in (old, new):
        context = prepare(config, checked_images(config))
        assert context.activations(context.classifier(config), config) is not None
    assert sum(path.stat().st_size for path in tmp_path.glob("*.npy")) <= 800_000


def test_a_set_that_fits_is_kept_whole(tmp_path: Path, configure: Configure) -> None:
    """Room was once made for all views at each of them, which threw out the ones before."""
    # it takes 1.3 MB
    words = [f"cache.dir={tmp_path}", "cache.views=3", "data.augment=basic", "cache.max_gb=0.002"]
    context = prepare(configure(*words), checked_images(configure(*words)))
    assert context.activations(context.classifier(context.config), context.config) is not None
    computed = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.npy")}
    assert len(computed) == 4
    again = prepare(context.config, context.report)
    original = Classifier.to_boundary
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            Classifier, "to_boundary", lambda self, images: original(self, only_one(images))
        )
        assert again.activations(again.classifier(again.config), again.config) is not None


def only_one(images: torch.Tensor) -> torch.Tensor:
    assert len(images) == 1, "images are computed again; one black image alone asks for the shape"
    return images


def test_changed_decoding_or_geometry_has_activations_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "breedlab"
    shutil.copytree(cache_key.PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__", "page"))
    monkeypatch.setattr(cache_key, "PACKAGE", copy)
    seen = [code_versions.__wrapped__()]
    for name in ("data/decode.py", "data/transforms.py"):
        (copy / name).write_text((copy / name).read_text() + "\nTOP = 1\n")
        seen.append(code_versions.__wrapped__())
    assert len({str(versions) for versions in seen}) == 3
    assert {"pillow", "simplejpeg", "torchvision"} <= seen[0].keys()


def test_an_interrupted_pass_goes_on_where_it_stood(
    tmp_path: Path, configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configure(f"cache.dir={tmp_path / 'broken'}", "cache.views=2", "data.augment=basic")
    context = prepare(config, checked_images(config))
    classifier = context.classifier(config)
    original = classifier.to_boundary
    batches: list[int] = []

    def interrupted(images: torch.Tensor) -> torch.Tensor:
        if sum(batches) == 132:  # the second view's second batch
            raise KeyboardInterrupt
        # a single black image asks for the shape
        batches.extend([len(images)] if len(images) > 1 else [])
        return original(images)

    monkeypatch.setattr(classifier, "to_boundary", interrupted)
    with pytest.raises(KeyboardInterrupt):
        context.activations(classifier, config)
    assert len(list((tmp_path / "broken").glob("*.npy"))) == 1, "only the first view is whole"
    batches.append(0 - sum(batches))
    goes_on = context.activations(classifier, config)
    assert sum(batches) == 68 + 24, "the images that were done are not computed again"
    whole = replace(config, {"cache.dir": str(tmp_path / "whole")})
    monkeypatch.undo()
    unbroken = context._cached(classifier, whole)
    assert goes_on is not None and unbroken is not None
    assert all(
        torch.equal(one, other) for one, other in zip(goes_on.train, unbroken.train, strict=True)
    )
    assert torch.equal(goes_on.valid, unbroken.valid)
    left = sorted(path.suffix for path in (tmp_path / "broken").iterdir() if path.is_file())
    assert left == [".json"] * 3 + [".npy"] * 3 + [".rows"] * 2


def test_bf16_activations_survive_the_disk(tmp_path: Path, configure: Configure) -> None:
    config = configure(f"cache.dir={tmp_path}", "trainer.precision=bf16")
    context = prepare(config, checked_images(config))
    activations = context.activations(context.classifier(config), config)
    assert activations is not None and activations.valid.dtype == torch.bfloat16
    exact = prepare(configure(f"cache.dir={tmp_path}"), context.report)
    reference = exact.activations(exact.classifier(config), exact.config)
    assert reference is not None
    error = (activations.valid.float() - reference.valid).norm() / reference.valid.norm()
    assert error < 0.02


@pytest.mark.skipif(
    not Path("/proc/self/maps").exists(), reason="only Linux lists the files that memory maps"
)
def test_a_set_too_large_for_memory_is_read_from_its_files(
    tmp_path: Path, configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit once held for each view by itself: four views took four times as much."""
    config = configure(f"cache.dir={tmp_path}", "cache.views=2", "data.augment=basic")
    context = prepare(config, checked_images(config))
    in_memory = context._cached(context.classifier(config), config)
    assert str(tmp_path) not in Path("/proc/self/maps").read_text()
    one_view = max(path.stat().st_size for path in tmp_path.glob("*.npy"))
    monkeypatch.setattr(activations, "_IN_MEMORY", one_view)
    mapped = context._cached(context.classifier(config), config)
    maps = Path("/proc/self/maps").read_text()
    assert all(str(path) in maps for path in tmp_path.glob("*.npy"))
    assert in_memory is not None and mapped is not None
    assert all(
        torch.equal(one, other) for one, other in zip(in_memory.train, mapped.train, strict=True)
    )


def test_validation_batches_are_bounded_in_bytes_and_lose_nothing() -> None:
    # 1.6 MB an image
    early = torch.arange(40, dtype=torch.float32).view(40, 1, 1, 1).expand(40, 128, 56, 56)
    batches = ValidBatches(early, torch.arange(40))
    sizes = [len(labels) for _, labels in batches]
    assert max(part.numel() * 4 for part, _ in batches) <= 64_000_000 and max(sizes) == sizes[0] > 1
    assert torch.equal(torch.cat([labels for _, labels in batches]), torch.arange(40))
    assert torch.equal(torch.cat([part[:, 0, 0, 0] for part, _ in batches]), torch.arange(40.0))
    features = ValidBatches(torch.zeros(9000, 512), torch.zeros(9000))
    assert [len(labels) for _, labels in features] == [4096, 4096, 808]
