"""HEIC and AVIF: read where Pillow or its plugin can, told in one sentence where not."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from codes import raises_code
from PIL import Image

from breedlab.data import formats
from breedlab.data.decode import decode
from breedlab.data.folders import scan
from breedlab.data.listing import is_image
from breedlab.serving.file_checks import inspect
from breedlab.serving.request_parser import contradiction

pytestmark = pytest.mark.skipif(not formats.reads_avif(), reason="this Pillow has no AVIF")


def encoded(form: str, **options: object) -> bytes:
    if form == "HEIF":
        pytest.importorskip("pillow_heif").register_heif_opener()
    image = Image.linear_gradient("L").resize((96, 64)).convert("RGB")
    file = io.BytesIO()
    image.save(file, form, quality=95, **options)
    return file.getvalue()


@pytest.mark.parametrize(("form", "content_type"), [("HEIF", "image/heic"), ("AVIF", "image/avif")])
def test_it_is_decoded_in_training_and_taken_by_the_server(form: str, content_type: str) -> None:
    data = encoded(form)
    pixels = decode(data)
    expected = np.asarray(Image.linear_gradient("L").resize((96, 64)).convert("RGB"))
    assert pixels.shape == (64, 96, 3) and np.abs(pixels.astype(int) - expected).mean() < 3
    assert inspect(data) == 96 * 64
    assert not contradiction(data, content_type) and contradiction(data, "image/png")


def test_an_avif_that_is_turned_stands_upright() -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    assert decode(encoded("AVIF", exif=turned)).shape == (96, 64, 3)


@pytest.mark.parametrize("form", ["HEIF", "AVIF"])
def test_a_damaged_one_is_called_so(form: str) -> None:
    data = encoded(form)
    for cut in (40, len(data) // 2):
        with raises_code("BL205"):
            decode(data[:cut])


def test_an_animation_is_refused_by_the_server() -> None:
    frames = [Image.new("RGB", (32, 32), color) for color in ("red", "blue", "green")]
    file = io.BytesIO()
    frames[0].save(file, "AVIF", save_all=True, append_images=frames[1:])
    with raises_code("BL207"):
        inspect(file.getvalue())


def test_a_folder_of_both_is_a_data_set(tmp_path: Path) -> None:
    for name, form, ending in (("cat", "HEIF", "HEIC"), ("dog", "AVIF", "avif")):
        (tmp_path / name).mkdir()
        for index in range(4):
            (tmp_path / name / f"{index}.{ending}").write_bytes(encoded(form))
    images = scan(tmp_path, valid_fraction=0.2, test_fraction=0.2, seed=0)
    assert sum(len(found) for found in images.splits.values()) == 8 and not images.left_out


def test_without_the_plugin_one_sentence_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = encoded("HEIF")
    (tmp_path / "IMG_1.HEIC").write_bytes(data)
    monkeypatch.setattr(formats, "reads_heic", lambda: False)
    assert not is_image(tmp_path / "IMG_1.HEIC")
    for read in (decode, inspect):
        with raises_code("BL208", names=("HEIC", "pip install 'breedlab[heic]'")):
            read(data)


@pytest.mark.parametrize("place", ["cat", "."])
def test_photos_of_a_phone_that_are_not_read_are_told_wherever_they_lie(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside the class folders they were passed over without a word."""
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for index in range(8):
            (tmp_path / name / f"{index}.jpg").write_bytes(encoded("JPEG"))
    (tmp_path / place / "IMG_1.HEIC").write_bytes(b"ftyp")
    monkeypatch.setattr(formats, "reads_heic", lambda: False)
    images = scan(tmp_path, valid_fraction=0.2, test_fraction=0.2, seed=0)
    (line,) = images.left_out
    assert "1 .heic" in line and "pip install 'breedlab[heic]'" in line


def test_an_avif_that_begins_like_another_format_is_no_image_of_that() -> None:
    image = b"BM\0\0ftypavif" + bytes(100)
    assert contradiction(image, "image/bmp") == "AVIF"
    assert contradiction(image, "image/avif") == contradiction(b"BM" + bytes(98), "image/bmp") == ""
