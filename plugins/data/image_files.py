"""Image files of the common formats, read within limits of bytes and pixels, upright."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import ceil

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image
from PIL.JpegImagePlugin import JpegImageFile

from core.files import paths
from plugins.data.bad_records import BadRecord
from plugins.data.image_headers import JPEG_START, content_note, is_streamed_jpeg

FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP")
MAX_BYTES = 2**27  # of a file
MAX_PIXELS = 2**26  # that are decoded; 3 or 4 bytes each
MAX_JPEG_PIXELS = 2**28  # in a file; a JPEG can be decoded at 1/2, 1/4 or 1/8 of its width and height
STRIP_PIXELS = 2**20  # converted to RGB at once
CHUNK_BYTES = 2**24  # bytes read at once
ORIENTATION_FIXES = {  # by EXIF orientation
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def read_bytes(file: str, max_bytes: int) -> bytes:
    """Read a file's content.

    Raises:
        BadRecord: not readable, or more than ``max_bytes``; does not name the file.
    """
    content, left = io.BytesIO(), max_bytes + 1
    try:
        with paths.open(file, "rb") as stream:
            while left and (chunk := stream.read(min(left, CHUNK_BYTES))):
                left -= content.write(chunk)
    except (FileNotFoundError, NotADirectoryError) as err:
        raise BadRecord("missing file", "no such file") from err
    except (OSError, ValueError) as err:
        raise BadRecord("unreadable file", f"cannot be read: {err}") from err
    if not left:
        raise BadRecord("file too large", f"larger than {max_bytes} bytes")
    return content.getvalue()


@contextmanager
def open_image(file: str, formats: tuple[str, ...] = FORMATS) -> Iterator[Image.Image]:
    """Open an image and check its header; decode it inside the ``with`` block.

    Args:
        formats: accepted formats, by Pillow's names.

    Raises:
        BadRecord: not such an image, damaged, or too large; names the file.
    """
    try:
        content = read_bytes(file, MAX_BYTES)
        if not content:
            raise BadRecord("empty file", "it is empty, 0 bytes")
        with _opened(content, formats) as image, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # decoders warn about metadata
            try:
                yield image
            except Exception as err:  # the decoders raise errors of many classes
                raise BadRecord("damaged picture", f"damaged or cut off: {err}") from err
    except BadRecord as err:
        raise BadRecord(err.kind, f"{file}: cannot be used as an image: {err}") from err


def _opened(content: bytes, formats: tuple[str, ...]) -> Image.Image:
    is_jpeg = content.startswith(JPEG_START) and "JPEG" in formats
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns about many pixels; the limits are here
            # directly, because Image.open refuses what can be decoded at a fraction
            image = JpegImageFile(io.BytesIO(content)) if is_jpeg else Image.open(io.BytesIO(content), formats=formats)
    except Image.DecompressionBombError as err:
        raise BadRecord("picture too large", f"more than {MAX_PIXELS} pixels") from err
    except Exception as err:
        raise BadRecord("not a picture", f"expected {' or '.join(formats)}; {content_note(content, formats)}") from err
    pixels, limit, kind = image.width * image.height, MAX_JPEG_PIXELS if is_jpeg else MAX_PIXELS, ""
    if is_jpeg and pixels > MAX_PIXELS and not is_streamed_jpeg(content):
        limit, kind = MAX_PIXELS, " of a progressive JPEG"
    if pixels > limit:
        raise BadRecord("picture too large", f"{image.width} x {image.height} pixels{kind} are more than {limit}")
    return image


@dataclass(frozen=True)
class UprightImage:
    """An image turned by its EXIF orientation."""

    pixels: NDArray[np.uint8]  # (h, w, 3)
    stored_size: tuple[int, int]  # width and height in the file
    orientation: int  # EXIF, 1 to 8: 1 is upright, 5 to 8 swap width and height


def read_upright(file: str, short: int = 0) -> UprightImage:
    """Read an image file and convert it by ``rgb``.

    A JPEG that is reduced a lot is decoded at a smaller size.

    Args:
        short: pixels; an image whose short side is longer is reduced to this. 0: it is not, but a JPEG of more than
            MAX_PIXELS to half its width and height.

    Raises:
        BadRecord: not an image, damaged, or too large; names the file.
    """
    with open_image(file) as image:
        stored_size, size = image.size, _size(image.size, short)
        _draft(image, size)
        return UprightImage(rgb(image, size if short else image.size), stored_size, orientation_of(image))


def read_rgba(file: str, formats: tuple[str, ...]) -> Image.Image:
    """Read an image file as RGBA, upright. A JPEG of more than MAX_PIXELS has half its width and height.

    Raises:
        BadRecord: not such an image, damaged, or too large; names the file.
    """
    with open_image(file, formats) as image:
        _draft(image, image.size)
        return _turn(image.convert("RGBA"), orientation_of(image))


def _draft(image: Image.Image, size: tuple[int, int]) -> None:
    """Have a JPEG decoded at the next size above ``size`` that has at most MAX_PIXELS; others are not changed."""
    if image.width * image.height > MAX_PIXELS:  # at most four times as many
        size = min(size[0], image.width // 2), min(size[1], image.height // 2)
    image.draft(image.mode, size)


def rgb(image: Image.Image, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Convert an image's first frame to 8-bit RGB, (h, w, 3), turned by its EXIF orientation.

    CMYK is converted, 16-bit grey is scaled to 8 bits, transparent pixels are put on white.

    Args:
        size: width and height of the result, before it is turned.
    """
    colours = _rgb(image)
    if colours.size != size:
        colours = colours.resize(size, Image.Resampling.BICUBIC)
    return np.array(_turn(colours, orientation_of(image)))


def shrink(image: Image.Image, short: int) -> NDArray[np.uint8]:
    """Reduce an opened image, (h, w, 3), as ``read_upright`` does; it is not modified."""
    return rgb(image, _size(image.size, short))


def orientation_of(image: Image.Image) -> int:
    """Return an image's EXIF orientation, 1 to 8; 1 if it has none, an invalid one, or damaged EXIF data."""
    try:
        value = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # the parsers raise errors of many classes; the pixels may be good
        return 1
    return value if isinstance(value, int) and value in ORIENTATION_FIXES else 1


def _turn(image: Image.Image, orientation: int) -> Image.Image:
    return image.transpose(ORIENTATION_FIXES[orientation]) if orientation in ORIENTATION_FIXES else image


def _size(stored: tuple[int, int], short: int) -> tuple[int, int]:
    """Compute width and height with a short side of at most ``short``; 0: unchanged."""
    scale = min(1.0, short / min(stored)) if short else 1.0
    return ceil(stored[0] * scale), ceil(stored[1] * scale)


def _rgb(image: Image.Image) -> Image.Image:
    """Convert in strips of rows, so that a large image needs no second copy in another mode."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    image.load()
    converted = Image.new("RGB", image.size)
    rows = max(1, STRIP_PIXELS // image.width)
    for top in range(0, image.height, rows):
        strip = image.crop((0, top, image.width, min(top + rows, image.height)))
        converted.paste(_rgb_strip(strip), (0, top))
    return converted


def _rgb_strip(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16-bit grey
        deep = np.asarray(image).astype(np.float64)  # (h, w)
        return Image.fromarray(np.rint(deep.clip(0, 65535) / 257).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        front = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", front.size, "white"), front).convert("RGB")
    return image.convert("RGB")
