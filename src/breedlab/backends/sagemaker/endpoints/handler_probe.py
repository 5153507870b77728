"""Ask an archive's own code one question, in a Python process that has nothing of ours:
`handler_probe.py FOLDER [IMAGE]`.

Without an image the code is imported and no more. Modules that an inference image lacks cannot be
imported here, either.
"""

import importlib.util
import sys
from pathlib import Path
from typing import Any

ABSENT = (
    "lightning",
    "hydra",
    "omegaconf",
    "pydantic",
    "optuna",
    "torchmetrics",
    "rich",
    "fastapi",
    "sagemaker",
)


class Absent:
    """An import finder that refuses modules that the container will not have."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if name.split(".")[0] in ABSENT:
            raise ModuleNotFoundError(f"No module named {name!r} in an inference image", name=name)


def main(folder: Path, image: Path | None) -> None:
    """Print the answer as JSON on the last line."""
    sys.meta_path.insert(0, Absent())
    sys.path.insert(0, str(folder / "code"))
    import inference  # type: ignore[import-not-found]

    spec = importlib.util.find_spec("breedlab")  # which must be the archive's own copy
    assert spec is not None and Path(str(spec.origin)).is_relative_to(folder), spec
    if image is None:
        return
    model = inference.model_fn(str(folder))
    images = inference.input_fn(image.read_bytes(), "application/octet-stream")
    body, _ = inference.output_fn(
        inference.predict_fn(images, model), "application/json; verbose=1"
    )
    print(body.decode())


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), Path(sys.argv[2]) if len(sys.argv) > 2 else None)
