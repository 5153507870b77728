"""Where images come from when `data.root` is not there yet. A source is chosen by having its
section in `data`."""

from __future__ import annotations

import json
from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from breedlab.config.section import PositiveInt, Section
from breedlab.errors import DataError
from breedlab.registry import SOURCES

if TYPE_CHECKING:
    from breedlab.config.sections import Data

_SPEC = "sample.json"


@dataclass(frozen=True)
class Expected:
    """What a source will put in place.

    Attributes:
        how: In words, such as "will be drawn".
        classes: How many.
        counts: Images of train, valid and test.
        bytes: What has to be downloaded.
    """

    how: str
    classes: int
    counts: tuple[int, int, int]
    bytes: int = 0


class Source(Section):
    """A source of labeled images."""

    @abstractmethod
    def fetch(self, root: Path) -> None:
        """Put images at `root`, which is not there: `root/train/<class>/*.jpg`, and `valid` and
        `test` if there are.

        Raises:
            DataError: If they cannot be had; leaves no `root` behind then.
        """

    @abstractmethod
    def expected(self) -> Expected:
        """Return what `fetch` will put in place, for a dry run."""

    def check(self, root: Path) -> None:
        """Raise DataError if the images at `root` are from this source with other settings."""


@SOURCES.register("sample")
class Sample(Source):
    """How many made-up images to draw where `data.root` does not exist yet."""

    classes: Annotated[int, Field(ge=2)]
    """Classes, each a made-up breed."""
    train: PositiveInt
    """Training images of each class."""
    valid: PositiveInt
    """Validation images of each class."""
    test: PositiveInt
    """Test images of each class."""
    size: Annotated[int, Field(ge=32)]
    """The shorter side of an image, in pixels."""
    seed: Annotated[int, Field(ge=0)]
    """Draws other images."""

    def fetch(self, root: Path) -> None:
        from breedlab.console import progress
        from breedlab.data.sample import write_sample
        from breedlab.files import atomic_write_json

        with progress(f"drawing images into {root}") as report:
            write_sample(root, **self.model_dump(), progress=report)
        atomic_write_json(root / _SPEC, self.model_dump())

    def expected(self) -> Expected:
        train, valid, test = (self.classes * count for count in (self.train, self.valid, self.test))
        return Expected("will be drawn", self.classes, (train, valid, test))

    def check(self, root: Path) -> None:
        """Refuse images that were drawn with other settings than those requested."""
        try:
            spec = json.loads((root / _SPEC).read_text("utf-8"))
        except (OSError, ValueError):
            return  # a folder of the user's own
        wrong = [
            f"{name} {spec.get(name)}, now {value}"
            for name, value in self.model_dump().items()
            if spec.get(name) != value
        ]
        if wrong:
            raise DataError(
                f"data.sample: {root} was drawn with {'; '.join(wrong)};"
                " remove the folder to have it drawn again, or name another: data.root=..."
            )


@SOURCES.register("archive")
class ArchiveSource(Source):
    """The archive to download where `data.root` does not exist yet."""

    url: str
    """Where the zip file is, http or https."""
    bytes: PositiveInt
    """The size of the zip file."""
    folder: str
    """The folder inside the zip file that becomes `data.root`."""
    classes: PositiveInt
    """How many classes it has, for a dry run."""
    train: PositiveInt
    """Training images, likewise."""
    valid: PositiveInt
    """Validation images, likewise."""
    test: PositiveInt
    """Test images, likewise."""

    def fetch(self, root: Path) -> None:
        from breedlab.console import progress, stage
        from breedlab.data.download import Archive, fetch

        stage(f"Fetching {self.url}")
        archive = Archive(url=self.url, bytes=self.bytes, folder=self.folder)
        with progress("download") as report:
            fetch(archive, root, progress=lambda _stage, count, total: report(count, total))

    def expected(self) -> Expected:
        how = f"will be downloaded ({self.bytes / 1e9:.1f} GB from {self.url})"
        return Expected(how, self.classes, (self.train, self.valid, self.test), self.bytes)


def sources_of(data: Data) -> dict[str, Source]:
    """Return the sources that a config has a section for, by name; there should be one at most."""
    sections = {name: getattr(data, name, None) for name in SOURCES.names()}
    return {name: section for name, section in sections.items() if isinstance(section, Source)}


def source_of(data: Data) -> Source | None:
    """Return the source of a config, None where the images have to be there."""
    return next(iter(sources_of(data).values()), None)
