"""Image files: modes, limits, orientation and errors, on files of a few pixels."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from PIL import Image

from plugins.data import image_files
from plugins.data.bad_records import BadRecord
from plugins.data.image_files import open_image, read_bytes, read_rgba, read_upright, rgb, shrink


def test_bytes_up_to_the_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(image_files, "CHUNK_BYTES", 3)  # several reads
    file = tmp_path / "f"
    file.write_bytes(b"0123456789")
    assert read_bytes(str(file), 10) == b"0123456789"
    with pytest.raises(BadRecord, match="larger than 9 bytes") as caught:
        read_bytes(str(file), 9)
    assert caught.value.kind == "file too large"


@pytest.mark.parametrize(
    ("name", "kind"), [("none", "missing file"), ("f/below", "missing file"), ("", "unreadable file")]
)
def test_files_that_cannot_be_read(tmp_path, name, kind):
    (tmp_path / "f").write_bytes(b"")
    with pytest.raises(BadRecord) as caught:
        read_bytes(str(tmp_path / name), 10)
    assert caught.value.kind == kind


@pytest.mark.parametrize(
    ("content", "kind", "message"),
    [
        (b"", "empty file", "it is empty, 0 bytes"),
        (b"  <!DOCTYPE html>", "not a picture", "expected JPEG or PNG or GIF or WEBP or BMP; it holds a web page"),
        (b"12345", "not a picture", "its content is none of them"),
    ],
)
def test_content_that_is_no_image(tmp_path, content, kind, message):
    file = tmp_path / "a.jpg"
    file.write_bytes(content)
    with pytest.raises(BadRecord) as caught:
        read_upright(str(file))
    assert caught.value.kind == kind
    assert str(caught.value).startswith(f"{file}: cannot be used as an image: ")
    assert str(caught.value).endswith(message)


def test_a_cut_off_file_and_one_with_too_many_pixels(tmp_path, monkeypatch):
    file = tmp_path / "a.png"
    Image.effect_noise((64, 64), 50).save(file)
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BadRecord, match="damaged or cut off"):
        read_upright(str(file))
    file.write_bytes(whole)
    monkeypatch.setattr(image_files, "MAX_PIXELS", 64 * 64 - 1)
    with pytest.raises(BadRecord, match="64 x 64 pixels are more than 4095"):
        read_upright(str(file))


def test_only_the_accepted_formats_are_opened(tmp_path):
    file = str(tmp_path / "a.bmp")
    Image.new("RGB", (2, 3), (1, 2, 3)).save(file)
    with open_image(file) as image:
        assert image.size == (2, 3)
    with pytest.raises(BadRecord, match="expected PNG; its content is none of them"):
        read_rgba(file, ("PNG",))
    assert read_rgba(file, ("BMP",)).getpixel((0, 0)) == (1, 2, 3, 255)


@pytest.mark.parametrize(
    ("image", "colour"),
    [
        (Image.new("L", (2, 2), 7), (7, 7, 7)),
        (Image.new("1", (2, 2), 1), (255, 255, 255)),
        (Image.new("RGBA", (2, 2), (9, 9, 9, 0)), (255, 255, 255)),  # transparent: white
        (Image.new("RGBA", (2, 2), (10, 20, 30, 255)), (10, 20, 30)),
        (Image.new("LA", (2, 2), (0, 0)), (255, 255, 255)),
        (Image.new("CMYK", (2, 2), (0, 0, 0, 255)), (0, 0, 0)),
        (Image.fromarray(np.full((2, 2), 65535, np.uint16)), (255, 255, 255)),
        (Image.fromarray(np.full((2, 2), 257 * 100, np.uint16)), (100, 100, 100)),
    ],
)
def test_every_mode_becomes_rgb(image, colour):
    pixels = rgb(image, (2, 2))
    assert (pixels.shape, pixels.dtype) == ((2, 2, 3), np.uint8)
    assert tuple(pixels[0, 0]) == colour


def test_a_transparent_palette_colour_becomes_white():
    image = Image.new("P", (2, 2), 0)
    image.putpalette([10, 20, 30])
    image.info["transparency"] = 0
    assert tuple(rgb(image, (2, 2))[0, 0]) == (255, 255, 255)


@pytest.mark.parametrize(
    ("short", "size"), [(0, (30, 20)), (20, (30, 20)), (40, (30, 20)), (10, (15, 10)), (7, (11, 7))]
)
def test_the_short_side_is_reduced_and_never_enlarged(tmp_path, short, size):
    file = str(tmp_path / "a.png")
    Image.effect_noise((30, 20), 50).save(file)
    image = read_upright(file, short)
    assert image.pixels.shape == (size[1], size[0], 3)
    assert image.stored_size == (30, 20)
    assert np.array_equal(shrink(Image.open(file), short), image.pixels)


TURNS = {  # by EXIF orientation, of an array (h, w, 3)
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a),
}


@pytest.mark.parametrize("orientation", TURNS)
def test_every_orientation_is_turned_upright(tmp_path, orientation):
    pixels = np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)
    image, exif = Image.fromarray(pixels), Image.Exif()
    exif[0x0112] = orientation
    image.save(tmp_path / "a.png", exif=exif)
    upright = read_upright(str(tmp_path / "a.png"))
    assert np.array_equal(upright.pixels, TURNS[orientation](pixels))
    assert (upright.orientation, upright.stored_size) == (orientation, (6, 4))


@pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP", "MPO"])
@pytest.mark.parametrize("endian", ["<", ">"])
def test_orientation_of_every_format(tmp_path, format_, endian):
    exif, file = Image.Exif(), str(tmp_path / "a")
    exif.endian = endian
    exif[0x0112] = 6
    image, options = Image.new("RGB", (40, 24), "blue"), {"quality": 95} if format_ != "PNG" else {}
    image.paste((255, 0, 0), (0, 0, 20, 24))  # the left half is the top of the upright image
    image.save(file, format_, exif=exif.tobytes(), **options)
    upright = read_upright(file)
    assert (upright.orientation, upright.pixels.shape, upright.stored_size) == (6, (40, 24, 3), (40, 24))
    assert upright.pixels[4, 12, 0] > 200
    assert upright.pixels[36, 12, 0] < 50


DAMAGED = [b"", b"Exif\0\0", b"Exif\0\0II*\0", b"Exif\0\0MM\0*\xff\xff\xff\xff", b"Exif\0\0" + bytes(range(256))]
ENTRY = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01"  # one entry, the orientation; its type, count and value follow


@pytest.mark.parametrize(
    "exif",
    [
        *DAMAGED,
        ENTRY + struct.pack("<HIHH", 3, 1, 0, 0),  # no orientations
        ENTRY + struct.pack("<HIHH", 3, 1, 9, 0),
        ENTRY + struct.pack("<HI4s", 2, 2, b"6\0\0\0"),  # text
        ENTRY + struct.pack("<HIf", 11, 1, 6.5),
        ENTRY + struct.pack("<HII", 5, 1, 0xFFFFFF),  # a fraction beyond the end
        ENTRY + struct.pack("<HIHH", 99, 1, 6, 0),  # no type
    ],
)
@pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP"])
def test_invalid_orientations_and_damaged_exif_change_nothing(tmp_path, exif, format_):
    file = str(tmp_path / "a")
    options = {"exif": exif} if format_ == "JPEG" else {"exif": exif.removeprefix(b"Exif\0\0")}
    Image.new("RGB", (40, 24), "blue").save(file, format_, **options)
    upright = read_upright(file)
    assert (upright.orientation, upright.pixels.shape) == (1, (24, 40, 3))
