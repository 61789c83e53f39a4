"""Photos of many megapixels: what is decoded is limited, and with it memory."""

from __future__ import annotations

import io
import struct
import zlib
from math import ceil

import numpy as np
import pytest
from PIL import Image

from plugins.data import image_files
from plugins.data.bad_records import BadRecord
from plugins.data.image_files import MAX_PIXELS, open_image, read_rgba, read_upright
from plugins.data.image_headers import is_streamed_jpeg


def gradient(width: int, height: int) -> Image.Image:
    """Make an image that is red at the left and green at the top."""
    across = np.linspace(255, 0, width)[None].repeat(height, 0)
    down = np.linspace(255, 0, height)[:, None].repeat(width, 1)
    return Image.fromarray(np.stack([across, down, 0 * down], -1).astype(np.uint8))


def jpeg(width: int, height: int, **options) -> bytes:
    content = io.BytesIO()
    gradient(width, height).save(content, "JPEG", **options)
    return content.getvalue()


def with_size(content: bytes, width: int, height: int) -> bytes:
    """Change the size in a JPEG's header; its pixels then end early."""
    place = next(place for marker in (b"\xff\xc0", b"\xff\xc2") if (place := content.find(marker)) >= 0)
    return content[: place + 5] + struct.pack(">HH", height, width) + content[place + 9 :]


def png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.fixture
def small_limits(monkeypatch):
    """Limits of 1/1024 of the usual ones, so that small images are large."""
    monkeypatch.setattr(image_files, "MAX_PIXELS", 2**16)
    monkeypatch.setattr(image_files, "MAX_JPEG_PIXELS", 2**18)


@pytest.mark.parametrize("size", [(8064, 6048), (6048, 8064)])
def test_a_photo_of_48_megapixels_is_read_small(tmp_path, size):
    file = tmp_path / "photo.jpg"
    Image.new("RGB", size, (200, 100, 50)).save(file)
    image = read_upright(str(file), 224)
    assert image.stored_size == size
    assert sorted(image.pixels.shape) == [3, 224, 299]
    assert abs(image.pixels[100, 100].astype(int) - (200, 100, 50)).max() <= 2


@pytest.mark.parametrize(("size", "short"), [((500, 500), 60), ((510, 510), 400), ((1020, 250), 250), ((255, 1024), 9)])
def test_a_large_jpeg_is_decoded_at_a_fraction(tmp_path, small_limits, size, short):
    file = tmp_path / "a.jpg"
    file.write_bytes(jpeg(*size, quality=95))
    image = read_upright(str(file), short)
    pixels = image.pixels
    scale = short / min(size)
    assert image.stored_size == size
    assert pixels.shape == (ceil(size[1] * scale), ceil(size[0] * scale), 3)
    want = np.asarray(gradient(*size).resize(pixels.shape[1::-1])).astype(int)
    assert abs(pixels - want).mean() < 3


def test_a_large_jpeg_as_a_whole_has_half_its_sides(tmp_path, small_limits):
    file = tmp_path / "a.jpg"
    file.write_bytes(jpeg(501, 400))
    assert read_upright(str(file)).pixels.shape == (200, 251, 3)
    assert read_rgba(str(file), ("JPEG", "PNG")).size == (251, 200)


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_large_photo_is_turned_upright(tmp_path, small_limits, orientation):
    exif, file = Image.Exif(), tmp_path / "a.jpg"
    exif[0x0112] = orientation
    upright = gradient(300, 600)
    stored = upright.transpose(Image.Transpose.ROTATE_90) if orientation == 6 else upright
    stored.save(file, exif=exif, quality=95)
    pixels = read_upright(str(file), 30).pixels
    assert abs(pixels - np.asarray(upright.resize((30, 60))).astype(int)).mean() < 3


def test_other_formats_and_progressive_jpegs_are_limited(tmp_path, small_limits):
    file = tmp_path / "a"
    for format_, message in (("PNG", "257 x 256 pixels are more than"), ("WEBP", "257 x 256"), ("BMP", "257 x 256")):
        gradient(257, 256).save(file, format_)
        with pytest.raises(BadRecord, match=message) as caught:
            read_upright(str(file), 8)
        assert caught.value.kind == "picture too large"
        gradient(256, 256).save(file, format_)
        assert read_upright(str(file), 8).pixels.shape == (8, 8, 3)
    file.write_bytes(jpeg(257, 256, progressive=True))
    with pytest.raises(BadRecord, match="257 x 256 pixels of a progressive JPEG are more than 65536"):
        read_upright(str(file), 8)
    file.write_bytes(jpeg(256, 256, progressive=True))
    assert read_upright(str(file), 8).pixels.shape == (8, 8, 3)
    file.write_bytes(jpeg(1025, 256))
    with pytest.raises(BadRecord, match="1025 x 256 pixels are more than 262144"):
        read_upright(str(file), 8)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (png_header(60_000, 60_000), f"more than {MAX_PIXELS} pixels"),
        (png_header(9000, 9000), f"9000 x 9000 pixels are more than {MAX_PIXELS}"),
        (with_size(jpeg(64, 64), 65_000, 65_000), "65000 x 65000 pixels are more than"),
        (with_size(jpeg(64, 64, progressive=True), 12_000, 9000), "12000 x 9000 pixels of a progressive JPEG"),
    ],
)
def test_bombs_are_refused_by_their_header(tmp_path, content, message):
    file = tmp_path / "bomb"
    file.write_bytes(content)
    with pytest.raises(BadRecord, match=message) as caught:
        read_upright(str(file), 224)
    assert caught.value.kind == "picture too large"


def test_a_large_jpeg_that_is_cut_off_is_an_error(tmp_path):
    file = tmp_path / "cut.jpg"
    file.write_bytes(with_size(jpeg(64, 64), 12_000, 9000)[:-20])
    with pytest.raises(BadRecord, match=r"cut\.jpg: .*damaged or cut off"):
        read_upright(str(file), 224)


def test_jpegs_decoded_row_by_row():
    baseline = jpeg(32, 32)
    assert is_streamed_jpeg(baseline)
    assert is_streamed_jpeg(baseline[:2] + b"\xff" + baseline[2:])  # a fill byte
    assert not is_streamed_jpeg(jpeg(32, 32, progressive=True))
    scan = baseline.find(b"\xff\xda")
    assert not is_streamed_jpeg(baseline[: scan + 4] + b"\x01" + baseline[scan + 5 :])  # a scan of one of three colours
    assert not is_streamed_jpeg(b"\xff\xd8\xff")


@pytest.mark.parametrize(
    ("size", "short", "shape"), [((30_000, 100), 317, (100, 30_000, 3)), ((9, 4000), 5, (2223, 5, 3))]
)
def test_strips(tmp_path, size, short, shape):
    for ending in ("jpg", "png"):
        file = tmp_path / f"strip.{ending}"
        Image.new("RGB", size, (10, 200, 30)).save(file)
        assert read_upright(str(file), short).pixels.shape == shape


def test_the_first_frame_of_an_mpo(tmp_path):
    file = tmp_path / "two.jpg"
    exif, first = Image.Exif(), gradient(64, 48)
    exif[0x0112] = 8
    first.save(file, "MPO", save_all=True, append_images=[Image.new("RGB", (64, 48), "blue")], exif=exif, quality=95)
    image = read_upright(str(file))
    assert (image.orientation, image.stored_size) == (8, (64, 48))
    assert abs(image.pixels - np.asarray(first.transpose(Image.Transpose.ROTATE_90)).astype(int)).mean() < 3


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGBA", "LA", "CMYK", "I;16"])
def test_strips_of_rows_convert_as_the_whole(tmp_path, monkeypatch, mode):
    noise = np.random.default_rng(0).integers(0, 256, (37, 23, 4), np.uint8)
    image = Image.fromarray(noise[..., :2].copy().view(np.uint16)[..., 0]) if mode == "I;16" else Image.fromarray(noise)
    image = (
        image
        if mode in ("I;16", "RGBA")
        else image.convert("RGB").convert(mode)
        if mode == "P"
        else image.convert(mode)
    )
    file = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    image.save(file)
    whole = read_upright(str(file), 20).pixels
    monkeypatch.setattr(image_files, "STRIP_PIXELS", 100)
    assert np.array_equal(read_upright(str(file), 20).pixels, whole)


@pytest.mark.parametrize(
    ("content", "note"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "it holds an HEIC image; convert it to JPEG"),
        (b"\0\0\0\x1cftypavif\0\0\0\0avifmif1", "it holds an AVIF image; convert it to JPEG"),
        (b"II*\0\x08\0\0\0", "it holds a TIFF or raw camera image; convert it to JPEG"),
        (b"MM\0*\0\0\0\x08", "it holds a TIFF or raw camera image; convert it to JPEG"),
        (b"\xff\x0a\xfa\x7f", "it holds a JPEG XL image; convert it to JPEG"),
        (b"\0\0\0 ftypisom", "it holds a video"),
        (
            b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg">',
            "it holds an SVG image; convert it to JPEG",
        ),
        (b'<?xml version="1.0"?>\n<Error><Code>AccessDenied</Code>', "it holds a web page"),
        (b"%PDF-1.7", "it holds a PDF document"),
        (b"\xff\xd8\xffgarbage", "its content is none of them"),
    ],
)
def test_other_content_is_named(tmp_path, content, note):
    file = tmp_path / "IMG_0001.jpg"
    file.write_bytes(content)
    with pytest.raises(BadRecord) as caught, open_image(str(file)):
        pass
    assert str(caught.value).endswith(f"expected JPEG or PNG or GIF or WEBP or BMP; {note}")
