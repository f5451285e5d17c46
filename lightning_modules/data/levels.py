"""From the numbers in an image to 256 levels of brightness: which number is black, and which is white.

Eight bits a channel say it themselves. Everything else is decided by its type and its values, by the same rule for
each image, and never stretched to the darkest and brightest pixel: images would not be comparable any more.

- 16 bits without sign: 0 to 65535, unless all are below 256: then 0 to 255.
- Other integers: 0 to 255 or 0 to 65535, the smaller one that holds them.
- Floating point: 0 to 1, 0 to 255 or 0 to 65535, the smallest that holds them. Resampling overshoots: what is beyond
  the range by up to 5 % of it is cut off.

Refused: numbers that are negative or above, and numbers that would fill less than a sixteenth of such a range (0 to
4000, say, which may be 12 bits or anything else). A range that the type gives, that of 0 to 1, and integers from 0 to
255 may be as dark as they like.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from lightning_modules.data.files import BadImage

BYTE, WORD = 255, 65535
OVERSHOOT = 0.05
LEAST = 1 / 16
"""A range that is not given by the type has to be used to this share."""


def to_bytes(image: Image.Image, form: str | None) -> Image.Image:
    """An image of 256 levels: a grey one of mode I or F as the module says, any other as it is.

    Args:
        form: The file's format.

    Raises:
        BadImage: Nothing says which numbers are black and white.
    """
    if image.mode == "F":
        return Image.fromarray(_from_floats(np.asarray(image)))
    if image.mode.startswith("I"):
        # In these formats grey has 16 bits at most; Pillow gives some of it out as 32.
        is_word = image.mode.startswith("I;16") or form in ("PNG", "PPM")
        return Image.fromarray(_from_integers(np.asarray(image), is_word))
    return image


def check_upper_bits(image: Image.Image, raw_mode: str) -> None:
    """Refuses colours of 16 bits of which Pillow, which reads the upper eight, sees nothing.

    Args:
        image: Decoded.
        raw_mode: How Pillow read the file, such as ``RGB;16L``.
    """
    in_eight = ";16" in raw_mode and image.mode[0] not in "IF"
    if in_eight and np.max(image.convert("RGB").getextrema()) == 0:
        raise BadImage("unknown range", "16 bits a channel, and all values are below 256. Save it with 8 bits")


def _from_integers(values: np.ndarray, is_word: bool) -> np.ndarray:
    low, high = int(values.min()), int(values.max())
    if low >= 0 and high <= BYTE:
        return values.astype(np.uint8)
    if low >= 0 and high <= WORD and (is_word or high >= LEAST * WORD):
        # Without floating point: of a large image that would be gigabytes.
        return (values >> 8).astype(np.uint8)
    raise _unknown(f"whole numbers from {low} to {high}")


def _from_floats(values: np.ndarray) -> np.ndarray:
    low, high = float(values.min()), float(values.max())
    if not np.isfinite((low, high)).all():
        raise ValueError("pixels that are not numbers")
    for white in (1, BYTE, WORD):
        if -OVERSHOOT * white <= low and high <= (1 + OVERSHOOT) * white:
            if white > 1 and high < LEAST * white:
                break
            return (values.clip(0, white) * (BYTE / white)).round().astype(np.uint8)
    raise _unknown(f"floating point from {low:g} to {high:g}")


def _unknown(what: str) -> BadImage:
    return BadImage(
        "unknown range", f"{what}: which is black and which is white? Save it with 8 or 16 bits, or as 0 to 1"
    )
