"""The public API: train an experiment, read a run, ask a model. `import breedlab` has these
names."""

from __future__ import annotations

import io
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from breedlab import hardware
from breedlab.cli.launch import configure
from breedlab.cli.resuming import resumed
from breedlab.config import Config
from breedlab.config.idle import warn_of_idle
from breedlab.config.plugins import load_plugins_of
from breedlab.errors import DataError, UsageError

if TYPE_CHECKING:
    import lightning
    import torch
    from PIL import Image

    Picture = str | Path | bytes | Image.Image

_BATCH = 32


def run(
    *overrides: str,
    config: Config | None = None,
    resume: str | Path | None = None,
    callbacks: Sequence[lightning.Callback] = (),
) -> Run:
    """Run an experiment, wherever its backend says, and wait for it to end.

    Args:
        overrides: What the command line takes: `run("experiment=quickstart", "optim.lr=0.01")`.
        config: A whole config from `configure`, instead of overrides.
        resume: A run directory to continue with, to its end or to what overrides ask for:
            `run("trainer.max_epochs=30", resume="runs/latest")`.
        callbacks: Lightning callbacks that watch the final training, where it runs in this process.

    Raises:
        BreedlabError: With one message: what is wrong with the config, the images or the machine.
    """
    from breedlab.backends import backend

    for each in overrides:
        if not isinstance(each, str):
            raise UsageError(
                f"run: got {type(each).__name__}; expected strings: run(*overrides) of a list"
            )
    if config is not None and overrides:
        raise UsageError("run: got both overrides and a config; expected one of them")
    if config is not None and resume is not None:
        raise UsageError("run: got both a config and a run to resume; expected one of them")
    place = None if resume is None else Path(resume)
    if place is not None:
        run_config = resumed(place, list(overrides), dry_run=False)
    else:
        run_config = configure(*overrides) if config is None else config
    if run_config.dry_run:
        raise UsageError("dry_run: got true; expected false, since run() runs the experiment")
    if not run_config.backend.wait:
        raise UsageError(
            "backend.wait: got false; expected true, since run() returns the finished run"
        )
    where = backend(run_config)
    words = list(overrides)
    if place is None and config is None:
        warn_of_idle(run_config, words)
        run_config, words = where.without_missing_extras(run_config, words)
    summary = where.run(run_config, words, place, callbacks)
    return Run(summary["run"])


def load(model: str | Path) -> Model:
    """Load a trained model.

    Args:
        model: A run directory, or a `model.tar.gz`.

    Raises:
        ServingError: If there is no model, or it cannot be read.
    """
    return Model(model)


@dataclass(frozen=True)
class Prediction:
    """What a model says of one image.

    Attributes:
        label: The most likely class.
        probability: Of that class, 0 to 1.
        probabilities: Of every class by name, the most likely first.
        unknown: Whether the image is unlike those of all classes; None if the model has no measure
            of that.
        label_set: The classes that include the true one with the model's coverage, 90%; empty if it
            has no sets.
        labels: The labels that the image is given, the most probable first, which may be none; None
            of a model of one class an image.
    """

    label: str
    probability: float
    probabilities: Mapping[str, float]
    unknown: bool | None = None
    label_set: tuple[str, ...] = ()
    labels: tuple[str, ...] | None = None


class Model:
    """A trained model that answers with what its export chose: PyTorch or OpenVINO.

    Args:
        model: As for `load`.

    Attributes:
        classes: Class names in the order of the scores.
        lineage: Where the model comes from: commit, versions, data.
    """

    def __init__(self, model: str | Path) -> None:
        from breedlab.archives import opened
        from breedlab.serving.model import Model as Exported

        hardware.heed()
        # OpenVINO may read its graph later, so the files stay as long as the model does
        unpacked = ExitStack()
        load_plugins_of(Path(model))
        self._exported = Exported(unpacked.enter_context(opened(Path(model))))
        weakref.finalize(self, unpacked.close)
        self.classes: tuple[str, ...] = self._exported.classes
        self.lineage: Mapping[str, Any] = self._exported.lineage

    def predict(self, images: Picture | Iterable[Picture]) -> list[Prediction]:
        """Return what the model says of images, in their order.

        Args:
            images: One or several: a path, a file's bytes, or a PIL image. Each is prepared exactly
                as in training.

        Raises:
            DataError: If one of them is not a readable image; the message names it.
        """
        import torch

        # read and decoded in threads while a batch is computed
        prepared = hardware.in_threads(self._prepare, _named(images))
        predictions: list[Prediction] = []
        while batch := list(islice(prepared, _BATCH)):
            predictions += map(self._prediction, self._exported.describe(torch.stack(batch)))
        return predictions

    def _prepare(self, entry: tuple[str, str | Path | bytes]) -> torch.Tensor:
        from breedlab.data.decode import ImageError, read_image

        name, image = entry
        try:
            content = image if isinstance(image, bytes) else read_image(Path(image))
            return self._exported.prepare(content)
        except OSError as error:
            raise DataError(
                f"{name}: cannot be read ({error.strerror or error}); expected an image file"
            ) from error
        except ImageError as error:
            raise error.reworded(f"{name}: {error}") from error

    def _prediction(self, answer: Mapping[str, Any]) -> Prediction:
        ranked = sorted(
            zip(self.classes, answer["probabilities"], strict=True), key=lambda pair: -pair[1]
        )
        label, probability = ranked[0]
        label_set = tuple(self.classes[index] for index in answer.get("set", ()))
        labels = None
        if "labels" in answer:
            labels = tuple(self.classes[index] for index in answer["labels"])
        return Prediction(
            label, probability, dict(ranked), answer.get("unknown"), label_set, labels
        )


class Run:
    """A run directory, read as it is now.

    Args:
        path: The directory, such as `runs/latest`.

    Attributes:
        path: The directory.

    Raises:
        ConfigError: If it is not a run directory.
    """

    def __init__(self, path: str | Path) -> None:
        from breedlab.reporting.record import run_directory

        self.path: Path = run_directory(Path(path))

    @cached_property
    def _read(self) -> Any:
        from breedlab.reporting.record import read_run

        return read_run(self.path)

    @property
    def config(self) -> Mapping[str, Any]:
        """The whole config that the run was started with."""
        return dict(self._read.config)

    @property
    def metrics(self) -> Mapping[str, float]:
        """The metrics of the test split by name, such as `top1`; empty if the run has not got that
        far."""
        return dict(self._read.test.get("metrics", {}))

    @property
    def trials(self) -> list[Mapping[str, Any]]:
        """Every trial of the search: `number`, `values`, `state`, `objective`, its 95% `interval`,
        `epochs`, `seconds`."""
        return list(self._read.trials)

    @property
    def best(self) -> Mapping[str, Any] | None:
        """The trial with whose values the model was trained, or the best so far; None without a
        complete trial."""
        from breedlab.reporting.search_facts import ranked

        complete = [trial for trial in ranked(self._read) if trial["state"] == "complete"]
        return complete[0] if complete else None

    @property
    def report(self) -> Path:
        """The page that shows the run, `report.html`."""
        return self.path / "report.html"

    @property
    def model(self) -> Model:
        """The trained model, loaded each time."""
        return load(self.path)

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"


def _named(images: Picture | Iterable[Picture]) -> Iterator[tuple[str, str | Path | bytes]]:
    """Yield what an error calls each image, and its path or its bytes as a file has them."""
    from PIL import Image

    several = [images] if isinstance(images, str | Path | bytes | Image.Image) else images
    for position, image in enumerate(several):
        if isinstance(image, str | Path):
            yield str(image), image
        elif isinstance(image, bytes):
            yield f"image {position}", image
        else:
            file = io.BytesIO()
            image.save(file, "PNG")  # lossless, so the model sees the same pixels
            yield f"image {position}", file.getvalue()
