"""Limits of instances' disks that only AWS's documentation states; `documented_limits` has their
sources."""

from __future__ import annotations

import re
from collections.abc import Sequence

from breedlab.backends.sagemaker.limits import Call, Found, training_part, training_root

_LOCAL_STORAGE = re.compile(
    r"ml\.(g4dn|g4ad|g5|g6|g6e|g6f|gr6|gr6f|g7|g7e|p3dn|p4d|p4de|p5|p5e|p5en|p6\S*|trn1|trn1n|trn2"
    r"|trn2u|dl1|dl2q|i\d\w*|[a-z]\d[a-z]*d[a-z]*)\."
)
"""Types with NVMe disks of their own: EC2's page of instance stores."""

_FAMILIES = (
    # family, and gigabytes by size: EC2's pages of instance types
    ("g4dn", "xlarge 125 2xlarge 225 4xlarge 225 8xlarge 900 12xlarge 900 16xlarge 900"),
    (
        "g5",
        "xlarge 250 2xlarge 450 4xlarge 600 8xlarge 900 12xlarge 3800 16xlarge 1900 24xlarge 3800"
        " 48xlarge 7600",
    ),
    (
        "g6",
        "xlarge 250 2xlarge 450 4xlarge 600 8xlarge 900 12xlarge 3760 16xlarge 1880 24xlarge 3760"
        " 48xlarge 7520",
    ),
    (
        "g6e",
        "xlarge 250 2xlarge 450 4xlarge 600 8xlarge 900 12xlarge 3800 16xlarge 1900 24xlarge 3800"
        " 48xlarge 7600",
    ),
    ("g7", "2xlarge 440 4xlarge 875 8xlarge 930 12xlarge 1900 24xlarge 3800 48xlarge 7600"),
    ("g7e", "2xlarge 1900 4xlarge 1900 8xlarge 1900 12xlarge 3800 24xlarge 7600 48xlarge 15200"),
    ("p3dn", "24xlarge 1800"),
    ("p4d", "24xlarge 8000"),
    ("p4de", "24xlarge 8000"),
    ("p5", "4xlarge 3800 48xlarge 30400"),
    ("p5e", "48xlarge 30400"),
    ("p5en", "48xlarge 30400"),
    ("p6-b200", "48xlarge 30400"),
    ("p6-b300", "48xlarge 30400"),
    (
        "r5d",
        "large 75 xlarge 150 2xlarge 300 4xlarge 600 8xlarge 1200 12xlarge 1800 16xlarge 2400"
        " 24xlarge 3600",
    ),
)


def _sizes() -> dict[str, int]:
    sizes = {}
    for family, text in _FAMILIES:
        words = text.split()
        for size, gigabytes in zip(words[::2], words[1::2], strict=True):
            sizes[f"ml.{family}.{size}"] = int(gigabytes)
    return sizes


LOCAL_GB = _sizes()
"""How large a type's own disks are together, for types that train."""


def has_local_storage(instance_type: str) -> bool:
    """Return whether a type has NVMe disks of its own."""
    return bool(_LOCAL_STORAGE.match(instance_type))


def no_key_for_local_disks(call: Call, before: Sequence[Call]) -> Found:
    """Yield a key for the volume of a type that has disks of its own."""
    resources = training_part(call).get("ResourceConfig", {})
    kind = resources.get("InstanceType", "")
    if resources.get("VolumeKmsKeyId") and has_local_storage(kind):
        yield (
            f"{training_root(call)}ResourceConfig.VolumeKmsKeyId",
            (
                f"got a key for the volume of {kind}, whose local disks encrypt themselves;"
                " expected none"
            ),
        )


def no_volume_beside_local_disks(call: Call, before: Sequence[Call]) -> Found:
    """Yield a volume of an endpoint's instances that have disks of their own."""
    if call[0] != "CreateEndpointConfig":
        return
    for index, variant in enumerate(call[1].get("ProductionVariants", [])):
        kind = variant.get("InstanceType", "")
        if "VolumeSizeInGB" in variant and has_local_storage(kind):
            where = f"ProductionVariants[{index}].VolumeSizeInGB"
            yield where, f"expected none for {kind}, which has disks of its own and takes no volume"


def volume_fits_local_disks(call: Call, before: Sequence[Call]) -> Found:
    """Yield a job's volume that is larger than its type's own disks, which it gets instead."""
    resources = training_part(call).get("ResourceConfig", {})
    kind, size = resources.get("InstanceType", ""), resources.get("VolumeSizeInGB", 0)
    most = LOCAL_GB.get(kind)
    if most is not None and isinstance(size, int) and size > most:  # not AWS's to fill in
        yield (
            f"{training_root(call)}ResourceConfig.VolumeSizeInGB",
            f"got {size}; {kind} has {most} GB of its own disks and takes no volume; expected at"
            f" most {most}, or a larger type",
        )


def volume_key_is_no_alias(call: Call, before: Sequence[Call]) -> Found:
    """Yield a key for a job's volume that is named by its alias."""
    key = str(training_part(call).get("ResourceConfig", {}).get("VolumeKmsKeyId", ""))
    if key.startswith("alias/") or ":alias/" in key:
        yield (
            f"{training_root(call)}ResourceConfig.VolumeKmsKeyId",
            f"got {key!r}; for volumes AWS takes a key's ID or ARN only: `aws kms describe-key"
            f" --key-id {key} --query KeyMetadata.Arn`",
        )
