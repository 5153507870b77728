"""AWS's images that serve PyTorch: their addresses, and the Python in them."""

from __future__ import annotations

import re

from breedlab.backends.sagemaker import machines
from breedlab.backends.sagemaker.images import gpus
from breedlab.errors import BackendError

SERVING_PYTORCH = "2.6.0"
"""The newest PyTorch for which AWS has an inference image."""


def inference_image(instance_type: str, region: str) -> str:
    """Return the address of AWS's PyTorch inference image for an instance type, without using a
    network."""
    from sagemaker.core import image_uris

    if reason := machines.unusable(instance_type):
        raise BackendError(f"endpoint.instance_type: {reason}")
    if machines.is_arm(instance_type) and gpus(instance_type):
        raise BackendError(
            f"endpoint.instance_type: {instance_type} has ARM processors with its GPUs; set"
            " endpoint.image"
        )
    has_region = not region.startswith("<")
    # Of types newer than its list the SDK takes every processor for an x86 one.
    table_type = machines.ARM_SIBLING if machines.is_arm(instance_type) else instance_type
    try:
        uri: str = image_uris.retrieve(
            "pytorch",
            region if has_region else "us-east-1",
            version=SERVING_PYTORCH,
            instance_type=table_type,
            image_scope="inference",
        )
    except ValueError as error:
        if "region" not in str(error):
            raise
        raise BackendError(
            f"endpoint.region: AWS has no PyTorch image in {region!r}; expected a region such as"
            " eu-central-1"
        ) from error
    if reason := machines.lacks_kernels(instance_type, uri):
        raise BackendError(
            f"endpoint.instance_type: {reason}; use a type such as ml.g6.xlarge, or an image of"
            " your own (docker/): endpoint.image=URI"
        )
    return uri if has_region else re.sub(r"^\d+(.*?)us-east-1", rf"<account>\1{region}", uri)


def python_of(image: str) -> str:
    """Return the Python version of one of AWS's images, from its tag.

    Raises:
        BackendError: If the tag does not.
    """
    match = re.search(r"[:-]py(\d)(\d+)(-|$)", image)
    if match is None:
        raise BackendError(
            f"endpoint.vendor: the tag of {image} does not name its Python version; use"
            " endpoint.image=aws"
        )
    return f"{match[1]}.{match[2]}"
