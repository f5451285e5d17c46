"""List the image formats that the installed Pillow can decode, and their file name extensions."""

from __future__ import annotations

from functools import cache

from PIL import Image, ImageFile, features

FIRST = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "AVIF")
"""The most common formats, tried first because some of the others have no signature to recognise them by."""

LEFT_OUT = ("EPS", "MPEG")
"""Excluded formats: for PostScript, Pillow starts another program; of a video, it reads only the header."""

NPY_ENDING = ".npy"

OPTIONAL = {"JPEG": "jpg", "PNG": "zlib", "JPEG2000": "jpg_2000", "AVIF": "avif", "WEBP": "webp"}
"""Formats, and the Pillow features they need; some builds lack the feature but still know the extension."""


@cache
def formats() -> tuple[str, ...]:
    """Return Pillow's names of the formats that it can decode."""
    Image.init()
    known = [name for name in (*FIRST, *sorted(set(Image.OPEN) - set(FIRST))) if name in Image.OPEN]
    return tuple(name for name in known if name not in LEFT_OUT and not _is_stub(name) and _is_built(name))


@cache
def endings() -> tuple[str, ...]:
    """Return the file name extensions of all these formats and of NumPy's arrays, in lower case."""
    return tuple(sorted({NPY_ENDING, *(end for name in formats() for end in endings_of(name))}))


@cache
def endings_of(form: str) -> tuple[str, ...]:
    """Return the file name extensions of a format, in lower case."""
    # Pillow opens a JPEG with several pictures as JPEG, but then names its format MPO.
    names = ("JPEG", "MPO") if form in ("JPEG", "MPO") else (form,)
    return tuple(end for end, name in Image.registered_extensions().items() if name in names)


def endings_text() -> str:
    """Describe the extensions, for a message: the common ones, and the number of the others."""
    usual = [end for end in (".jpg", ".png", ".webp", ".avif", ".tif", ".bmp", ".gif", ".jp2") if end in endings()]
    return f"with the extension {', '.join(usual)} or one of {len(endings()) - len(usual)} others that Pillow decodes"


def _is_stub(name: str) -> bool:
    """Whether Pillow itself reads only the header."""
    opener = Image.OPEN[name][0]
    return isinstance(opener, type) and issubclass(opener, ImageFile.StubImageFile)


def _is_built(name: str) -> bool:
    return name not in OPTIONAL or bool(features.check(OPTIONAL[name]))
