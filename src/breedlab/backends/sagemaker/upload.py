"""Files to S3: many at once, those that are there left alone, so that a broken upload continues
where it stopped."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from breedlab.backends.base import Store
from breedlab.backends.sagemaker.session import (
    AwsTarget,
    aws_errors,
    bucket_problems,
    client,
    connect,
    split_uri,
)
from breedlab.commands import command
from breedlab.config.backend import S3_BUCKET, S3_EXAMPLE
from breedlab.config.problems import error_from
from breedlab.console import note, progress
from breedlab.data.check import Report
from breedlab.data.decode import MAX_BYTES
from breedlab.data.folders import SPLITS, first_few
from breedlab.errors import DataError
from breedlab.names import printable, unprintable

if TYPE_CHECKING:
    import boto3

_AT_ONCE = 24
"""Requests under way: images are small, so what counts is how many waits overlap."""


class Bucket(Store):
    """A folder in a bucket, for `breedlab upload`.

    Args:
        address: `s3://bucket/folder`.
        region: The bucket's; None for the AWS profile's.
        kms_key: Encrypts what is uploaded.

    Raises:
        DataError: If it is no such address.
    """

    def __init__(self, address: str, region: str | None, kms_key: str | None) -> None:
        if not re.fullmatch(rf"{S3_BUCKET}/.*[^/]/?", address):
            raise DataError(f"{address}: expected an address such as {S3_EXAMPLE}")
        self._address, self._region, self._kms_key = address, region, kms_key
        self._bucket, self._key = split_uri(address)

    @cached_property
    def _account(self) -> boto3.Session:
        return connect(self._region, "--region")

    def refuse(self) -> None:
        if problems := bucket_problems(self._account, self._address, self._bucket):
            raise error_from(problems, "upload", "BL411")

    def upload(self, root: Path, paths: Sequence[Path], *, links: bool) -> int:
        if not links:
            refuse_outside_links(root, paths, "--links uploads them as well")
        files = [
            (path, f"{self._key}/{Path(os.path.relpath(path, root)).as_posix()}") for path in paths
        ]
        return upload_files(
            self._account, files, self._bucket, self._kms_key, "uploading", newer=True
        )


def upload_images(
    session: boto3.Session, place: AwsTarget, report: Report, kms_key: str | None
) -> str:
    """Upload the checked images to where jobs read them, once per data set.

    Every image of the scan goes, the unusable ones too: the job checks and cuts for itself, with
    the same result.

    Args:
        session: The account.
        place: The bucket and prefix; the folder below them is named by the data set's fingerprint.
        report: What the check said of the images.
        kms_key: Encrypts what is uploaded.

    Returns:
        The address of the folder.

    Raises:
        DataError: If images are outside the data set and linked into it, or names cannot be keys of
            S3.
    """
    root = report.images.root
    dropped = [finding.path for finding in (*report.bad, *report.conflicts, *report.leaks)]
    paths = sorted(
        {*(image.path for split in SPLITS for image in report.images.splits[split]), *dropped}
    )
    paths += report.images.label_files
    # nothing reads the others
    paths = [path for path in paths if path.is_file() and path.stat().st_size <= MAX_BYTES]
    refuse_outside_links(
        root, paths, f"upload them by hand: {command('upload', root, 's3://... --links')}"
    )
    names = [Path(os.path.relpath(path, root)).as_posix() for path in paths]
    fingerprint = _fingerprint(report.fingerprint, names, paths)
    folder, marker = place.uri("data", fingerprint), f"{place.prefix}/data/{fingerprint}.json"
    s3 = client(session, "s3")
    if _exists(s3, place.bucket, marker):
        note(f"{folder}/: these {len(paths):,} images are already there")
        return folder + "/"
    prefix = f"{place.prefix}/data/{fingerprint}/"
    files = [(path, prefix + name) for path, name in zip(paths, names, strict=True)]
    upload_files(session, files, place.bucket, kms_key, f"uploading images to {folder}/")
    about = {
        "photos": len(paths),
        "bytes": sum(path.stat().st_size for path in paths),
        "fingerprint": report.fingerprint,
    }
    put(s3, place.bucket, marker, json.dumps(about).encode(), kms_key)
    return folder + "/"


def refuse_outside_links(root: Path, paths: Sequence[Path], remedy: str) -> None:
    """Refuse what would copy files from elsewhere to S3 without anyone having said so, and names
    that are no keys.

    Raises:
        DataError: Naming the first few.
    """
    home = Path(os.path.realpath(root))
    outside = [path for path in paths if not Path(os.path.realpath(path)).is_relative_to(home)]
    if outside:
        lines = first_few([f"  {path} -> {os.path.realpath(path)}" for path in outside])
        raise DataError(
            printable(
                f"{root}: {len(outside):,} images are links to files outside it, which are never"
                " uploaded without asking;"
            )
            + f" {remedy}\n"
            + "\n".join(printable(line) for line in lines)
        )
    unnamed = [path for path in paths if unprintable(os.path.relpath(path, root))]
    if unnamed:
        lines = first_few([f"  {printable(str(path))}" for path in unnamed])
        raise DataError(
            f"{root}: {len(unnamed):,} names are not UTF-8 or contain control characters, which S3"
            " keys cannot have; rename them:\n" + "\n".join(lines)
        )


def upload_files(
    session: boto3.Session,
    files: Sequence[tuple[Path, str]],
    bucket: str,
    kms_key: str | None,
    title: str,
    *,
    newer: bool = False,
) -> int:
    """Upload files to keys, skipping those that already exist with the same size.

    Args:
        session: The account.
        files: Each file with its key.
        bucket: Where to.
        kms_key: Encrypts what is uploaded.
        title: For the progress bar.
        newer: Whether a file that was changed after its upload goes again, for keys that do not
            depend on the content.

    Returns:
        How many were uploaded.
    """
    from s3transfer.manager import TransferConfig, TransferManager

    s3 = client(session, "s3")
    with aws_errors(title), progress(title) as report:
        there = stored(s3, bucket, os.path.commonprefix([key for _, key in files]))  # noqa: RUF071 (S3 has no folders)
        missing = [(path, key) for path, key in files if not _same(path, there.get(key), newer)]
        finished = len(files) - len(missing)
        report(finished, len(files))
        # Left by Ctrl-C or an error, the manager cancels what it has not sent yet.
        with TransferManager(s3, TransferConfig(max_request_concurrency=_AT_ONCE)) as manager:
            window: list[Any] = []
            for path, key in missing:
                window.append(
                    manager.upload(str(path), bucket, key, extra_args=encryption(kms_key))
                )
                if len(window) >= 8 * _AT_ONCE:
                    window.pop(0).result()
                    finished += 1
                    report(finished, len(files))
            for future in window:
                future.result()
                finished += 1
                report(finished, len(files))
    return len(missing)


def upload_archive(session: boto3.Session, archive: Path, uri: str, kms_key: str | None) -> None:
    """Upload a model's archive, unless one of its size is there: its address depends on its
    content."""
    from botocore.exceptions import ClientError

    s3 = client(session, "s3")
    bucket, key = split_uri(uri)
    size = archive.stat().st_size
    with aws_errors(uri):
        try:
            if s3.head_object(Bucket=bucket, Key=key)["ContentLength"] == size:
                note(f"{uri}: already uploaded")
                return
        except ClientError as error:
            if error.response["Error"]["Code"] not in ("404", "NoSuchKey", "403"):
                raise
        total = 0
        with progress(f"uploading {archive.name}, bytes") as report:

            def more(count: int) -> None:
                nonlocal total
                total += count
                report(total, size)

            s3.upload_file(str(archive), bucket, key, ExtraArgs=encryption(kms_key), Callback=more)


def put(s3: Any, bucket: str, key: str, content: bytes, kms_key: str | None) -> None:
    """Write one small object."""
    with aws_errors(f"s3://{bucket}/{key}"):
        s3.put_object(Bucket=bucket, Key=key, Body=content, **encryption(kms_key))


def stored(s3: Any, bucket: str, prefix: str) -> dict[str, tuple[int, float]]:
    """Return size and time of every object under a prefix, by key."""
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    return {
        entry["Key"]: (entry["Size"], entry["LastModified"].timestamp())
        for page in pages
        for entry in page.get("Contents", [])
    }


def encryption(kms_key: str | None) -> dict[str, str]:
    """Return the S3 arguments for encryption with a key of the account; empty without a key."""
    return {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": kms_key} if kms_key else {}


def _same(path: Path, there: tuple[int, float] | None, newer: bool) -> bool:
    status = path.stat()
    return (
        there is not None
        and there[0] == status.st_size
        and not (newer and status.st_mtime > there[1])
    )


def _exists(s3: Any, bucket: str, key: str) -> bool:
    from botocore.exceptions import ClientError

    with aws_errors(f"s3://{bucket}/{key}"):
        try:
            s3.head_object(Bucket=bucket, Key=key)
        except ClientError as error:
            if error.response["Error"]["Code"] in ("404", "NoSuchKey"):
                return False
            raise
    return True


def _fingerprint(content: str, names: list[str], paths: list[Path]) -> str:
    """Return the fingerprint of the data set plus names and sizes of all files: splits are cut by
    name, and the data set's own fingerprint contains no names."""
    digest = hashlib.sha256(content.encode())
    for name, path in zip(names, paths, strict=True):
        digest.update(f"\0{name}\0{path.stat().st_size}".encode())
    return digest.hexdigest()[:32]
