"""From pixels to the network's input: what torchvision does on a PIL image, faster, and the same
again by seed."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import ks_2samp
from torchvision.transforms import InterpolationMode, v2

from breedlab.data.decode import ImageError, decode
from breedlab.data.transforms import EvalTransform, TrainTransform, random_crop, to_tensor
from breedlab.registry import AUGMENTATIONS

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
Pixels = np.ndarray[Any, np.dtype[np.uint8]]


def transform(resize: int = 72, crop: int = 64, interpolation: str = "bilinear") -> EvalTransform:
    return EvalTransform(resize, crop, interpolation, MEAN, STD)


def image(width: int, height: int) -> Pixels:
    """Smooth shapes with some grain, as images have."""
    rng = np.random.default_rng(width * 1000 + height)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(float)
    return (smooth + rng.normal(0, 6, smooth.shape)).clip(0, 255).astype(np.uint8)


def reference(pixels: Pixels, base: EvalTransform) -> np.ndarray[Any, Any]:
    steps = v2.Compose(
        [
            v2.Resize(base.resize, InterpolationMode(base.interpolation), antialias=True),
            v2.CenterCrop(base.crop),
        ]
    )
    return np.asarray(steps(Image.fromarray(pixels))).astype(int)


SIZES = {
    "landscape": (301, 187),
    "portrait": (187, 301),
    "square": (256, 256),
    "just right": (72, 72),
    "wide": (640, 80),
    "large": (1200, 900),
    "odd": (97, 101),
    "tiny": (20, 13),
    "one pixel": (1, 1),
}


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES.keys())
def test_evaluation_is_torchvisions_resize_and_center_crop_of_a_pil_image(
    size: tuple[int, int], interpolation: str
) -> None:
    base, pixels = transform(interpolation=interpolation), image(*size)
    result = base(pixels)
    assert result.dtype == torch.uint8
    assert result.shape == (3, 64, 64)
    apart = np.abs(result.permute(1, 2, 0).numpy().astype(int) - reference(pixels, base))
    assert (apart <= 1).mean() > 0.999
    assert apart.max() <= 2


@contextmanager
def little_memory(more: int) -> Iterator[None]:
    """So many bytes beyond what is taken already."""
    import resource

    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (taken + more, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@pytest.mark.skipif(sys.platform != "linux", reason="needs a limit on memory")
@pytest.mark.parametrize(("width", "height"), [(60_000, 1), (1, 60_000)])
def test_a_long_strip_is_refused_or_transformed_within_bounds(width: int, height: int) -> None:
    """Sixty thousand pixels pass the size limit; scaled to 256 on their shorter side they are four
    billion."""
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), (30, 200, 60)).save(buffer, "JPEG", quality=95)
    with little_memory(2**31):
        try:
            result = transform(256, 224)(decode(buffer.getvalue()))
        except ImageError:
            return
    assert result.shape == (3, 224, 224)
    assert (result.float().mean((1, 2)) - torch.tensor([30.0, 200.0, 60.0])).abs().max() < 3


def test_the_cut_is_the_center_when_nothing_is_resized() -> None:
    pixels = image(100, 80)
    result = transform(80, 60)(pixels)
    np.testing.assert_array_equal(result.permute(1, 2, 0).numpy(), pixels[10:70, 20:80])


def test_the_interpolation_matters() -> None:
    pixels = image(301, 187)
    assert not torch.equal(transform()(pixels), transform(interpolation="bicubic")(pixels))


def test_evaluation_is_the_same_every_time_and_leaves_the_image_alone() -> None:
    pixels = image(120, 90)
    before = pixels.copy()
    assert torch.equal(transform()(pixels), transform()(pixels))
    np.testing.assert_array_equal(pixels, before)


def test_memory_order_of_the_image_does_not_matter() -> None:
    """Rotated images and views of arrays arrive in other orders."""
    pixels = image(120, 90)
    turned = np.ascontiguousarray(pixels.transpose(1, 0, 2)).transpose(1, 0, 2)
    assert torch.equal(transform()(pixels), transform()(turned))


def test_a_image_becomes_channels_first_without_a_copy() -> None:
    pixels = image(20, 10)
    tensor = to_tensor(pixels)
    assert tensor.shape == (3, 10, 20)
    assert tensor.data_ptr() == pixels.ctypes.data


def drawn(augment: TrainTransform, pixels: Pixels, seed: int) -> torch.Tensor:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return augment(pixels)


def training(policy: str) -> TrainTransform:
    return TrainTransform(transform(), AUGMENTATIONS.get(policy)().build())


@pytest.mark.parametrize("policy", ["basic", "trivial", "randaug"])
@pytest.mark.parametrize("size", [(301, 187), (20, 13)])
def test_augmentation_repeats_by_seed_and_differs_between_seeds(
    policy: str, size: tuple[int, int]
) -> None:
    augment, pixels = training(policy), image(*size)
    first = [drawn(augment, pixels, seed) for seed in range(8)]
    for seed, result in enumerate(first):
        assert result.dtype == torch.uint8
        assert result.shape == (3, 64, 64)
        assert torch.equal(result, drawn(training(policy), pixels, seed))
    assert len({result.contiguous().numpy().tobytes() for result in first}) == 8


@pytest.mark.parametrize("shape", [(500, 375), (300, 300), (200, 560), (7, 5)])
def test_crops_are_distributed_as_torchvisions(shape: tuple[int, int]) -> None:
    """In the longest image many draws do not fit, and both take the crop in the middle."""
    torch.manual_seed(0)
    theirs = v2.RandomResizedCrop(64, scale=(0.35, 1.0), ratio=(3 / 4, 4 / 3))
    blank = [torch.empty(1).expand(3, *shape)]
    drawn_by_them = [tuple(theirs.make_params(blank).values()) for _ in range(3000)]
    ours = [random_crop(*shape) for _ in range(3000)]
    for top, left, height, width in ours:
        assert 0 <= top <= top + height <= shape[0] and 0 <= left <= left + width <= shape[1]
    for mine, usual in zip(zip(*ours, strict=True), zip(*drawn_by_them, strict=True), strict=True):
        assert ks_2samp(mine, usual).pvalue > 0.001


@pytest.mark.parametrize("shape", [(1, 1), (20, 900), (900, 20), (100, 1)])
def test_a_long_images_crop_is_torchvisions_in_its_middle(shape: tuple[int, int]) -> None:
    theirs = v2.RandomResizedCrop(64, scale=(0.35, 1.0), ratio=(3 / 4, 4 / 3))
    usual = theirs.make_params([torch.empty(1).expand(3, *shape)])
    assert random_crop(*shape) == tuple(usual.values())


def test_augmentation_flips_about_half_of_the_images() -> None:
    """An image that is dark on the left and light on the right shows whether it was flipped."""
    pixels = np.tile(np.linspace(0, 255, 80).astype(np.uint8)[None, :, None], (60, 1, 3))
    augment = training("basic")
    results = [drawn(augment, pixels, seed).float() for seed in range(100)]
    flipped = sum(bool(result[:, :, :32].mean() > result[:, :, 32:].mean()) for result in results)
    assert 30 <= flipped <= 70


def test_policies_add_something_to_crop_and_flip() -> None:
    pixels = image(120, 90)
    results = {
        policy: torch.stack([drawn(training(policy), pixels, seed) for seed in range(6)])
        for policy in ("basic", "trivial", "randaug")
    }
    assert not torch.equal(results["basic"], results["trivial"])
    assert not torch.equal(results["basic"], results["randaug"])
    assert not torch.equal(results["trivial"], results["randaug"])


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("shape", [(90, 61), (61, 90), (64, 64), (36, 50)])
def test_the_resize_is_torchvisions_in_whole_numbers_whatever_torchvision_thinks_of_the_cpu(
    shape: tuple[int, int], interpolation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """0.21, which AWS's inference image has, goes through floats where there is AVX512; then a
    level is off."""
    from torchvision.transforms.v2.functional import _geometry, center_crop

    pixels = np.random.default_rng(1).integers(0, 256, (*shape, 3), dtype=np.uint8)
    transform = EvalTransform(36, 32, interpolation, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    before = transform(pixels)
    whole = center_crop(
        _geometry.resize_image(to_tensor(pixels), [36], _geometry.InterpolationMode(interpolation)),
        [32, 32],
    )
    assert torch.equal(before, whole)
    monkeypatch.setattr(_geometry, "_do_native_uint8_resize_on_cpu", lambda _: False)
    assert torch.equal(transform(pixels), before)
