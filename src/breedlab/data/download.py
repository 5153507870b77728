"""Download the zip archive of a data set on first use and unpack it: all of it, or nothing."""

from __future__ import annotations

import errno
import shutil
import stat
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Protocol

from breedlab.errors import DataError, DiskFull
from breedlab.files import atomic_write_bytes
from breedlab.version import __version__

if TYPE_CHECKING:
    from urllib3 import PoolManager

CONNECT_TIMEOUT = 10.0
READ_TIMEOUT = 30.0
RETRIES = 4
BACKOFF = 0.5

# A stalled connection loses what it holds of a chunk, so that a small one costs less to fetch
# again.
CHUNK = 64 * 1024

# Images are compressed already: an archive of them unpacks to about its own size, uncompressed
# pictures to several times that. What grows more is a zip bomb, which below 1 GB does no harm.
MAX_UNPACKED = 20 * 10**9
MAX_GROWTH = 10
GROWTH_MATTERS_FROM = 10**9

_FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True)
class Archive:
    """A zip archive of labeled images.

    Attributes:
        url: Where it is, http or https.
        bytes: The size of the zip file.
        folder: The folder inside the zip that becomes the data root, such as "dogImages".
    """

    url: str
    bytes: int
    folder: str


class Progress(Protocol):
    """Told how far one stage is."""

    def __call__(self, count: int, total: int) -> None:
        """Report progress, `count` of `total`: bytes of a download, files of an extraction."""


def fetch(
    archive: Archive, root: Path, *, progress: Callable[[str, int, int], None] | None = None
) -> None:
    """Put the images of an archive into `root`; do nothing if it has files already.

    The download goes to `<root>.zip.part` and is resumed from there, in this call or a later one. A
    complete `<root>.zip`, put there by hand, is used as it is. Both are gone once `root` is
    complete.

    Args:
        archive: What to fetch.
        root: The folder to fill; it appears when it is complete.
        progress: Called with "download", bytes done and in all, then with "extract", files done and
            in all.

    Raises:
        DataError: The archive cannot be reached, is not what was expected, or does not fit on the
            disk.
    """
    # The absolute path also makes messages clear and puts a linked root's files on the disk it
    # links to.
    root = root.resolve()
    report = progress or (lambda stage, count, total: None)
    zip_file = _beside(root, ".zip")
    part = _beside(zip_file, ".part")
    try:
        if root.exists() and any(root.iterdir()):
            return
        root.parent.mkdir(parents=True, exist_ok=True)
        if not zip_file.exists():
            _download(archive, part, partial(report, "download"))
            part.replace(zip_file)
        elif (size := _size(zip_file)) != archive.bytes:
            raise _unexpected(
                f"{zip_file} has {size} bytes, but {archive.url} has {archive.bytes}. Put the"
                " complete file there, or delete this one and run again to download it.",
            )
        _extract(zip_file, root, archive.folder, partial(report, "extract"))
        _discard(part)
        zip_file.unlink()
    except OSError as error:
        if error.errno in _FULL:
            raise DataError(
                f"The disk of {root.parent} is full. What was downloaded is kept there: free some"
                " space and run again, or set data.root to a folder on a larger disk.",
                DiskFull.code,
            ) from error
        if error.filename:
            raise DataError(
                f"{error.filename}: {error.strerror}. The images of {archive.url} go to {root}:"
                " fix that, or set data.root to a folder that can be written."
            ) from error
        raise


def _download(archive: Archive, part: Path, report: Progress) -> None:
    """Complete `part` in as many requests as needed, as long as they make progress."""
    import urllib3
    from urllib3.exceptions import HTTPError, ProtocolError, SSLError, TimeoutError

    if not archive.url.lower().startswith(("http://", "https://")):
        raise DataError(
            f"data.archive.url is {archive.url!r}; expected one with http:// or https://."
        )
    if _size(part) > archive.bytes:
        _discard(part)
    if missing := archive.bytes - _size(part):
        # Images hardly shrink in a zip; without space for them there is no point in waiting for the
        # download.
        purpose = f"for {archive.url} and about as much again for its images"
        _require_space(part.parent, missing + archive.bytes, purpose)
    retry = urllib3.Retry(
        total=RETRIES,
        backoff_factor=BACKOFF,
        status_forcelist=(429, 500, 502, 503, 504),
        raise_on_status=False,
        # Servers may ask for hours here.
        respect_retry_after_header=False,
    )
    timeout = urllib3.Timeout(connect=CONNECT_TIMEOUT, read=READ_TIMEOUT)
    furthest = idle = 0
    with urllib3.PoolManager(retries=retry, timeout=timeout) as pool:
        while _size(part) != archive.bytes:
            cause: HTTPError | None = None
            try:
                _receive(pool, archive, part, report)
            except (ProtocolError, TimeoutError, SSLError) as error:
                # The body was cut off, which urllib3 leaves to its caller.
                cause = error
            except HTTPError as error:
                raise _unreachable(archive, part, _reason(error)) from error
            if _size(part) > furthest:
                furthest, idle = _size(part), 0
            elif idle == RETRIES:
                reason = _reason(cause) if cause else "the server does not send the rest"
                raise _unreachable(archive, part, reason) from cause
            else:
                time.sleep(BACKOFF * 2**idle)
                idle += 1


def _receive(pool: PoolManager, archive: Archive, part: Path, report: Progress) -> None:
    """Make one request: append to `part`, or delete it if the server cannot or should not continue
    from there."""
    have, saved = _size(part), _beside(part, ".etag")
    etag = saved.read_text("latin-1") if have and saved.exists() else ""
    headers = {"Accept-Encoding": "identity", "User-Agent": f"breedlab/{__version__}"}
    if have:
        headers["Range"] = f"bytes={have}-"
    if etag and not etag.startswith("W/"):  # HTTP forbids weak ones here; they are compared below
        headers["If-Range"] = etag
    response = pool.request("GET", archive.url, headers=headers, preload_content=False)
    try:
        now = response.headers.get("ETag", "")
        span, _, whole = response.headers.get("Content-Range", "").partition("/")
        goes_on = span.startswith(f"bytes {have}-") and not (etag and now and now != etag)
        if response.status == 416 or (response.status == 206 and not goes_on):
            _discard(part)
            return
        if response.status not in (200, 206):
            answer = f"{response.status} {response.reason or ''}".strip()
            raise _unreachable(archive, part, f"the server answered {answer}")
        size = whole if response.status == 206 else response.headers.get("Content-Length", "")
        if size.isdecimal() and int(size) != archive.bytes:
            # A whole file of another size may be a network's login page: no reason to lose what is
            # here.
            if response.status == 206:
                _discard(part)
            raise _wrong_size(archive, size)
        if response.status == 200:
            _discard(part)
            have = 0
            if now:
                atomic_write_bytes(saved, now.encode("latin-1", "replace"))
        report(have, archive.bytes)
        with part.open("ab") as out:
            for chunk in response.stream(CHUNK, decode_content=False):
                out.write(chunk)
                have += len(chunk)
                if have > archive.bytes:
                    break
                report(have, archive.bytes)
        # Less is fine for a range, which the server may cut as it likes.
        if have > archive.bytes or (response.status == 200 and have < archive.bytes):
            _discard(part)
            raise _wrong_size(
                archive, str(have) if have < archive.bytes else f"more than {archive.bytes}"
            )
    finally:
        response.close()


def _extract(zip_file: Path, root: Path, folder: str, report: Progress) -> None:
    unpacked = _beside(root, ".unpacking")
    shutil.rmtree(unpacked, ignore_errors=True)
    with _reading(zip_file):
        archive = zipfile.ZipFile(zip_file)
    try:
        with archive:
            members = _wanted(archive, zip_file, root, folder)
            # Each file also fills up its last block.
            need = sum(entry.file_size + 4096 for entry in members)
            _require_space(root.parent, need, f"to unpack {zip_file}")
            report(0, len(members))
            for number, (entry, path) in enumerate(members.items(), start=1):
                target = unpacked / path
                target.parent.mkdir(parents=True, exist_ok=True)
                with _reading(zip_file), archive.open(entry) as source, target.open("wb") as out:
                    shutil.copyfileobj(source, out)
                report(number, len(members))
        if root.exists():
            root.rmdir()  # empty, and in the way of the rename on Windows
        unpacked.rename(root)
    finally:
        shutil.rmtree(unpacked, ignore_errors=True)


def _wanted(
    archive: zipfile.ZipFile, zip_file: Path, root: Path, folder: str
) -> dict[zipfile.ZipInfo, PurePosixPath]:
    """Return the files below `folder` and their paths there; refuse an archive that may do harm."""
    top = PurePosixPath(folder)
    members: dict[zipfile.ZipInfo, PurePosixPath] = {}
    tops: set[str] = set()
    for entry in archive.infolist():
        name = entry.filename.replace("\\", "/")
        path = PurePosixPath(name)
        outside = path.is_absolute() or any(
            p == ".." or PureWindowsPath(p).drive for p in path.parts
        )
        if outside or stat.S_IFMT(entry.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
            kind = "leads out of its folder" if outside else "is a link or device"
            raise _unexpected(
                f"{zip_file} holds {entry.filename!r}, which {kind}; images need only plain files,"
                " so nothing was unpacked. Delete it and set data.archive to a source that you"
                " trust.",
            )
        if name.endswith("/") or any(p == "__MACOSX" or p.startswith(".") for p in path.parts):
            continue
        tops.update(path.parts[:1])
        if path.is_relative_to(top) and path != top:
            members[entry] = path.relative_to(top)
    if not members:
        raise _unexpected(
            f"{zip_file} holds no files in a folder {folder!r}, but has"
            f" {', '.join(sorted(tops)[:10])} at its top. Set data.archive.folder to the one with"
            " the images.",
        )
    total, size = sum(entry.file_size for entry in members), _size(zip_file)
    if total > MAX_UNPACKED or total > max(GROWTH_MATTERS_FROM, MAX_GROWTH * size):
        raise _unexpected(
            f"{zip_file} ({_amount(size)}) would unpack to {_amount(total)}; expected at most"
            f" {MAX_GROWTH} times its size and {_amount(MAX_UNPACKED)}. If you trust it, unpack it"
            f" yourself: its {folder!r} becomes {root}.",
        )
    return members


@contextmanager
def _reading(zip_file: Path) -> Iterator[None]:
    """Report a damaged archive: on one, zipfile raises nearly anything, from BadZipFile to
    zlib.error."""
    try:
        yield
    except Exception as error:
        if isinstance(error, OSError) and (error.errno in _FULL or error.filename):
            raise
        raise _unexpected(
            f"{zip_file} is not a whole, readable zip archive ({error}). Delete {zip_file} and run"
            " again to download it afresh.",
        ) from error


def _unexpected(message: str) -> DataError:
    return DataError(message, "BL213")


def _unreachable(archive: Archive, part: Path, reason: str) -> DataError:
    progress = "Nothing was fetched so far; what a run fetches is kept and resumed."
    if _size(part):
        fetched = f"What was fetched so far ({_amount(_size(part))})"
        progress = f"{fetched} is kept in {part}; the next run resumes there."
    return DataError(
        f"{archive.url} could not be downloaded: {reason}.\n"
        f"{progress}\n"
        "Run again later, or instead:\n"
        f"  - fetch it ({archive.bytes} bytes) by other means and put it at"
        f" {part.with_suffix('')}\n"
        "  - use your own images: data=image_folder data.root=<your images>\n"
        "  - use generated images: data=sample",
        "BL212",
    )


def _reason(error: Exception) -> str:
    from urllib3 import exceptions as web

    if isinstance(error, web.MaxRetryError) and error.reason:
        error = error.reason
    match error:
        case web.NameResolutionError():
            return "its host name cannot be resolved (no network?)"
        case web.NewConnectionError():
            return str(getattr(error.__cause__, "strerror", None) or "no connection").lower()
        case web.ConnectTimeoutError():
            return f"no connection within {CONNECT_TIMEOUT:g} s"
        case web.ReadTimeoutError():
            return f"the server sent nothing for {READ_TIMEOUT:g} s"
        case web.ProtocolError():
            return "the connection dropped"
    return str(error)


def _wrong_size(archive: Archive, size: str) -> DataError:
    return _unexpected(
        f"{archive.url} has {size} bytes, but {archive.bytes} were expected, so it was not kept."
        " It has changed, or something else answered, such as a network's login page. Run again in"
        " another network, or set data.archive.url and data.archive.bytes to a file that you know.",
    )


def _require_space(folder: Path, need: int, purpose: str) -> None:
    free = shutil.disk_usage(folder).free
    if free < need:
        raise DataError(
            f"{folder} has {_amount(free)} free, but {_amount(need)} are needed {purpose}. Free"
            " some space, or set data.root to a folder on a larger disk.",
            DiskFull.code,
        )


def _discard(part: Path) -> None:
    part.unlink(missing_ok=True)
    _beside(part, ".etag").unlink(missing_ok=True)


def _size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _amount(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 10**9 else f"{count / 1e6:.1f} MB"
