"""Which image files the installed Pillow can decode: formats and endings."""

from __future__ import annotations

from functools import cache

from PIL import Image, ImageFile, features

FIRST = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "AVIF")
"""Most images are one of these. Tried first: some of the others have no mark by which they are known."""

LEFT_OUT = ("EPS", "MPEG")
"""For PostScript Pillow starts another program; of a film it reads the header only."""

OPTIONAL = {"JPEG": "jpg", "PNG": "zlib", "JPEG2000": "jpg_2000", "AVIF": "avif", "WEBP": "webp"}
"""What some builds of Pillow cannot do, though they know the ending."""


@cache
def formats() -> tuple[str, ...]:
    """Pillow's names of the formats that it can decode."""
    Image.init()
    known = [name for name in (*FIRST, *sorted(set(Image.OPEN) - set(FIRST))) if name in Image.OPEN]
    return tuple(name for name in known if name not in LEFT_OUT and not _is_stub(name) and _is_built(name))


@cache
def endings() -> tuple[str, ...]:
    """Endings of their files, in small letters."""
    return tuple(sorted({end for name in formats() for end in endings_of(name)}))


@cache
def endings_of(form: str) -> tuple[str, ...]:
    """Endings of a format's files, in small letters."""
    # Pillow opens a JPEG with several pictures as one, and then calls it MPO.
    names = ("JPEG", "MPO") if form in ("JPEG", "MPO") else (form,)
    return tuple(end for end, name in Image.registered_extensions().items() if name in names)


def endings_text() -> str:
    """Some of them, for a message."""
    usual = [end for end in (".jpg", ".png", ".webp", ".avif", ".tif", ".bmp", ".gif", ".jp2") if end in endings()]
    return f"{', '.join(usual)} and {len(endings()) - len(usual)} more that Pillow decodes"


def _is_stub(name: str) -> bool:
    """Whether Pillow reads no more than the header itself."""
    opener = Image.OPEN[name][0]
    return isinstance(opener, type) and issubclass(opener, ImageFile.StubImageFile)


def _is_built(name: str) -> bool:
    return name not in OPTIONAL or bool(features.check(OPTIONAL[name]))
