"""From bytes to the pixels that a person sees, or one sentence why not. Nothing else ever comes
out."""

from __future__ import annotations

import functools
import io
import os
import random
import struct
import subprocess
import sys
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from codes import Names, raises_code
from PIL import ExifTags, Image, ImageOps

from breedlab.data import decode as decoding
from breedlab.data import formats
from breedlab.data.decode import ImageError, decode, read_image
from breedlab.data.transforms import to_tensor
from breedlab.serving import file_checks

Pixels = np.ndarray[Any, np.dtype[np.uint8]]
WHITE, RED = (255, 255, 255), (200, 30, 40)


def scene(width: int = 97, height: int = 61, seed: int = 0) -> Image.Image:
    """Slopes, edges and grain: no two corners alike, nothing that a codec could leave out
    unnoticed."""
    y, x = np.mgrid[:height, :width]
    waves = 128 + 60 * np.sin(x / 5) + 50 * np.cos(y / 7)
    pixels = np.stack([x * 255 / width, y * 255 / height, waves], -1)
    pixels += np.random.default_rng(seed).normal(0, 6, pixels.shape)
    pixels[: height // 4, : width // 4] = RED
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def encode(image: Image.Image, form: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def by_pillow(data: bytes) -> Pixels:
    """What Pillow shows, the right way up."""
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


def rotated(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def assert_equal(got: Pixels, expected: Any, within: int = 0) -> None:
    assert got.dtype == np.uint8
    assert got.shape == np.shape(expected)
    assert np.abs(got.astype(int) - np.asarray(expected, int)).max() <= within


DAMAGED, COSTLY, UNREAD = "BL205", "BL206", "BL208"


def refused(data: bytes, code: str, names: Names = (), **limits: int) -> None:
    with raises_code(code, names=names):
        decode(data, **limits)


def with_segment(jpeg: bytes, marker: int, body: bytes) -> bytes:
    """A JPEG with one more segment at its start."""
    return jpeg[:2] + bytes((0xFF, marker)) + struct.pack(">H", len(body) + 2) + body + jpeg[2:]


def exif_segment(kind: int, count: int, value: bytes) -> bytes:
    """EXIF that holds an orientation of any type."""
    return (
        b"Exif\0\0II*\0\x08\0\0\0"
        + struct.pack("<HHHI", 1, 0x0112, kind, count)
        + value
        + b"\0\0\0\0"
    )


def png(header: bytes, *rows: bytes) -> bytes:
    """A PNG of any header, for what Pillow does not write."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        )

    body = zlib.compress(b"".join(b"\0" + row for row in rows))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
    )


@pytest.fixture(params=["simplejpeg", "pillow"])
def reader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """With simplejpeg, and as on machines that lack it."""
    if request.param == "pillow":
        monkeypatch.setitem(sys.modules, "simplejpeg", None)
    return str(request.param)


# ---------------------------------------------------------------- formats


@pytest.mark.parametrize("form", ["PNG", "BMP", "TIFF", "WEBP"])
def test_lossless_formats_keep_every_pixel(form: str) -> None:
    options = {"lossless": True} if form == "WEBP" else {}
    assert_equal(decode(encode(scene(), form, **options)), scene())


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "packbits"])
def test_compressed_tiff(compression: str) -> None:
    assert_equal(decode(encode(scene(), "TIFF", compression=compression)), scene())


@pytest.mark.parametrize("form", ["JPEG", "WEBP"])
def test_lossy_formats_come_out_as_pillow_shows_them(form: str) -> None:
    data = encode(scene(), form, quality=80)
    assert_equal(decode(data), by_pillow(data))


def test_gif() -> None:
    data = encode(scene().quantize(64), "GIF")
    assert_equal(decode(data), by_pillow(data))


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize("size", [(97, 61), (64, 64), (8, 200), (1, 1)])
def test_the_fast_jpeg_path_equals_pillow_to_the_last_level(
    size: tuple[int, int], subsampling: str, progressive: bool
) -> None:
    data = encode(
        scene(*size), "JPEG", quality=85, subsampling=subsampling, progressive=progressive
    )
    assert_equal(decode(data), by_pillow(data))


@pytest.mark.parametrize(
    "options", [{}, {"progressive": True}, {"optimize": True}, {"quality": 100}, {"quality": 20}]
)
def test_without_simplejpeg_the_pixels_stay_the_same(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    images = [
        encode(scene(81, 55, seed), "JPEG", **options, exif=rotated(seed)) for seed in range(1, 9)
    ]
    images.append(encode(scene().convert("L"), "JPEG", **options))
    fast = [decode(data) for data in images]
    monkeypatch.setitem(sys.modules, "simplejpeg", None)
    for data, pixels in zip(images, fast, strict=True):
        assert_equal(decode(data), pixels, within=2)


def test_a_jpeg_of_rgb_components_keeps_its_colors(reader: str) -> None:
    data = encode(scene(), "JPEG", quality=95, keep_rgb=True)
    assert_equal(decode(data), by_pillow(data))
    assert_equal(decode(data)[:8, :8], np.broadcast_to(RED, (8, 8, 3)), within=25)


def test_a_cmyk_jpeg_keeps_its_colors(reader: str) -> None:
    data = encode(scene().convert("CMYK"), "JPEG", quality=95)
    assert_equal(decode(data), by_pillow(data))
    assert np.abs(decode(data).astype(int) - np.asarray(scene(), int)).mean() < 8


@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF", "BMP"])
def test_grayscale_becomes_three_equal_channels(form: str, reader: str) -> None:
    gray = scene().convert("L")
    pixels = decode(encode(gray, form, quality=95))
    assert_equal(pixels, np.repeat(pixels[..., :1], 3, axis=2))
    assert_equal(pixels[..., 0], gray, within=16 if form == "JPEG" else 0)


@pytest.mark.parametrize("form", ["PNG", "TIFF", "BMP"])
def test_black_and_white(form: str) -> None:
    stripes = Image.fromarray(np.tile(np.array([True, False, False]), (5, 7)))
    assert_equal(decode(encode(stripes, form))[0, :3], [[255] * 3, [0] * 3, [0] * 3])


# ---------------------------------------------------------------- more than 8 bits


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_16_bit_gray_is_scaled_by_its_full_range(form: str) -> None:
    values = np.array([[0, 0x8080, 65535, 257, 0x4040]], np.uint16).repeat(3, 0)
    data = encode(Image.fromarray(values), form)
    assert_equal(decode(data)[1, :, 0], [0, 128, 255, 1, 64])
    assert_equal(decode(data)[1, :, 2], [0, 128, 255, 1, 64])


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_a_dark_16_bit_image_stays_dark(form: str) -> None:
    values = np.linspace(0, 2000, 64 * 48).reshape(48, 64).astype(np.uint16)
    assert decode(encode(Image.fromarray(values), form)).max() == 8


def test_16_bit_color_png() -> None:
    row = struct.pack(">6H", 0x8080, 0, 65535, 0x2020, 0x4040, 2000)
    got = decode(png(struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0), row))
    assert_equal(got, [[[128, 0, 255], [32, 64, 7]]], within=1)


def test_a_float_tiff_is_scaled_from_its_smallest_to_its_largest_value() -> None:
    values = np.array([[0.0, 0.25, 0.5, 1.0]], np.float32)
    for scale in (1.0, 255.0, 3e-5):
        assert_equal(
            decode(encode(Image.fromarray(values * scale), "TIFF"))[0, :, 1], [0, 64, 128, 255]
        )


def test_a_float_tiff_with_holes_and_negative_values() -> None:
    values = np.array([[np.nan, -5.0, 0.5, 1.0]], np.float32)
    assert_equal(decode(encode(Image.fromarray(values), "TIFF"))[0, :, 1], [0, 0, 234, 255])
    for nothing in (np.nan, 0.0, -1.0):
        assert (
            decode(encode(Image.fromarray(np.full((2, 3), nothing, np.float32)), "TIFF")).max() == 0
        )


def tiff(values: np.ndarray[Any, Any], photometric: int = 1, nodata: str = "") -> bytes:
    """Return a gray TIFF in the byte order of its values, written by the specification (TIFF 6.0)
    and not by Pillow."""
    order = ">" if values.dtype.str[0] == ">" else "<"
    height, width = values.shape
    kind = {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    text = nodata.encode() + b"\0"
    shorts = {
        256: width,
        257: height,
        258: 8 * values.itemsize,
        259: 1,
        262: photometric,
        277: 1,
        278: height,
    }
    shorts[339] = kind
    count = len(shorts) + 2 + bool(nodata)
    start = 8 + 2 + 12 * count + 4
    entries = {
        tag: struct.pack(f"{order}HHIHH", tag, 3, 1, value, 0) for tag, value in shorts.items()
    }
    entries[273] = struct.pack(f"{order}HHII", 273, 4, 1, start + len(text))
    entries[279] = struct.pack(f"{order}HHII", 279, 4, 1, values.nbytes)
    if nodata:
        entries[42113] = struct.pack(f"{order}HHII", 42113, 2, len(text), start)
    directory = (
        struct.pack(f"{order}H", count)
        + b"".join(entries[tag] for tag in sorted(entries))
        + bytes(4)
    )
    head = (b"MM\0*" if order == ">" else b"II*\0") + struct.pack(f"{order}I", 8)
    return head + directory + text + values.tobytes()


@pytest.mark.parametrize(
    ("kind", "values", "shown"),
    [
        (">u2", [0, 0x8080, 65535, 257], [0, 128, 255, 1]),
        ("i1", [-128, 0, 127, -127], [0, 128, 255, 1]),
        (">i2", [-1000, 0, 1000, 500], [0, 128, 255, 191]),
        ("i2", [-32768, 0, 32767, -32768], [0, 128, 255, 0]),
        (">i4", [-100_000, 0, 100_000, 50_000], [0, 128, 255, 191]),
        ("i4", [1000, 1100, 1200, 1150], [0, 128, 255, 191]),
        ("u4", [0, 2**31, 2**32 - 1, 2**30], [0, 128, 255, 64]),
        ("f4", [-1.0, 0.0, 1.0, 0.5], [0, 128, 255, 191]),
        (">f4", [10.0, 10.5, 11.0, 10.25], [0, 128, 255, 64]),
    ],
)
def test_gray_values_of_every_kind_of_number_are_seen(
    kind: str, values: list[float], shown: list[int]
) -> None:
    """Signed and 32-bit TIFFs, as microscopes and satellites write them, came out black or
    white."""
    data = tiff(np.array([values] * 3, dtype=kind))
    assert_equal(decode(data)[1, :, 0], shown, within=1)


def test_in_a_large_tiff_the_scale_is_that_of_the_whole_image() -> None:
    values = np.linspace(-500, 1500, 1100 * 1000).reshape(1100, 1000).astype(np.int16)
    got = decode(tiff(values))[..., 1]
    assert_equal(got, np.rint((values + 500.0) / 2000 * 255), within=1)


def test_a_16_bit_tiff_whose_zero_is_white_is_not_shown_as_its_negative() -> None:
    assert_equal(
        decode(tiff(np.array([[0, 0x8080, 65535]], "u2"), photometric=0))[0, :, 1],
        [255, 127, 0],
        within=1,
    )


def test_the_value_that_stands_for_no_measurement_does_not_set_the_scale() -> None:
    data = tiff(np.array([[-9999.0, 100.0, 150.0, 200.0]], "f4"), nodata="-9999")
    assert_equal(decode(data)[0, :, 1], [0, 0, 128, 255], within=1)


@pytest.mark.parametrize(("order", "mode"), [("<", "I;16"), (">", "I;16B")])
def test_pillows_own_16_bit_tiffs_of_both_byte_orders(order: str, mode: str) -> None:
    values = np.array([[0, 0x8080, 65535]], f"{order}u2")
    image = Image.frombytes(mode, (3, 1), values.tobytes())
    assert_equal(decode(encode(image, "TIFF"))[0, :, 1], [0, 128, 255])


# ---------------------------------------------------------------- palettes and transparency


@pytest.mark.parametrize("form", ["PNG", "GIF", "TIFF", "BMP"])
def test_a_palette_is_looked_up(form: str) -> None:
    palette = scene().quantize(32)
    assert_equal(decode(encode(palette, form)), palette.convert("RGB"))


@pytest.mark.parametrize("form", ["PNG", "GIF"])
def test_transparent_palette_entries_lie_on_white(form: str) -> None:
    image = Image.new("P", (4, 2))
    image.putpalette([*RED, 0, 0, 255, 0, 0, 0])
    image.putdata([0, 1, 2, 0] * 2)
    got = decode(encode(image, form, transparency=2))
    assert_equal(got[0], [RED, (0, 0, 255), WHITE, RED])


def test_a_palette_with_shades_of_transparency_lies_on_white() -> None:
    image = Image.new("P", (3, 1))
    image.putpalette([255, 0, 0, 0, 0, 0, 0, 0, 255])
    image.putdata([0, 1, 2])
    got = decode(encode(image, "PNG", transparency=bytes([255, 0, 128])))
    assert_equal(got[0], [(255, 0, 0), WHITE, (127, 127, 255)], within=1)


@pytest.mark.parametrize("form", ["PNG", "WEBP", "TIFF"])
def test_transparency_lies_on_white(form: str) -> None:
    pixels = np.array([[(255, 0, 0, 255), (0, 0, 0, 0), (255, 0, 0, 128), (0, 0, 0, 64)]], np.uint8)
    got = decode(
        encode(
            Image.fromarray(pixels),
            form,
            **({"lossless": True, "exact": True} if form == "WEBP" else {}),
        )
    )
    assert_equal(got[0], [(255, 0, 0), WHITE, (255, 127, 127), (191, 191, 191)], within=1)


def test_transparent_gray_lies_on_white() -> None:
    pixels = np.array([[(0, 255), (0, 0), (100, 0), (0, 128)]], np.uint8)
    got = decode(encode(Image.fromarray(pixels, "LA"), "PNG"))
    assert_equal(got[0, :, 0], [0, 255, 255, 127], within=1)


def test_a_single_transparent_color_lies_on_white() -> None:
    image = Image.new("RGB", (2, 1), RED)
    image.putpixel((1, 0), (0, 0, 0))
    assert_equal(decode(encode(image, "PNG", transparency=(0, 0, 0)))[0], [RED, WHITE])


# ---------------------------------------------------------------- several frames


@pytest.mark.parametrize("form", ["GIF", "WEBP", "TIFF", "PNG"])
def test_the_first_frame_stands_for_all(form: str) -> None:
    frames = [Image.new("RGB", (20, 10), color) for color in (RED, (0, 200, 0), (0, 0, 200))]
    options = {"lossless": True} if form == "WEBP" else {}
    data = encode(frames[0], form, save_all=True, append_images=frames[1:], **options)
    assert_equal(decode(data), frames[0], within=2)


def test_the_first_picture_of_an_mpo_stands_for_all(reader: str) -> None:
    # What phones and stereo cameras write: several JPEGs in one file, and the ending is .jpg.
    data = encode(
        scene(), "MPO", save_all=True, append_images=[Image.new("RGB", (97, 61))], exif=rotated(6)
    )
    assert_equal(decode(data), by_pillow(data))
    assert decode(data).shape == (97, 61, 3)


# ---------------------------------------------------------------- the right way up


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_images_come_out_the_right_way_up(form: str, orientation: int) -> None:
    data = encode(scene(), form, exif=rotated(orientation))
    got = decode(data)
    assert_equal(got, by_pillow(data))
    assert got.shape == ((97, 61, 3) if orientation > 4 else (61, 97, 3))
    assert got.flags.c_contiguous


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_camera_sees_the_same_scene(orientation: int, reader: str) -> None:
    # Pillow's names of the turn that the camera made
    back = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}
    upright = scene(96, 64)
    stored = upright.transpose(Image.Transpose(back[orientation])) if orientation > 1 else upright
    got = decode(encode(stored, "JPEG", quality=95, subsampling=0, exif=rotated(orientation)))
    assert got.shape == (64, 96, 3)
    assert np.abs(got.astype(int) - np.asarray(upright, int)).mean() < 4


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_means_nothing_is_no_orientation(orientation: int, reader: str) -> None:
    assert decode(encode(scene(), "JPEG", exif=rotated(orientation))).shape == (61, 97, 3)


ODD_EXIF = {
    "two values": exif_segment(3, 2, struct.pack("<HH", 6, 6)),
    "text": exif_segment(2, 2, b"x\0\0\0"),
    "bytes": exif_segment(7, 1, b"\6\0\0\0"),
    "no value": exif_segment(3, 0, b"\0\0\0\0"),
    "a value beyond the end": exif_segment(5, 1, struct.pack("<I", 9999)),
    "a fraction of zero": exif_segment(5, 1, struct.pack("<I", 26)) + struct.pack("<II", 6, 0),
    "nothing": b"Exif\0\0",
    "half a header": b"Exif\0\0II*",
    "no TIFF": b"Exif\0\0" + b"garbage" * 5,
}


@pytest.mark.parametrize("name", ODD_EXIF)
def test_damaged_exif_costs_not_the_image(name: str, reader: str) -> None:
    got = decode(with_segment(encode(scene(), "JPEG"), 0xE1, ODD_EXIF[name]))
    assert sorted(got.shape) == [3, 61, 97]


def test_damaged_exif_prints_no_warnings(tmp_path: Path) -> None:
    for number, exif in enumerate(ODD_EXIF.values()):
        (tmp_path / f"{number}.jpg").write_bytes(with_segment(encode(scene(), "JPEG"), 0xE1, exif))
    program = "import pathlib, sys; from breedlab.data.decode import decode\n"
    program += "for path in pathlib.Path(sys.argv[1]).iterdir(): decode(path.read_bytes())"
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_exif_behind_other_segments_counts(reader: str) -> None:
    data = with_segment(encode(scene(), "JPEG"), 0xE1, exif_segment(3, 1, b"\6\0\0\0"))
    for _ in range(2):  # ICC profiles are often this large
        data = with_segment(data, 0xE2, b"x" * 60_000)
    assert decode(data).shape == (97, 61, 3)


def test_an_orientation_in_xmp_counts_the_same_with_and_without_simplejpeg(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    xmp = (
        b"http://ns.adobe.com/xap/1.0/\0<x:xmpmeta><rdf:Description"
        b' tiff:Orientation="6"/></x:xmpmeta>'
    )
    data = with_segment(encode(scene(), "JPEG"), 0xE1, xmp)
    fast = decode(data)
    monkeypatch.setitem(sys.modules, "simplejpeg", None)
    assert_equal(decode(data), fast)


# ---------------------------------------------------------------- what comes back


@pytest.mark.parametrize("form", ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP"])
def test_pixels_become_a_tensor_without_a_warning(form: str) -> None:
    pixels = decode(encode(scene(), form))
    assert pixels.flags.c_contiguous
    torch.set_warn_always(True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert to_tensor(pixels).shape == (3, 61, 97)
    finally:
        torch.set_warn_always(False)


# ---------------------------------------------------------------- no image at all

NO_IMAGES = {
    "text": b"these are not the pixels you are looking for\n",
    "SVG": b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>',
    "HTML": b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
    "PDF": b"%PDF-1.7\n1 0 obj\n<<>>\nendobj\ntrailer\n<<>>\n%%EOF",
    "a Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n",
    "zeros": bytes(5000),
    "the first bytes of a JPEG": b"\xff\xd8\xff",
    "one byte": b"\0",
}


@pytest.mark.parametrize("name", NO_IMAGES)
def test_what_is_no_image_is_called_so(name: str, reader: str) -> None:
    refused(NO_IMAGES[name], UNREAD, "JPEG, PNG, WebP, BMP, GIF")


@pytest.mark.parametrize("form", ["ICO", "PPM", "TGA"])
def test_formats_that_are_not_promised_are_refused(form: str) -> None:
    # Each further decoder is another way in for a hostile file.
    refused(encode(scene(), form), UNREAD)


def test_an_empty_file_is_called_so() -> None:
    refused(b"", DAMAGED)


# ---------------------------------------------------------------- damage


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("share", [0.25, 0.5, 0.75, 0.9, 0.98])
def test_a_truncated_jpeg(share: float, progressive: bool, reader: str) -> None:
    data = encode(scene(400, 300), "JPEG", progressive=progressive)
    refused(data[: int(len(data) * share)], DAMAGED)


@pytest.mark.parametrize("missing", [3, 10, 100])
def test_a_jpeg_that_lacks_its_last_bytes(missing: int, reader: str) -> None:
    refused(encode(scene(), "JPEG")[:-missing], DAMAGED)


@pytest.mark.parametrize("length", range(3, 640, 29))
def test_a_jpeg_cut_within_its_header(length: int, reader: str) -> None:
    data = encode(scene(), "JPEG", exif=rotated(6))
    with pytest.raises(ImageError) as caught:
        decode(data[:length])
    assert caught.value.code in (DAMAGED, UNREAD), str(caught.value)


@functools.cache
def large(form: str) -> Image.Image:
    """Large enough that a tenth of its bytes is more than a header."""
    return scene(300, 200).quantize(64) if form == "GIF" else scene(300, 200)


@pytest.mark.parametrize("form", ["PNG", "GIF", "WEBP", "TIFF", "BMP"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_other_formats_truncated(form: str, share: float) -> None:
    data = encode(large(form), form)
    refused(data[: int(len(data) * share)], DAMAGED)


@pytest.mark.parametrize("form", ["PNG", "WEBP", "GIF"])
def test_a_corrupt_body(form: str) -> None:
    data = bytearray(encode(large(form), form))
    middle = len(data) // 2
    data[middle : middle + 400] = b"\xff" * 400
    refused(bytes(data), DAMAGED)


@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_with_a_hole_in_its_body(progressive: bool) -> None:
    # What a bad disk or a broken download leaves: a block of zeros. libjpeg fills up with gray and
    # only warns.
    data = bytearray(encode(scene(400, 300), "JPEG", progressive=progressive))
    middle = len(data) // 2
    data[middle : middle + 512] = bytes(512)
    refused(bytes(data), DAMAGED)


def test_a_jpeg_that_ends_half_way_is_refused_though_it_ends_properly() -> None:
    data = encode(scene(400, 300), "JPEG")
    refused(data[: len(data) // 2] + b"\xff\xd9", DAMAGED)


def test_bytes_behind_a_jpeg_do_no_harm(reader: str) -> None:
    # Phones append videos and depth maps.
    data = encode(scene(), "JPEG")
    assert_equal(decode(data + b"MotionPhoto" * 100), by_pillow(data))


def test_a_jpeg_of_12_bits_is_refused_like_any_other(reader: str) -> None:
    for data in (encode(scene(), "JPEG"), encode(scene(), "JPEG", exif=rotated(6))):
        start = data.index(b"\xff\xc0")
        refused(data[: start + 4] + b"\x0c" + data[start + 5 :], UNREAD)


# ---------------------------------------------------------------- size


@pytest.mark.parametrize("side", [11_000, 60_000, 2_000_000_000])
def test_a_png_that_claims_to_be_huge_is_refused_unread(side: int) -> None:
    bomb = png(struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0), bytes(3000))
    refused(bomb, COSTLY)


@pytest.mark.parametrize("side", [11_000, 65_500])
def test_a_jpeg_that_claims_to_be_huge_is_refused_unread(side: int, reader: str) -> None:
    data = bytearray(encode(scene(), "JPEG"))
    start = data.index(b"\xff\xc0")
    data[start + 5 : start + 9] = struct.pack(">HH", side, side)
    refused(bytes(data), COSTLY)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP"])
def test_the_size_limit_is_kept_and_told(form: str, reader: str) -> None:
    data = encode(scene(), form)
    assert decode(data, max_pixels=97 * 61).shape == (61, 97, 3)
    refused(data, COSTLY, ("97x61", "5,916"), max_pixels=97 * 61 - 1)


# ---------------------------------------------------------------- fuzz


@functools.cache
def fuzz_seeds() -> dict[str, bytes]:
    image = scene(48, 32)
    return {
        "jpeg": encode(image, "JPEG", exif=rotated(6)),
        "progressive": encode(image, "JPEG", progressive=True),
        "cmyk": encode(image.convert("CMYK"), "JPEG", exif=rotated(3)),
        "png": encode(image, "PNG", exif=rotated(6)),
        "palette": encode(image.quantize(16), "PNG", transparency=3),
        "gif": encode(image.quantize(64), "GIF"),
        "webp": encode(image, "WEBP"),
        "webp lossless": encode(image, "WEBP", lossless=True),
        "tiff": encode(image, "TIFF"),
        "tiff lzw": encode(image, "TIFF", compression="tiff_lzw"),
        "bmp": encode(image, "BMP"),
        "16 bits": encode(
            Image.fromarray(np.arange(1200, dtype=np.uint16).reshape(30, 40) * 50), "TIFF"
        ),
    }


def mutated(data: bytes, draw: random.Random) -> bytes:
    """A few bytes changed, gone or added; half of the blows hit the header."""
    made = bytearray(data)
    for _ in range(draw.choice([1, 1, 2, 4, 16])):
        at = draw.randrange(len(made) if draw.random() < 0.5 else min(len(made), 200))
        match draw.randrange(6):
            case 0:
                made[at] ^= 1 << draw.randrange(8)
            case 1:
                made[at] = draw.choice([0, 1, 127, 128, 255])
            case 2:
                made[at : at + 4] = draw.choice(
                    [bytes(4), b"\xff" * 4, b"\x7f\xff\xff\xff", b"\0\0\0\1"]
                )
            case 3:
                del made[at : at + draw.randrange(1, 40)]
            case 4:
                made[at:at] = draw.randbytes(draw.randrange(1, 20))
            case _:
                del made[max(at, 4) :]
        if not made:
            break
    return bytes(made)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("form", fuzz_seeds())
def test_hostile_bytes_give_pixels_or_a_reason(form: str, reader: str) -> None:
    draw, data = random.Random(f"{form}/1"), fuzz_seeds()[form]
    refused = 0
    for _ in range(60):
        try:
            pixels = decode(mutated(data, draw), max_pixels=1_000_000)
        except ImageError as reason:
            refused += 1
            assert len(str(reason)) > 5
        else:
            assert (
                pixels.dtype == np.uint8
                and pixels.ndim == 3
                and pixels.shape[2] == 3
                and pixels.size
            )
    assert refused


def test_a_damaged_image_leaves_its_file_untouched(tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(encode(scene(), "JPEG")[:-100])
    before = path.read_bytes()
    refused(path.read_bytes(), DAMAGED)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("head", "names"),
    [
        (b"\0\0\0\x18ftypheic" + bytes(500), ("HEIC", "pip install 'breedlab[heic]'")),
        (b"\0\0\0\x1cftypavif" + bytes(500), ("AVIF", "Pillow 11.3")),
        (b"\0\0\0\x20ftypisom" + bytes(500), "video"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    ],
)
def test_a_image_of_a_phone_by_the_name_of_jpg_is_told_for_what_it_is(
    head: bytes, names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("breedlab.data.formats.reads_heic", lambda: False)
    monkeypatch.setattr("breedlab.data.formats.reads_avif", lambda: False)
    refused(head, UNREAD, names)


def test_only_regular_files_of_sensible_size_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A FIFO would be waited for, and /dev/zero read until the memory is full."""
    os.mkfifo(tmp_path / "fifo.jpg")
    (tmp_path / "zero.jpg").symlink_to("/dev/zero")
    with (tmp_path / "film.tif").open("wb") as file:
        file.truncate(3_000_000_000)
    for name, code, names in (
        ("fifo", "BL201", "regular file"),
        ("zero", "BL201", "regular file"),
        ("film", COSTLY, ("3,000 MB", "200 MB")),
    ):
        with raises_code(code, names=names):
            read_image(next(tmp_path.glob(f"{name}.*")))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_the_size_is_known_before_decoding(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    file = io.BytesIO()
    Image.new("RGB", (40, 24)).save(file, kind, exif=exif)
    assert decoding.size(file.getvalue()) == decode(file.getvalue()).shape[:2]


@pytest.mark.parametrize("brand", [b"heic", b"avif"])
def test_what_is_told_of_a_broken_image_is_no_address_in_memory(brand: bytes) -> None:
    """'cannot identify image file <_io.BytesIO object at 0x7f599a9646d0>'."""
    if not formats.is_read(brand.decode().upper()):
        pytest.skip(f"{brand.decode()} is not read here")
    image = b"\0\0\0\x18ftyp" + brand + b"\0\0\0\0mif1" + brand + bytes(500)
    for look in (decode, decoding.size, file_checks.inspect):
        with pytest.raises(ImageError) as caught:
            look(image)
        assert " at 0x" not in str(caught.value)
