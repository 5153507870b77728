"""`breedlab upload`: labeled images into S3, for `data.root=s3://...`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from breedlab.cli.parser import Parser
from breedlab.commands import command
from breedlab.errors import DataError
from breedlab.names import counted
from breedlab.registry import BACKENDS

if TYPE_CHECKING:
    from breedlab.backends.base import Store


def main(argv: list[str]) -> int:
    """Upload a folder of images.

    Raises:
        BreedlabError: If the images have flaws, or the bucket cannot be used.
    """
    parser = command_parser()
    words = parser.parse_args(argv)
    backend, store = _store(words.address, words.region, words.kms_key)

    from breedlab.console import note, progress, stage, warn
    from breedlab.data.check import check
    from breedlab.data.folders import SPLITS, first_few, survey
    from breedlab.data.label_cells import SeveralLabels

    store.refuse()
    stage("Data")
    # Where a split has no folder the job cuts it from train; what is cut here only has to be read.
    cut: dict[str, Any] = {"valid_fraction": 0.15, "test_fraction": 0.15, "seed": 0}
    try:
        images = survey(words.data, **cut)
    except SeveralLabels:
        images = survey(words.data, **cut, multi=True)
    counts = (
        images.splits
        if not images.cut
        else {"train": [p for split in SPLITS for p in images.splits[split]]}
    )
    note(
        f"{words.data}: {len(images.classes)} classes; "
        + ", ".join(f"{len(p):,} {s}" for s, p in counts.items())
    )
    for text in images.notes:
        note(text)
    for text in images.left_out:
        warn(text)
    with progress("checking images") as update:
        skip = "skip" if words.skip_bad else "error"
        report = check(images, Path(".cache/activations/checks"), on_bad_file=skip, progress=update)
    for findings in (
        report.bad,
        report.conflicts,
        tuple(leak for leak in report.leaks if not leak.own_cut),
    ):
        for text in first_few(
            [f"left out: {finding.path} {finding.reason}" for finding in findings]
        ):
            warn(text)
    left_out = {
        finding.path
        for finding in (*report.bad, *report.conflicts, *report.leaks)
        if not finding.own_cut
    }
    paths = sorted({image.path for split in SPLITS for image in images.splits[split]} - left_out)
    paths += images.label_files
    stage(f"Uploading to {words.address}")
    new = store.upload(words.data, paths, links=words.links)
    note(f"{counted(len(paths), 'image')}, {new:,} new")
    root = words.address.rstrip("/")
    how = command("launch", f"backend={backend} data=image_folder data.root={root} ...")
    print(f"train on them: {how}")
    return 0


def _store(address: str, where: str | None, key: str | None) -> tuple[str, Store]:
    """Return the backend that reads from an address, by name, and the place itself.

    Raises:
        DataError: If none does.
    """
    kinds = {name: kind for name, kind in BACKENDS.items() if kind.scheme}
    for name, kind in kinds.items():
        if address.startswith(f"{kind.scheme}://"):
            return name, kind().build().store(address, where, key)
    forms = "; or ".join(kind.address_example for kind in kinds.values())
    raise DataError(f"{address}: expected an address such as {forms}")


def command_parser() -> Parser:
    """Return what reads the command's args."""
    parser = Parser(
        "upload",
        "DATA s3://BUCKET/FOLDER [flags]",
        description=(
            "Check labeled images and upload them in parallel; run it again to resume an upload."
        ),
        examples=("data/dog_breeds s3://my-bucket/dog_breeds",),
    )
    parser.add_argument(
        "data", type=Path, metavar="DATA", help="a folder: DATA/train/<class>/*.jpg, valid and test"
    )
    parser.add_argument("address", metavar="s3://...", help="the destination, a folder in a bucket")
    parser.add_argument("--region", help="the bucket's region (default: the AWS profile's)")
    parser.add_argument("--kms-key", metavar="KEY", help="encrypt what is uploaded with this key")
    parser.add_argument(
        "--links",
        action="store_true",
        help="also upload files outside DATA that it links to",
    )
    parser.add_argument(
        "--skip-bad", action="store_true", help="leave broken images out instead of refusing them"
    )
    return parser
