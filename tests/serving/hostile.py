"""Files and bodies as an attacker or a broken client makes them, from real ones."""

from __future__ import annotations

import base64
import functools
import gzip
import io
import json
import struct
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import strategies as st
from PIL import Image

from breedlab.data import formats
from breedlab.serving.request_parser import IMAGE_TYPES, JSON

COSTLY, DAMAGED, SEVERAL, OTHER, UNREAD = "BL206", "BL205", "BL207", "BL209", "BL208"
BODY, TYPE, LARGE, IMAGE, FETCH = "BL514", "BL512", "BL511", "BL502", "BL503"


def saved(image: Image.Image, kind: str, **words: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **words)
    return buffer.getvalue()


def real_files() -> list[bytes]:
    """One small image in every format and flavor that is read, and some that are not."""
    noise = np.random.default_rng(3).integers(0, 256, (40, 56, 3), dtype=np.uint8)
    image = Image.fromarray(noise).resize((112, 80))
    frames = [image.rotate(90 * turn).resize(image.size) for turn in range(3)]
    exif = Image.Exif()
    exif[0x0112] = 6
    return [
        *(
            saved(image, "JPEG"),
            saved(image, "JPEG", progressive=True),
            saved(image.convert("CMYK"), "JPEG"),
        ),
        *(
            saved(image.convert("L"), "JPEG"),
            saved(image, "JPEG", exif=exif),
            saved(image, "JPEG", quality=100),
        ),
        *(
            saved(image, "PNG"),
            saved(image.convert("RGBA"), "PNG"),
            saved(image.quantize(16), "PNG"),
        ),
        saved(Image.fromarray(noise[:, :, 0].astype(np.uint16) * 257), "PNG"),
        saved(frames[0], "PNG", save_all=True, append_images=frames[1:]),
        *(saved(image, "WEBP"), saved(image.convert("RGBA"), "WEBP", lossless=True)),
        saved(frames[0], "WEBP", save_all=True, append_images=frames[1:]),
        *(saved(image, "GIF"), saved(frames[0], "GIF", save_all=True, append_images=frames[1:])),
        *(saved(image, "BMP"), saved(image, "TIFF"), saved(image, "TIFF", compression="tiff_lzw")),
        *(
            saved(image, "TIFF", compression="tiff_adobe_deflate"),
            saved(image, "PPM"),
            saved(image, "ICO"),
        ),
        b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
    ]


def png(
    width: int, height: int, depth: int = 8, color: int = 0, rows: bytes | None = None
) -> bytes:
    """A PNG with any header, black or of the rows given, compressed as far as it goes."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content))
            + kind
            + content
            + struct.pack(">I", zlib.crc32(kind + content))
        )

    head = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    samples = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[color]
    row = bytes(1 + (width * samples * depth + 7) // 8)
    if rows is None:
        packer = zlib.compressobj(9)
        rows = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def claiming(image: bytes, width: int, height: int) -> bytes:
    """A JPEG that says it has these dimensions."""
    for marker in (b"\xff\xc0", b"\xff\xc2"):
        at = image.find(marker)
        if at > 0:
            return image[: at + 5] + struct.pack(">HH", height, width) + image[at + 9 :]
    raise ValueError("no frame header")


def directory(entries: list[tuple[int, int, int, int]], following: int = 0) -> bytes:
    """A TIFF's directory of (tag, type, count, value or offset)."""
    packed = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return struct.pack("<H", len(entries)) + packed + struct.pack("<I", following)


def many_pages(count: int) -> bytes:
    """A TIFF of that many directories, each with a pixel of its own to show: 42 bytes a page."""
    gray = [(256, 4, 1, 1), (257, 4, 1, 1), (258, 3, 1, 8)]
    size = len(directory(gray))
    pages = [directory(gray, 8 + (n + 1) * size if n + 1 < count else 0) for n in range(count)]
    return b"II*\0" + struct.pack("<I", 8) + b"".join(pages)


def jpeg_in_tiff(jpeg: bytes, width: int, height: int, strips: int = 1) -> bytes:
    """A TIFF whose strips are all the same JPEG, which is gray."""
    entries = 8
    start = 8 + len(directory([(0, 0, 0, 0)] * entries))
    lists = 8 * strips if strips > 1 else 0
    pixels = start + lists
    offsets, sizes = (start, start + 4 * strips) if strips > 1 else (pixels, len(jpeg))
    size = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8)]
    where = [(273, 4, strips, offsets), (278, 4, 1, -(-height // strips)), (279, 4, strips, sizes)]
    made = directory([*size, (259, 3, 1, 7), (262, 3, 1, 1), *where])
    listed = struct.pack(f"<{strips}I", *[pixels] * strips) + struct.pack(
        f"<{strips}I", *[len(jpeg)] * strips
    )
    return b"II*\0" + struct.pack("<I", 8) + made + (listed if strips > 1 else b"") + jpeg


def sharing(entries: int, shared: int) -> bytes:
    """A TIFF, or EXIF, whose entries all hold the same bytes, which a reader copies once for
    each."""
    start = 8 + len(directory([(0, 0, 0, 0)] * entries))
    made = directory([(0x9000 + n, 7, shared, start) for n in range(entries)])
    return b"II*\0" + struct.pack("<I", 8) + made + bytes(shared)


def segmented(jpeg: bytes, count: int, content: bytes = b"", marker: int = 0xFE) -> bytes:
    """A JPEG with that many segments more in front."""
    segment = bytes([0xFF, marker]) + struct.pack(">H", 2 + len(content)) + content
    return jpeg[:2] + segment * count + jpeg[2:]


def chunked(file: bytes, kind: bytes, content: bytes, count: int) -> bytes:
    """A PNG with that many chunks more behind its header."""
    chunk = (
        struct.pack(">I", len(content))
        + kind
        + content
        + struct.pack(">I", zlib.crc32(kind + content))
    )
    return file[:33] + chunk * count + file[33:]


@functools.cache
def costly_images() -> dict[str, tuple[bytes, str, str]]:
    """By what they are: a file within the limit of bytes that costs a decoder seconds or gigabytes,
    the code of its refusal, and what that names."""
    image = Image.linear_gradient("L").convert("RGB").resize((96, 64))
    cmyk = saved(image.convert("CMYK"), "JPEG")
    progressive, gray = saved(image, "JPEG", progressive=True), png(9, 9)
    scan = progressive[progressive.rfind(b"\xff\xda") : -2]
    in_gray = saved(image.convert("L"), "JPEG", progressive=True)
    gray_scan = in_gray[in_gray.rfind(b"\xff\xda") : -2]
    exif = b"Exif\0\0" + sharing(400, 40_000)
    rle = bytearray(saved(Image.new("P", (1000, 1000)), "BMP"))
    rle[30:34] = struct.pack("<I", 1)
    gif = saved(image, "GIF")
    table = 13 + (3 << (gif[10] & 7) + 1)
    webp = saved(image, "WEBP", exif=b"Exif\0\0" + sharing(400, 1_000_000))
    return {
        "a TIFF of 60,000 directories": (many_pages(60_000), SEVERAL, ""),
        "a TIFF of a directory of 65,000 entries": (b"II*\0\x08\0\0\0" + directory([(256, 4, 1, 1)] * 65_000), COSTLY, "65,000"),
        "a TIFF whose entries share a megabyte": (sharing(450, 1_000_000), DAMAGED, ""),
        "a TIFF of a million strips": (
            b"II*\0\x08\0\0\0" + directory([(256, 4, 1, 1), (257, 4, 1, 1), (273, 4, 1_000_000, 8)]), COSTLY, "1,000,000"),
        "a TIFF of a tile without end": (
            b"II*\0\x08\0\0\0" + directory([(256, 4, 1, 9), (257, 4, 1, 9), (322, 4, 1, 60_000), (323, 4, 1, 60_000)]),
            COSTLY, "60000x60000"),
        "a TIFF of a JPEG of 2,000 scans": (
            jpeg_in_tiff(claiming(in_gray[:-2] + gray_scan * 2000 + b"\xff\xd9", 8000, 6000), 8000, 6000), COSTLY, "scans"),
        "a TIFF whose strips share a megabyte": (jpeg_in_tiff(bytes(1_000_000), 100, 10_000, 10_000), DAMAGED, ""),
        "a JPEG of 900,000 segments": (segmented(cmyk, 900_000), COSTLY, ""),
        "a JPEG of EXIF in 500,000 pieces": (segmented(cmyk, 500_000, b"Exif\0\0", 0xE1), COSTLY, ""),
        "a JPEG that is filled up in front": (cmyk[:2] + b"\xff" * 5_000_000 + cmyk[2:], DAMAGED, ""),
        "a JPEG whose EXIF shares its bytes": (segmented(cmyk, 1, exif, 0xE1), DAMAGED, ""),
        "a JPEG whose list of pictures shares its bytes": (
            segmented(cmyk, 1, b"MPF\0" + sharing(400, 40_000), 0xE2), DAMAGED, ""),
        "scans times pixels": (claiming(progressive[:-2] + scan * 20 + b"\xff\xd9", 8000, 6000), COSTLY, "scans"),
        "a PNG of 400,000 empty chunks": (chunked(gray, b"IDAT", b"", 400_000), COSTLY, ""),
        "a PNG of 200,000 notes": (chunked(gray, b"tEXt", b"a\0b", 200_000), COSTLY, ""),
        "a PNG whose EXIF shares its bytes": (chunked(gray, b"eXIf", sharing(400, 1_000_000), 1), DAMAGED, ""),
        "a PNG whose EXIF, deflated, shares its bytes": (
            chunked(gray, b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(
                b"\nexif\n   99\n" + sharing(400, 100_000).hex().encode()), 1), DAMAGED, ""),
        "a WebP whose EXIF shares its bytes": (webp, DAMAGED, ""),
        "a GIF of blocks of a byte": (gif[:table] + b"!\xfe" + b"\1x" * 2_000_000 + b"\0" + gif[table:], COSTLY, ""),
        "a GIF of nothing between its blocks": (gif[:table] + bytes(3_000_000) + gif[table:], COSTLY, ""),
        "a BMP in runs": (bytes(rle) + bytes(1_000_000), COSTLY, "BMP"),
    }  # fmt: skip


def zipped() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("evil.class", b"\xca\xfe\xba\xbe")
    return buffer.getvalue()


def half(file: bytes) -> bytes:
    return file[: len(file) // 2]


@functools.cache
def refused_images() -> dict[str, tuple[bytes, str, str]]:
    """By what they are: a file that no server should take, the code of its refusal, and what
    that names."""
    image = Image.linear_gradient("L").convert("RGB").resize((96, 64))
    jpeg, progressive = saved(image, "JPEG"), saved(image, "JPEG", progressive=True)
    frames = [image, image.rotate(180)]
    scan = progressive[progressive.rfind(b"\xff\xda") : -2]
    comment = b"<script>alert(1)</script>"
    return {
        "a compression bomb": (png(30_000, 30_000, 1), COSTLY, ""),
        "a transparent compression bomb": (png(8_000, 8_000, 8, 6), COSTLY, "8000x8000"),
        "huge dimensions without pixels": (png(2**31 - 1, 2**31 - 1, rows=b""), COSTLY, ""),
        "no dimensions": (png(0, 0, rows=b""), DAMAGED, ""),
        "a JPEG that says it is huge": (claiming(jpeg, 65_000, 65_000), COSTLY, "65000x65000"),
        "a JPEG without height": (claiming(jpeg, 96, 0), DAMAGED, ""),
        "a long thin image": (saved(image.resize((6_000, 3)), "JPEG"), COSTLY, "6000x3"),
        "a thousand scans": (progressive[:-2] + scan * 1000 + b"\xff\xd9", COSTLY, "scans"),
        "a truncated JPEG": (half(jpeg), DAMAGED, ""),
        "a truncated PNG": (half(saved(image, "PNG")), DAMAGED, ""),
        "a truncated WebP": (half(saved(image, "WEBP")), DAMAGED, ""),
        "only a JPEG's first bytes": (jpeg[:4], DAMAGED, ""),
        "an animated GIF": (saved(image, "GIF", save_all=True, append_images=frames[1:]), SEVERAL, ""),
        "an animated WebP": (saved(image, "WEBP", save_all=True, append_images=frames[1:]), SEVERAL, ""),
        "an animated PNG": (saved(image, "PNG", save_all=True, append_images=frames[1:]), SEVERAL, ""),
        "a TIFF of many pages": (saved(image, "TIFF", save_all=True, append_images=frames[1:]), SEVERAL, ""),
        "a JPEG with a ZIP behind it": (jpeg + zipped(), OTHER, "ZIP"),
        "a GIF with a JAR behind it": (saved(image, "GIF") + zipped(), OTHER, "ZIP"),
        "a JPEG with a program behind it": (jpeg + b"\x7fELF" + bytes(99), OTHER, "ELF"),
        "a JPEG with a page behind it": (jpeg + b"<HTML>" + comment, OTHER, "HTML"),
        "a JPEG with a script in its comment": (
            jpeg[:2] + b"\xff\xfe" + struct.pack(">H", len(comment) + 2) + comment + jpeg[2:], OTHER, "HTML"),
        "a PDF that says it is a JPEG": (b"\xff\xd8\xff%PDF-1.7 1 0 obj", OTHER, "PDF"),
        "a GIF that is JavaScript": (b"GIF89a/*" + b"A" * 50 + b"*/=1;<script>", OTHER, "HTML"),
        "a program": (b"MZ" + bytes(200), UNREAD, ""),
        "a drawing in SVG": (real_files()[-1], UNREAD, ""),
        "Windows' icon": (saved(image, "ICO"), UNREAD, ""),
        "PostScript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99 99\n", UNREAD, ""),
        "words": (b"no photo", UNREAD, ""),
        "an iPhone's HEIC": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(500), DAMAGED if formats.is_read("HEIC") else UNREAD, "HEIC"),
        **costly_images(),
    }  # fmt: skip


@functools.cache
def refused_bodies() -> dict[str, tuple[bytes, str | None, int, str, str]]:
    """By what they are: a body, its content type, the status and code of the answer, and what it
    names."""
    jpeg = saved(Image.linear_gradient("L"), "JPEG")
    one = base64.b64encode(jpeg).decode()
    return {
        "nothing": (b"", "image/jpeg", 400, DAMAGED, ""),
        "nothing as JSON": (b"", JSON, 400, BODY, "JSON"),
        "no content type, and nothing that shows it": (b"words", None, 415, TYPE, ""),
        "an image in gzip that never ends": (gzip.compress(bytes(100_000_000), 9), "image/jpeg", 413, LARGE, ""),
        "gzip cut short": (gzip.compress(jpeg)[:-20], "image/jpeg", 400, BODY, "gzip"),
        "gzip that is none": (b"\x1f\x8b" + jpeg, "image/jpeg", 400, BODY, "gzip"),
        "gzip in gzip": (gzip.compress(gzip.compress(jpeg)), "image/jpeg", 400, UNREAD, ""),
        "an unread content type": (jpeg, "text/csv", 415, TYPE, "text/csv"),
        "a form without an image": (b"--x\r\n\r\n\r\n--x--\r\n", "multipart/form-data; boundary=x", 400, BODY, "form"),
        "a form of no bounds": (b"--x\r\n", "multipart/form-data", 400, BODY, "boundary"),
        "a form cut short": (b"--x\r\n\r\n" + jpeg, "multipart/form-data; boundary=x", 400, BODY, "form"),
        "a form of many fields": (b"--x\r\n\r\n\r\n" * 400_000, "multipart/form-data; boundary=x", 400, BODY, "fields"),
        "a form with a long head": (
            b"--x\r\n" + b"a:b\r\n" * 900_000 + b"\r\n\r\n--x--", "multipart/form-data; boundary=x", 400, BODY, "head"),
        "a data URI that is not base64": (b'{"image": "data:image/png,%89PNG"}', JSON, 400, IMAGE, "data URI"),
        "a very long content type": (jpeg, "image/" + "x" * 5000, 415, TYPE, "image/xxx"),
        "a PNG that is a JPEG": (jpeg, "image/png", 415, TYPE, "JPEG"),
        "a JPEG that is a PNG": (png(9, 9), "image/jpeg", 415, TYPE, "PNG"),
        "a WebP that is a GIF": (saved(Image.new("L", (9, 9)), "GIF"), "image/webp", 415, TYPE, "GIF"),
        "JSON cut short": (b'{"image": "', JSON, 400, BODY, "JSON"),
        "JSON of other bytes": (b"\xff\xfe\xfd", JSON, 400, BODY, "JSON"),
        "deep JSON": (b"[" * 3_000_000, JSON, 400, BODY, "JSON"),
        "deep JSON within bounds": (b"[" * 5000 + b"]" * 5000, JSON, 400, BODY, "JSON"),
        "deep objects": (b'{"image":' * 500 + b"1" + b"}" * 500, JSON, 400, IMAGE, "image"),
        "many small objects": (b"[" + b"{}," * 1_500_000 + b"{}]", JSON, 400, BODY, "JSON"),
        "a number of many digits": (b"1" * 5_000_000, JSON, 400, BODY, "JSON"),
        "a fraction of many digits": (b"0." + b"1" * 5_000_000, JSON, 400, IMAGE, "image"),
        "a number beyond numbers": (b"1e999999999", JSON, 400, IMAGE, "image"),
        "NaN": (b"NaN", JSON, 400, IMAGE, "image"),
        "no images": (b"[]", JSON, 400, BODY, "0 images"),
        "too many images": (json.dumps([{"image": one}] * 33).encode(), JSON, 400, BODY, "33"),
        "a list in a list": (json.dumps([[{"image": one}]]).encode(), JSON, 400, IMAGE, "image"),
        "a text": (json.dumps("a photo!").encode(), JSON, 400, IMAGE, "base64"),
        "null": (b"null", JSON, 400, IMAGE, "image"),
        "another key": (json.dumps({"photo": one}).encode(), JSON, 400, IMAGE, "image"),
        "a key too many": (json.dumps({"image": one, "url": "http://a/"}).encode(), JSON, 400, IMAGE, "image"),
        "a number for an image": (b'{"image": 3}', JSON, 400, IMAGE, "image"),
        "bytes in a list": (json.dumps({"image": list(jpeg[:99])}).encode(), JSON, 400, IMAGE, "image"),
        "an empty image": (b'{"image": ""}', JSON, 400, DAMAGED, ""),
        "what is not base64": (b'{"image": "%%%"}', JSON, 400, IMAGE, "base64"),
        "base64 of other letters": ('{"image": "é"}'.encode(), JSON, 400, IMAGE, "base64"),
        "a lone surrogate": (b'{"image": "\\ud800"}', JSON, 400, IMAGE, "base64"),
        "base64 cut short": (json.dumps({"image": one[:-3]}).encode(), JSON, 400, IMAGE, "base64"),
        "huge base64 of nothing": (json.dumps({"image": "A" * 5_900_000}).encode(), JSON, 400, UNREAD, ""),
        "bad images only": (json.dumps([{"image": one[:200]}, {"image": "%"}]).encode(), JSON, 400, DAMAGED, "image 1 of 2"),
        "an address": (b'{"url": "http://169.254.169.254/latest/meta-data/"}', JSON, 400, FETCH, "URL"),
        "a body over the limit": (bytes(6_000_001), "image/jpeg", 413, LARGE, "6,000,000"),
    }  # fmt: skip


def _cut(image: bytes, draw: Callable[..., Any]) -> bytes:
    return image[: draw(st.integers(0, len(image)))]


def _changed(image: bytes, draw: Callable[..., Any]) -> bytes:
    made = bytearray(image)
    for at, value in draw(
        st.lists(st.tuples(st.integers(0, len(made) - 1), st.integers(0, 255)), max_size=12)
    ):
        made[at] = value
    return bytes(made)


def _changed_at_the_start(image: bytes, draw: Callable[..., Any]) -> bytes:
    """Headers are where the numbers are that decoders believe."""
    made = bytearray(image)
    end = min(len(made), 64) - 1
    for at, value in draw(
        st.lists(st.tuples(st.integers(2, end), st.sampled_from([0, 1, 127, 128, 255])), max_size=6)
    ):
        made[at] = value
    return bytes(made)


def _spliced(image: bytes, draw: Callable[..., Any]) -> bytes:
    other = draw(st.sampled_from(_REAL))
    return image[: draw(st.integers(0, len(image)))] + other[draw(st.integers(0, len(other))) :]


def _doubled(image: bytes, draw: Callable[..., Any]) -> bytes:
    start, end = sorted(draw(st.tuples(st.integers(0, len(image)), st.integers(0, len(image)))))
    return image[:end] + image[start:end] * draw(st.integers(1, 40)) + image[end:]


def _stuffed(image: bytes, draw: Callable[..., Any]) -> bytes:
    at = draw(st.integers(0, len(image)))
    return image[:at] + draw(st.binary(max_size=64)) + image[at:]


_REAL = real_files()
_WAYS = (
    _cut,
    _changed,
    _changed_at_the_start,
    _spliced,
    _doubled,
    _stuffed,
    lambda image, _draw: image,
)


@st.composite
def images(draw: Callable[..., Any]) -> bytes:
    """Real files, mutated once or a few times."""
    image = draw(st.sampled_from(_REAL))
    for way in draw(st.lists(st.sampled_from(_WAYS), min_size=1, max_size=3)):
        if len(image) > 3:
            image = way(image, draw)
    return bytes(image)


_LEAVES = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=30))
_TREES = st.recursive(
    _LEAVES, lambda t: st.lists(t, max_size=3) | st.dictionaries(st.text(max_size=5), t, max_size=3)
)


@st.composite
def requests(draw: Callable[..., Any]) -> tuple[bytes, str, str]:
    """A body, its content type, and what is accepted."""
    accept = draw(
        st.sampled_from(
            ["", "application/json", "application/json; verbose=1", "application/x-npy", "*/*"]
        )
    )
    match draw(st.integers(0, 9)):
        case 0:
            body, kind = (
                draw(st.binary(max_size=200)),
                draw(st.sampled_from([*IMAGE_TYPES, JSON]) | st.text(max_size=9)),
            )
            return body, kind, draw(st.text(max_size=20))
        case 1:
            return json.dumps(draw(_TREES)).encode(), JSON, accept
        case 2:
            found = draw(st.lists(images(), min_size=1, max_size=3))
            items: list[Any] = [{"image": base64.b64encode(one).decode()} for one in found]
            if draw(st.booleans()):
                items[0] = {draw(st.sampled_from(["image", "url", "x"])): draw(_TREES)}
            text = json.dumps(items if len(items) > 1 else items[0]).encode()
            return (_changed(text, draw) if draw(st.booleans()) else text), JSON, accept
        case _:
            return draw(images()), draw(st.sampled_from([*IMAGE_TYPES])), accept
