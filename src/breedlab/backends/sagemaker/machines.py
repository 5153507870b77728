"""Which processors an instance type has, and whether breedlab's code and AWS's images for it can
use them."""

from __future__ import annotations

import re

_ARM = re.compile(r"ml\.([a-z]\d+g[a-z]*|p6e-\S+)\.")
_ACCELERATORS = {
    "trn": "AWS Trainium, which needs PyTorch for Neuron",
    "inf": "AWS Inferentia, which needs PyTorch for Neuron",
    "dl1": "Habana Gaudi, which needs PyTorch for Gaudi",
    "dl2": "Qualcomm's accelerators, which need their own runtime",
    "p2.": "NVIDIA K80 GPUs, which PyTorch has not supported since 1.13",
}
_OTHERS = (
    "use a type with newer NVIDIA GPUs, such as ml.g5.xlarge, or with none, such as ml.m5.xlarge"
)

_VOLTA = re.compile(r"ml\.p3(dn)?\.")
_BLACKWELL = re.compile(r"ml\.(g7e?|p6\S*)\.")

_G6 = {"12xlarge": 4, "24xlarge": 4, "48xlarge": 8}
_G7 = {"12xlarge": 2, "24xlarge": 4, "48xlarge": 8}
_UNLISTED_GPUS = {
    # family, and the sizes with several: EC2's pages of instance types
    "g5": {},
    "g6": _G6,
    "g6e": _G6,
    "g7": _G7,
    "g7e": _G7,
    "p5": {},
    "p5e": {"48xlarge": 8},
    "p5en": {"48xlarge": 8},
    "p6-b200": {"48xlarge": 8},
    "p6-b300": {"48xlarge": 8},
}
"""The GPUs of types that the SDK's list lacks."""

ARM_SIBLING = "ml.c7g.xlarge"
"""A type with an ARM processor that the SDK's list of images knows; newer ones run the same
image."""


def is_arm(instance_type: str) -> bool:
    """Return whether a type's processor is an ARM one, on which no x86 image starts."""
    return bool(_ARM.match(instance_type))


def unlisted_gpus(instance_type: str) -> int | None:
    """Return how many GPUs a type has that the SDK's list lacks; None if it is not known."""
    family, _, size = instance_type.removeprefix("ml.").partition(".")
    several = _UNLISTED_GPUS.get(family)
    return None if several is None else several.get(size, 1)


def unusable(instance_type: str) -> str | None:
    """Return why neither AWS's images nor breedlab can use the accelerators of a type; None if they
    can."""
    for family, has in _ACCELERATORS.items():
        if instance_type.startswith(f"ml.{family}"):
            return f"{instance_type} has {has}; {_OTHERS}"
    return None


def lacks_kernels(instance_type: str, image: str) -> str | None:
    """Return why the PyTorch of one of AWS's images computes nothing on a type's GPUs; None if it
    does.

    Args:
        instance_type: The type.
        image: The image's address, whose tag begins with PyTorch's version.
    """
    version = re.search(r":(\d+)\.(\d+)", image)
    # "Support for the NVIDIA Blackwell GPU architecture": PyTorch 2.7's release notes.
    if _BLACKWELL.match(instance_type) and version and (int(version[1]), int(version[2])) < (2, 7):
        return (
            f"{instance_type} has NVIDIA Blackwell GPUs, for which {version[0][1:]}, the PyTorch of"
            f" {image.rpartition('/')[2]}, has no kernels"
        )
    return None


def training_problem(instance_type: str, image: str = "") -> str | None:
    """Return why AWS's training image cannot train on a type; None if it can.

    Args:
        instance_type: The type.
        image: The address of the image that the SDK chose for it; empty before it was asked, which
            raises for types that it has no image for.
    """
    if is_arm(instance_type):
        return (
            f"{instance_type} has ARM processors, for which AWS has no PyTorch training image; set"
            " an image's URI"
        )
    cuda = re.search(r"-cu(\d\d)\d", image)
    # "Removed support for Maxwell, Pascal, and Volta": CUDA 13.0's release notes.
    if _VOLTA.match(instance_type) and cuda and int(cuda[1]) >= 13:
        return (
            f"{instance_type} has NVIDIA V100 GPUs, which CUDA 13 of {image.rpartition('/')[2]} no"
            " longer supports; use backend.image=2.7.1, or a newer type such as ml.g5.xlarge"
        )
    if reason := lacks_kernels(instance_type, image):
        return f"{reason}; use backend.image=auto"
    return None
