"""model.tar.gz as a file: packed the same for the same content, unpacked where it is used. It needs no torch."""

from __future__ import annotations

import gzip
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from breedlab.errors import ServingError
from breedlab.files import atomic_open


def write_archive(path: Path, folder: Path) -> None:
    """Packs a folder's content. The same content gives the same bytes; a broken write leaves no archive."""
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    with (
        atomic_open(path) as out,
        gzip.GzipFile("", "wb", compresslevel=1, fileobj=out, mtime=0) as zipped,
        tarfile.open(fileobj=zipped, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for file in files:
            info = tarfile.TarInfo(str(file.relative_to(folder)))
            info.size, info.mode = file.stat().st_size, 0o644
            with file.open("rb") as content:
                archive.addfile(info, content)


@contextmanager
def opened(model: Path) -> Iterator[Path]:
    """The folder of a model's content.

    Args:
        model: An archive, a run directory that holds one, or an archive's content already unpacked.

    Raises:
        ServingError: If there is no model there, or the file is no such archive.
    """
    if model.is_dir() and (model / "model.json").is_file():
        yield model
        return
    archive = model / "model.tar.gz" if model.is_dir() else model
    if not archive.is_file():
        begun = (model / "config.yaml").is_file()
        hint = f"the run has not finished; continue it with resume={model}" if begun else "not there"
        if runs := sorted(model.glob("*/model.tar.gz")):
            raise ServingError(f"{model}: holds several runs; name one, such as {runs[-1].parent}")
        raise ServingError(f"{archive}: {hint}; expected a model.tar.gz or a run directory that holds one")
    from breedlab.reporting.console import progress

    with tempfile.TemporaryDirectory(prefix="breedlab-") as folder:
        try:
            with progress(f"unpacking {archive.name}", aside=True), tarfile.open(archive, "r:gz") as content:
                content.extractall(folder, filter="data")
        except (tarfile.TarError, EOFError, OSError) as error:
            raise ServingError(f"{archive}: cannot be unpacked ({error}); expected a model.tar.gz") from error
        if not Path(folder, "model.json").is_file():
            raise ServingError(f"{archive}: holds no model.json; expected an archive that breedlab exported")
        yield Path(folder)
