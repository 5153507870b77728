"""What `auto` meant to older versions, for their runs that are resumed today."""

from __future__ import annotations

from typing import Any

from breedlab.config import Config
from breedlab.models.backbone import PACKAGE, TIMM, is_path


def transform(config: Config) -> dict[str, Any]:
    """Return the parts of the evaluation transform that differ from what older versions used, which
    did not record it in lineage.json.

    They normalized with ImageNet's mean and std for packaged weights, and for a weights file of a
    torchvision network they used the transform of the library's newest weights.
    """
    data, model = config.data, config.model
    former: dict[str, Any] = {}
    if model.weights.startswith(PACKAGE):
        former = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
    elif is_path(model.weights) and not model.name.startswith(TIMM):
        from torchvision import models

        preset = models.get_model_weights(model.name).DEFAULT.transforms()
        crop = preset.crop_size[0] if data.image_size == "auto" else data.image_size
        former = {
            "crop": crop,
            "resize": round(crop * preset.resize_size[0] / preset.crop_size[0]),
            "interpolation": preset.interpolation.value,
        }
    names = {
        "crop": data.image_size,
        **{name: getattr(data, name) for name in ("resize", "interpolation", "mean", "std")},
    }
    return {name: value for name, value in former.items() if names[name] == "auto"}
