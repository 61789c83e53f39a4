"""The first bytes of files: what other content is, and whether a JPEG can be decoded in little memory."""

from __future__ import annotations

import re

JPEG_START = b"\xff\xd8\xff"
START_OF_SCAN = 0xDA
STREAMED_FRAMES = (0xC0, 0xC1)  # JPEG's start-of-frame markers of baseline and extended sequential coding
NO_FRAMES = (0xC4, 0xC8, 0xCC)  # markers between those of frames
OTHER_CONTENT = {  # the first bytes of what is often given, and its name
    rb"\s*(<\?xml[^>]*>\s*)?<svg": "an SVG image",
    rb"\s*<(!doctype|html|head|body|\?xml)": "a web page",
    rb".{4}ftyp(hei[cmsx]|hev[cmsx]|mif1|msf1)": "an HEIC image",
    rb".{4}ftypavi[fs]": "an AVIF image",
    rb".{4}ftyp": "a video",
    rb"(II\*\0|MM\0\*|II\+\0|MM\0\+)": "a TIFF or raw camera image",
    rb"(\xff\x0a|\0\0\0\x0cJXL )": "a JPEG XL image",
    rb"(\xff\x4f\xff\x51|\0\0\0\x0cjP  )": "a JPEG 2000 image",
    rb"8BPS": "a Photoshop image",
    rb"%PDF": "a PDF document",
}


def content_note(content: bytes, formats: tuple[str, ...]) -> str:
    """Describe content that is in none of the accepted formats."""
    for pattern, name in OTHER_CONTENT.items():
        if re.match(pattern, content[:4096], re.IGNORECASE | re.DOTALL):
            return f"it holds {name}{f'; convert it to {formats[0]}' if name.endswith('image') else ''}"
    return "its content is none of them"


def is_streamed_jpeg(content: bytes) -> bool:
    """Return True for a JPEG that is decoded row by row; others keep the coefficients of all pixels in memory.

    These are progressive JPEGs, and those with a scan for each colour.
    """
    frame, components, place = 0, 0, 2
    while place + 9 < len(content) and content[place] == 0xFF:
        marker, length = content[place + 1], int.from_bytes(content[place + 2 : place + 4], "big")
        if marker == 0xFF:  # a fill byte
            place += 1
            continue
        if marker == START_OF_SCAN:
            return frame in STREAMED_FRAMES and content[place + 4] == components
        if 0xC0 <= marker <= 0xCF and marker not in NO_FRAMES:
            frame, components = marker, content[place + 9]
        place += 2 + length
    return False
