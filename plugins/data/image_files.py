"""Image files of the common formats, read within limits of bytes and pixels."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from math import ceil

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from core.files import paths
from plugins.data.bad_records import BadRecord

FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP")
MAX_BYTES, MAX_PIXELS = 32 * 2**20, 2**25  # of a file
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
MARKUP = re.compile(rb"\s*<(!doctype|html|head|body|\?xml)", re.IGNORECASE)


def read_bytes(file: str, max_bytes: int) -> bytes:
    """Read a file's content.

    Raises:
        BadRecord: not readable, or more than ``max_bytes``; does not name the file.
    """
    chunks, left = [], max_bytes + 1
    try:
        with paths.open(file, "rb") as stream:
            while left and (chunk := stream.read(min(left, CHUNK_BYTES))):
                chunks.append(chunk)
                left -= len(chunk)
    except (FileNotFoundError, NotADirectoryError) as err:
        raise BadRecord("missing file", "no such file") from err
    except (OSError, ValueError) as err:
        raise BadRecord("unreadable file", f"cannot be read: {err}") from err
    if not left:
        raise BadRecord("file too large", f"larger than {max_bytes} bytes")
    return b"".join(chunks)


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
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns about many pixels; the limit here is lower
            image = Image.open(io.BytesIO(content), formats=formats)
    except Image.DecompressionBombError as err:
        raise BadRecord("picture too large", f"more than {MAX_PIXELS} pixels") from err
    except Exception as err:
        content_note = "it holds a web page" if MARKUP.match(content) else "its content is none of them"
        raise BadRecord("not a picture", f"expected {' or '.join(formats)}; {content_note}") from err
    if image.width * image.height > MAX_PIXELS:
        raise BadRecord("picture too large", f"{image.width} x {image.height} pixels are more than {MAX_PIXELS}")
    return image


def read_rgba(file: str, formats: tuple[str, ...]) -> Image.Image:
    """Read an image file as RGBA.

    Raises:
        BadRecord: not such an image, damaged, or too large; names the file.
    """
    with open_image(file, formats) as image:
        return image.convert("RGBA")


def read_rgb(file: str, short: int = 0, *, upright: bool = False) -> tuple[NDArray[np.uint8], tuple[int, int]]:
    """Read an image file and convert it by ``rgb``.

    A JPEG that is reduced a lot is decoded at a smaller size.

    Returns:
        (h, w, 3), and the width and height in the file.

    Raises:
        BadRecord: not an image, damaged, or too large; names the file.
    """
    with open_image(file) as image:
        stored = image.size
        size = _size(stored, short)
        image.draft(image.mode, size)  # a JPEG is decoded at the next size above
        return rgb(image, size, upright=upright), stored


def rgb(image: Image.Image, size: tuple[int, int], *, upright: bool = False) -> NDArray[np.uint8]:
    """Convert an image's first frame to 8-bit RGB, (h, w, 3).

    CMYK is converted, 16-bit grey is scaled to 8 bits, transparent pixels are put on white.

    Args:
        size: width and height of the result, before ``upright``.
        upright: apply the EXIF orientation afterwards. Not for annotated images: the boxes of COCO refer to the
            stored pixels.
    """
    converted = _rgb(image)
    if converted.size != size:
        converted = converted.resize(size, Image.Resampling.BICUBIC)
    fix = ORIENTATION_FIXES.get(image.getexif().get(ExifTags.Base.Orientation, 1)) if upright else None
    return np.array(converted if fix is None else converted.transpose(fix))


def shrink(image: Image.Image, short: int) -> NDArray[np.uint8]:
    """Reduce an opened image, (h, w, 3), with the same result as ``read_rgb(upright=True)``; it is not modified."""
    return rgb(image, _size(image.size, short), upright=True)


def _size(stored: tuple[int, int], short: int) -> tuple[int, int]:
    """Compute width and height with a short side of at most ``short``; 0: unchanged."""
    scale = min(1.0, short / min(stored)) if short else 1.0
    return ceil(stored[0] * scale), ceil(stored[1] * scale)


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16-bit grey
        deep = np.asarray(image).astype(np.float64)  # (h, w)
        return Image.fromarray(np.rint(deep.clip(0, 65535) / 257).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        front = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", front.size, "white"), front).convert("RGB")
    return image.convert("RGB")
