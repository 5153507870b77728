"""model.tar.gz as a file: packed the same for the same content, unpacked where it is used. It needs
no torch."""

from __future__ import annotations

import errno
import gzip
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Any, NoReturn

from breedlab.errors import ServingError
from breedlab.files import atomic_open
from breedlab.names import printable

_GZIP = zlib.MAX_WBITS | 16
_MAX_RATIO = 50
"""Unpacked bytes per byte of the archive; weights are numbers, which are hardly compressible."""
_MAX_SMALL = 200_000_000
"""Unpacked bytes that any archive may have in addition."""
_MAX_READ = 1 << 20
_MAX_MEMBERS = 10_000
_DAMAGED, _SUSPECT = "BL505", "BL506"


def write_archive(path: Path, folder: Path) -> None:
    """Pack a folder's content. The same content gives the same bytes; a broken write leaves no
    archive."""
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    with atomic_open(path) as out, closing(_Zipped(out)) as zipped:
        stream: Any = zipped  # tarfile only writes to it
        with tarfile.open(
            fileobj=stream, mode="w|", bufsize=_MAX_READ, format=tarfile.PAX_FORMAT
        ) as archive:
            for file in files:
                info = tarfile.TarInfo(str(file.relative_to(folder)))
                info.size, info.mode = file.stat().st_size, 0o644
                with file.open("rb") as content:
                    archive.addfile(info, content)


class _Zipped:
    """A writer of a gzip file without name and time.

    Weights repeat themselves in no way that deflate's search for matches finds: run lengths alone
    make them as small, in less than half of the time that the fastest level takes.
    """

    def __init__(self, out: IO[bytes]) -> None:
        self._out = out
        self._deflate = zlib.compressobj(1, wbits=_GZIP, strategy=zlib.Z_RLE)

    def write(self, data: bytes) -> None:
        self._out.write(self._deflate.compress(data))

    def close(self) -> None:
        self._out.write(self._deflate.flush())


@contextmanager
def opened(model: Path) -> Iterator[Path]:
    """Open a model as a folder of its content.

    Args:
        model: An archive, a run directory that holds one, or an archive's content already unpacked.

    Raises:
        ServingError: If there is no model there, or the file is not such an archive.
    """
    if model.is_dir() and (model / "model.json").is_file():
        yield model
        return
    archive = model / "model.tar.gz" if model.is_dir() else model
    if not archive.is_file():
        is_run = (model / "config.yaml").is_file()
        hint = (
            f"the run has not finished; continue it with resume={model}" if is_run else "not there"
        )
        if runs := sorted(model.glob("*/model.tar.gz")):
            raise ServingError(f"{model}: holds several runs; name one, such as {runs[-1].parent}")
        raise ServingError(
            f"{archive}: {hint}; expected a model.tar.gz or a run directory that holds one"
        )
    from breedlab.console import progress

    with tempfile.TemporaryDirectory(prefix="breedlab-") as folder:
        try:
            with progress(f"unpacking {archive.name}", aside=True):
                _unpack(archive, Path(folder))
        except _Refused as error:
            raise ServingError(
                f"{archive}: {error}; expected a model.tar.gz that breedlab exported", code=_SUSPECT
            ) from error
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise ServingError(
                    f"{archive}: not enough space to unpack it in {tempfile.gettempdir()}"
                ) from error
            reason = "not a gzip file" if isinstance(error, gzip.BadGzipFile) else str(error)
            raise ServingError(
                f"{archive}: cannot be unpacked ({reason}); expected a model.tar.gz", code=_DAMAGED
            ) from error
        except Exception as error:
            # On hostile or damaged bytes, tarfile and zlib raise a dozen kinds of errors.
            reason = str(error) or type(error).__name__
            raise ServingError(
                f"{archive}: cannot be unpacked ({reason}); expected a model.tar.gz", code=_DAMAGED
            ) from error
        if not Path(folder, "model.json").is_file():
            raise ServingError(
                f"{archive}: holds no model.json; expected an archive that breedlab exported",
                code="BL507",
            )
        yield Path(folder)


class _Refused(Exception):
    """An error for content that no archive of breedlab's has."""


class _Bounded:
    """The reader through which tarfile reads an archive: no more bytes than `limit` in all, and
    none of them in one piece.

    A gzip file of a megabyte may hold a gigabyte, and a header of tar may ask for all of it at
    once.
    """

    def __init__(self, file: gzip.GzipFile, limit: int) -> None:
        self._file, self._limit = file, limit

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _MAX_READ:
            raise _Refused("a header in it is larger than any of ours")
        if self._file.tell() + size > self._limit:
            self._refuse()
        return self._file.read(size)

    def seek(self, offset: int, whence: int = 0) -> int:
        if offset > self._limit + _MAX_READ:
            self._refuse()
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def _refuse(self) -> NoReturn:
        raise _Refused(
            f"unpacks to more than {self._limit / 1e6:,.0f} MB, far more than its size accounts for"
        )


def _unpack(archive: Path, folder: Path) -> None:
    """Write an archive's files into an empty folder: regular ones, inside it, each once, and no
    more than fit it."""
    limit = _MAX_RATIO * archive.stat().st_size + _MAX_SMALL
    with gzip.open(archive) as unzipped:
        bounded: Any = _Bounded(unzipped, limit)
        with tarfile.open(fileobj=bounded, mode="r:") as content:
            _write_members(content, folder, limit)
        while unzipped.read(_MAX_READ):  # to the end, where the checksum is
            if unzipped.tell() > limit:
                raise _Refused("continues past its end")


def _write_members(content: tarfile.TarFile, folder: Path, limit: int) -> None:
    names: set[str] = set()
    for member in content:
        name = printable(member.name[:200])
        if member.isdir():
            continue
        if member.issparse() or not member.isreg():
            raise _Refused(f"holds {name}, which is not a regular file")
        path = PurePosixPath(member.name)
        if path.is_absolute() or ".." in path.parts or not path.parts or "\0" in member.name:
            raise _Refused(f"holds {name}, which would end up outside its folder")
        if str(path) in names or len(names) >= _MAX_MEMBERS:
            raise _Refused(
                f"holds {name} twice"
                if str(path) in names
                else f"holds over {_MAX_MEMBERS:,} files"
            )
        names.add(str(path))
        if member.size > limit:
            raise _Refused(
                f"holds {name} of {member.size / 1e6:,.0f} MB, far more than its size accounts for"
            )
        source = content.extractfile(member)
        assert source is not None
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        with source, target.open("xb") as file:
            shutil.copyfileobj(source, file, _MAX_READ // 2)
        if target.stat().st_size != member.size:
            raise EOFError(f"ends within {name}")
