"""Images into S3: once, many at once, going on where it stopped."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
import pytest
from codes import raises_code
from sagemaker_account import Account

from breedlab.backends.sagemaker.session import AwsTarget, connect
from breedlab.backends.sagemaker.upload import upload_images
from breedlab.cli import upload
from breedlab.cli.launch import main
from breedlab.data.check import Report, check
from breedlab.data.folders import scan
from breedlab.errors import BreedlabError

PLACE = AwsTarget("us-east-1", "role", "breedlab-tests", "lab")


@pytest.fixture
def images_of(tmp_path: Path) -> Callable[..., Report]:
    """The check of a folder, as a launch makes it."""

    def make(root: Path, on_bad_file: str = "error") -> Report:
        images = scan(root, valid_fraction=0.2, test_fraction=0.2, seed=0)
        return check(images, tmp_path / "checks", on_bad_file=on_bad_file)

    return make


def puts(account: Account) -> list[str]:
    return [call.removeprefix("PUT ") for call in account.calls if call.startswith("PUT ")]


def keys(prefix: str = "") -> set[str]:
    found = boto3.client("s3").list_objects_v2(Bucket="breedlab-tests", Prefix=prefix)
    return {entry["Key"].removeprefix(prefix) for entry in found.get("Contents", [])}


def test_images_go_once_by_their_fingerprint(
    account: Account, few: Path, images_of: Any, tmp_path: Path
) -> None:
    session = connect(None)
    first = upload_images(session, PLACE, images_of(few), None)
    prefix = first.removeprefix("s3://breedlab-tests/")
    assert prefix.startswith("lab/data/") and prefix.endswith("/")
    assert keys(prefix) == {p.relative_to(few).as_posix() for p in few.rglob("*.jpg")}
    assert len(puts(account)) == 14 + 1  # and the note that it is complete
    account.calls.clear()
    copy = tmp_path / "copy"
    shutil.copytree(few, copy)
    assert upload_images(session, PLACE, images_of(copy), None) == first  # wherever it lies
    assert puts(account) == []
    next(copy.rglob("*.jpg")).unlink()
    assert upload_images(session, PLACE, images_of(copy), None) != first


def test_a_broken_upload_goes_on_where_it_stopped(
    account: Account, few: Path, images_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = connect(None)
    whole = upload_images(session, PLACE, images_of(few), None)
    prefix = whole.removeprefix("s3://breedlab-tests/")
    # As an interrupted one leaves it: some images, one of them half there, no note that it is
    # complete.
    s3 = boto3.client("s3")
    kept = sorted(keys(prefix))
    s3.delete_object(Bucket="breedlab-tests", Key=prefix.rstrip("/") + ".json")
    for name in kept[:3]:
        s3.delete_object(Bucket="breedlab-tests", Key=prefix + name)
    s3.put_object(Bucket="breedlab-tests", Key=prefix + kept[3], Body=b"half")
    account.calls.clear()
    assert upload_images(session, PLACE, images_of(few), None) == whole
    assert (
        sum("/train/" in call or "/valid/" in call or "/test/" in call for call in puts(account))
        == 4
    )
    assert (
        s3.get_object(Bucket="breedlab-tests", Key=prefix + kept[3])["Body"].read()
        == (few / kept[3]).read_bytes()
    )


def test_what_is_left_out_here_travels_too_so_that_the_job_comes_to_the_same(
    account: Account, few: Path, images_of: Any, tmp_path: Path
) -> None:
    root = tmp_path / "photos"
    shutil.copytree(few, root)
    broken = next((root / "train").rglob("*.jpg")).with_name("broken.jpg")
    broken.write_bytes(b"no photo")
    here = images_of(root, "skip")
    address = upload_images(connect(None), PLACE, here, None)
    there = tmp_path / "job"
    prefix = address.removeprefix("s3://breedlab-tests/")
    for name in keys(prefix):
        (there / name).parent.mkdir(parents=True, exist_ok=True)
        boto3.client("s3").download_file("breedlab-tests", prefix + name, str(there / name))
    assert images_of(there, "skip").fingerprint == here.fingerprint
    assert (there / broken.relative_to(root)).is_file()


def test_uploads_are_encrypted_with_the_persons_key(
    account: Account, few: Path, images_of: Any
) -> None:
    address = upload_images(connect(None), PLACE, images_of(few), "alias/mine")
    prefix = address.removeprefix("s3://breedlab-tests/")
    about = boto3.client("s3").head_object(
        Bucket="breedlab-tests", Key=prefix + sorted(keys(prefix))[0]
    )
    assert (about["ServerSideEncryption"], about["SSEKMSKeyId"]) == ("aws:kms", "alias/mine")


def test_upload_py_then_train_where_it_lies(
    cloud: Any, account: Account, few: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert upload.main([str(few), "s3://breedlab-tests/dogs/"]) == 0
    out = capsys.readouterr().out
    assert "14 images, 14 new" in out and "data.root=s3://breedlab-tests/dogs " in out
    assert keys("dogs/") == {p.relative_to(few).as_posix() for p in few.rglob("*.jpg")}
    account.calls.clear()
    assert main(cloud("data.root=s3://breedlab-tests/dogs", "backend.wait=false")) == 0
    (sent,) = account.sent("CreateTrainingJob")
    source = {
        c["ChannelName"]: c["DataSource"]["S3DataSource"]["S3Uri"] for c in sent["InputDataConfig"]
    }
    assert source["training"] == "s3://breedlab-tests/dogs/"
    assert not [call for call in puts(account) if "/data/" in call or "/dogs/" in call]


def test_upload_py_sends_what_is_new_or_changed(
    account: Account, few: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import os

    shutil.copytree(few, here / "photos")
    upload.main(["photos", "s3://breedlab-tests/dogs"])
    first, second, *_ = sorted((here / "photos").rglob("*.jpg"))
    later = (
        boto3.client("s3")
        .head_object(
            Bucket="breedlab-tests", Key=f"dogs/{first.relative_to(here / 'photos').as_posix()}"
        )["LastModified"]
        .timestamp()
    )
    os.utime(first, (later + 100, later + 100))
    capsys.readouterr()
    upload.main(["photos", "s3://breedlab-tests/dogs"])
    assert "14 images, 1 new" in capsys.readouterr().out
    upload.main(["photos", "s3://breedlab-tests/other", "--kms-key", "alias/mine"])
    key = f"other/{second.relative_to(here / 'photos').as_posix()}"
    assert (
        boto3.client("s3").head_object(Bucket="breedlab-tests", Key=key)["SSEKMSKeyId"]
        == "alias/mine"
    )


@pytest.mark.parametrize(
    ("given", "code", "named"),
    [
        (["nowhere", "s3://breedlab-tests/dogs"], "BL200", "nowhere"),
        (["PHOTOS", "breedlab-tests/dogs"], "BL200", "s3://my-bucket/dog_breeds"),
        (["PHOTOS", "s3://breedlab-tests"], "BL200", "s3://breedlab-tests"),
        (["PHOTOS", "s3://no-such-bucket/dogs"], "BL411", "'no-such-bucket'"),
        (
            ["PHOTOS", "s3://breedlab-tests/dogs", "--region", "eu-west-1"],
            "BL411",
            ("us-east-1", "eu-west-1"),
        ),
    ],
)
def test_upload_py_refuses(
    given: list[str],
    code: str,
    named: str | tuple[str, ...],
    account: Account,
    few: Path,
    here: Path,
) -> None:
    with raises_code(code, names=named):
        upload.main([str(few) if word == "PHOTOS" else word for word in given])
    assert puts(account) == []


def test_upload_py_refuses_broken_images_or_leaves_them_out(
    account: Account, few: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(few, here / "photos")
    broken = next((here / "photos" / "train").rglob("*.jpg")).with_name("broken.jpg")
    broken.write_bytes(b"no photo")
    with raises_code("BL200", names=("1 broken file", "broken.jpg")):
        upload.main(["photos", "s3://breedlab-tests/dogs"])
    assert puts(account) == []
    upload.main(["photos", "s3://breedlab-tests/dogs", "--skip-bad"])
    assert "broken.jpg" in capsys.readouterr().out
    assert len(keys("dogs/")) == 14


@pytest.fixture
def own(few: Path, tmp_path: Path) -> Path:
    """A copy to change."""
    return Path(shutil.copytree(few, tmp_path / "own"))


def test_links_out_of_the_data_set_are_uploaded_only_when_that_is_said(
    account: Account, own: Path, images_of: Any, tmp_path: Path
) -> None:
    """A link to a file elsewhere went to S3 with the images, whatever it was."""
    image = next((own / "train").rglob("*.jpg"))
    elsewhere = tmp_path / "private.jpg"
    shutil.move(image, elsewhere)
    image.symlink_to(elsewhere)
    with pytest.raises(BreedlabError) as caught:
        upload_images(connect(None), PLACE, images_of(own), None)
    assert f"{image} -> {elsewhere}" in str(caught.value) and "--links" in str(caught.value)
    with raises_code("BL200", names="--links"):
        upload.main([str(own), "s3://breedlab-tests/dogs"])
    assert puts(account) == []
    assert upload.main([str(own), "s3://breedlab-tests/dogs", "--links"]) == 0
    assert f"{image.relative_to(own).as_posix()}" in keys("dogs/")


def test_a_link_within_the_data_set_is_nothing_to_ask_about(
    account: Account, own: Path, images_of: Any
) -> None:
    image = next((own / "train").rglob("*.jpg"))
    image.rename(image.with_name("moved.jpg"))
    image.symlink_to("moved.jpg")
    assert upload_images(connect(None), PLACE, images_of(own), None)


def test_a_name_that_is_no_utf8_is_refused_before_anything_is_sent(
    account: Account, own: Path, images_of: Any
) -> None:
    image = next((own / "train").rglob("*.jpg"))
    image.rename(image.with_name("caf\udce9.jpg"))
    with pytest.raises(BreedlabError) as caught:
        upload_images(connect(None), PLACE, images_of(own), None)
    assert "caf\\xe9.jpg" in str(caught.value) and puts(account) == []
