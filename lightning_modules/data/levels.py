"""Convert an image's values to 256 levels of brightness, deciding which value is black and which is white.

With eight bits per channel this is given. For everything else, type and values decide, by the same rule for every
image. Values are never stretched to the darkest and brightest pixel, because images would no longer be comparable.

- Unsigned 16 bits: 0 to 65535, or 0 to 255 if all values are below 256.
- Other integers: 0 to 255 or 0 to 65535, the smaller one that holds all values.
- Floating point: 0 to 1, 0 to 255 or 0 to 65535, the smallest that holds all values. Resampling overshoots, so values
  beyond the range by up to 5 % of it are clipped.

Rejected are values that are negative or above these ranges, and values that would fill less than a sixteenth of the
range (0 to 4000, for example, which may be 12 bits or anything else). An image may be arbitrarily dark if its range is
given by the type, is 0 to 1, or is 0 to 255 with integers.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from lightning_modules.data.files import BadImage

BYTE, WORD = 255, 65535
OVERSHOOT = 0.05
LEAST = 1 / 16
"""Minimum fraction of a range that the values must fill if the type does not give the range."""


def to_bytes(image: Image.Image, form: str | None) -> Image.Image:
    """Convert a grey image of mode I or F to 256 levels by this module's rules; return any other as it is.

    Args:
        image: The image.
        form: The file's format.

    Raises:
        BadImage: Black and white cannot be determined.
        ValueError: A floating-point image has NaN or infinite values.
    """
    if image.mode == "F":
        return Image.fromarray(_from_floats(np.asarray(image)))
    if image.mode.startswith("I"):
        # In these formats grey has at most 16 bits, but Pillow returns some of it as 32.
        is_word = image.mode.startswith("I;16") or form in ("PNG", "PPM")
        return Image.fromarray(_from_integers(np.asarray(image), is_word))
    return image


def array_to_bytes(values: np.ndarray) -> np.ndarray:
    """Convert an array to 256 levels by this module's rules.

    Raises:
        BadImage: Black and white cannot be determined.
        ValueError: It has NaN, infinite or no numbers.
    """
    if values.dtype == bool:
        return values.astype(np.uint8) * BYTE
    if values.dtype == np.uint8:
        return values
    if values.dtype.kind == "f":
        return _from_floats(values)
    if values.dtype.kind not in "iu":
        raise ValueError(f"values of {values.dtype}")
    return _from_integers(values, values.dtype == np.uint16)


def check_upper_bits(image: Image.Image, raw_mode: str) -> None:
    """Reject 16-bit colours with all values below 256: Pillow reads only the upper eight bits, and would see black.

    Args:
        image: The decoded image.
        raw_mode: Raw mode in which Pillow read the file, such as ``RGB;16L``.

    Raises:
        BadImage: All values are below 256.
    """
    in_eight = ";16" in raw_mode and image.mode[0] not in "IF"
    if in_eight and np.max(image.convert("RGB").getextrema()) == 0:
        raise BadImage("unknown range", "16 bits per channel, but all values are below 256. Save it with 8 bits")


def _from_integers(values: np.ndarray, is_word: bool) -> np.ndarray:
    low, high = int(values.min()), int(values.max())
    if low >= 0 and high <= BYTE:
        return values.astype(np.uint8)
    if low >= 0 and high <= WORD and (is_word or high >= LEAST * WORD):
        # Stay with integers: floating point would take gigabytes for a large image.
        return (values >> 8).astype(np.uint8)
    raise _unknown(f"integers from {low} to {high}")


def _from_floats(values: np.ndarray) -> np.ndarray:
    low, high = float(values.min()), float(values.max())
    if not np.isfinite((low, high)).all():
        raise ValueError("pixels that are NaN or infinite")
    for white in (1, BYTE, WORD):
        if -OVERSHOOT * white <= low and high <= (1 + OVERSHOOT) * white:
            if white > 1 and high < LEAST * white:
                break
            return (values.clip(0, white) * (BYTE / white)).round().astype(np.uint8)
    raise _unknown(f"floating point from {low:g} to {high:g}")


def _unknown(what: str) -> BadImage:
    return BadImage("unknown range", f"{what}: black and white are ambiguous. Save it with 8 or 16 bits, or as 0 to 1")
