"""Put the data in place: drawn or downloaded on first use, then scanned like any other folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from breedlab.config import Config
from breedlab.console import note
from breedlab.data.fixes import apply_fixes
from breedlab.data.folders import is_absent, splitting, survey
from breedlab.data.image_set import ImageSet
from breedlab.data.sources import source_of

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]


def obtain(config: Config) -> ImageSet:
    """Return the images of a config's data set.

    Raises:
        DataError: If they are not there and cannot be drawn or downloaded. Flaws are left for the
            check to report.
    """
    data, root = config.data, Path(config.data.root)
    if source := source_of(data):
        if is_absent(root):
            with _alone(root):
                if is_absent(root):  # still, when it is this process's turn
                    source.fetch(root)
        source.check(root)
    images = survey(root, **splitting(config))
    if images.cut:
        how = "stratified, by groups" if data.group else "stratified"
        note(f"no folder for {' and '.join(images.cut)}: cut from train, {how}, seed {config.seed}")
    return images if data.fixes is None else apply_fixes(images, Path(data.fixes))


@contextmanager
def _alone(root: Path) -> Iterator[None]:
    """Let one process at a time put images at a place; the others wait, and then find them."""
    lock = root.absolute().parent / f".{root.name}.lock"
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        file = lock.open("w")
    except OSError:
        yield  # the code that puts the images there reports it better
        return
    try:
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                note(f"another process is putting images at {root}; waiting for them")
                fcntl.flock(file, fcntl.LOCK_EX)
            except OSError:
                pass  # a file system without locks
        yield
    finally:
        file.close()
        lock.unlink(missing_ok=True)  # once the images are there, the next process needs no lock
