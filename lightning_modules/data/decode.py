"""Decode an image file's bytes into pixels, optionally cropped and resized."""

from __future__ import annotations

import io
import math
import warnings
import zlib
from collections.abc import Callable

import torch
from PIL import Image
from torchvision.io import ImageReadMode, decode_jpeg
from torchvision.transforms import v2

from lightning_modules.data.channels import NPY, from_npy, to_channels
from lightning_modules.data.crop import Box
from lightning_modules.data.files import BadImage
from lightning_modules.data.image_formats import formats
from lightning_modules.data.levels import check_upper_bits
from zoo.image_size import ImageSize

# Pillow warns about files that it can read nevertheless, and every worker process would repeat it.
warnings.filterwarnings("ignore", module=r"PIL\.")

ORIENTATION = 0x0112
"""EXIF's orientation tag; with a value in ``TURNED`` the image lies on its side."""
TURNED = (5, 6, 7, 8)
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""Transposition that undoes each orientation."""

BOMB_PIXELS, BOMB_RATIO = 2**24, 2000
"""An image with more pixels than the first, and more per byte of its file than the second, is not a photograph."""


def decode(
    content: bytes,
    box: Callable[[int, int], Box] | None = None,
    size: ImageSize | None = None,
    channels: int = 3,
) -> torch.Tensor:
    """Decode an image, the way it is meant to be seen.

    The image is turned as its EXIF data say and has 256 levels (see `lightning_modules.data.levels`). Transparency is
    dropped unless it is the fourth channel, and of an animation the first frame is used unless frames are the channels.
    With a ``box``, only that part is returned, resized to ``size`` (bilinear, antialiased); a JPEG is then decoded at
    the smallest of its scales (1, 1/2, 1/4, 1/8) at which the part still has that many pixels.

    Args:
        content: The file's content.
        box: Called with the image's height and width; returns the part to use. None: the whole image.
        size: Size of the result; used with ``box``.
        channels: Number of channels (see `lightning_modules.data.channels`).

    Returns:
        uint8 (H, W, channels).

    Raises:
        BadImage: The image cannot be used, for any reason.
    """
    try:
        if content.startswith(NPY):
            pixels = torch.from_numpy(from_npy(content, channels))
            height, width = pixels.shape[:2]
            return _cut(pixels, height, width, box(height, width) if box else None, size)
        return _decode(content, box, size, channels)
    except Image.DecompressionBombError:
        raise BadImage("too large", f"more than {2 * Image.MAX_IMAGE_PIXELS:,} pixels") from None
    except BadImage:
        raise
    except MemoryError:
        raise BadImage("too large", "not enough memory to decode it") from None
    except Image.UnidentifiedImageError:
        raise BadImage("not an image", f"not one of the {len(formats())} formats that Pillow decodes here") from None
    except Exception as error:  # a damaged file can make a decoder raise anything
        text = " ".join(str(error).split())[:200] or type(error).__name__
        raise BadImage("cut off" if "truncated" in text.lower() else "damaged", text) from None


def _decode(
    content: bytes, box: Callable[[int, int], Box] | None, size: ImageSize | None, channels: int
) -> torch.Tensor:
    with open_image(content) as image:
        _check_header(image, len(content))
        raw_mode = _raw_mode(image)  # lost once the image is loaded, and reading a PNG's EXIF data loads it
        orientation = orientation_of(image)
        width, height = image.size[::-1] if orientation in TURNED else image.size
        part = box(height, width) if box else None
        factor = next(
            (f for f in (8, 4, 2) if part and part.height >= f * size.height and part.width >= f * size.width), 1
        )
        # Gives the same pixels as Pillow, 30 % faster.
        pixels = _whole_jpeg(image, content) if factor == 1 and orientation == 1 and channels == 3 else None
        if pixels is None:
            if image.format == "PNG":
                _check_png(content)
            # Scales only JPEGs; other formats are decoded at full size.
            image.draft(None, (image.size[0] // factor, image.size[1] // factor))
            image.load()
            check_upper_bits(image, raw_mode)
            upright = image.transpose(UPRIGHT[orientation]) if orientation in UPRIGHT else image
            pixels = torch.from_numpy(to_channels(upright, image.format, channels))
    return _cut(pixels, height, width, part, size)


def _cut(pixels: torch.Tensor, height: int, width: int, part: Box | None, size: ImageSize | None) -> torch.Tensor:
    """Return a part, given in pixels of the full size (height, width), resized; or everything."""
    if not part:
        return pixels
    down, across = pixels.shape[0] / height, pixels.shape[1] / width
    top, left = int(part.top * down), int(part.left * across)
    bottom, right = math.ceil((part.top + part.height) * down), math.ceil((part.left + part.width) * across)
    image = pixels[top:bottom, left:right].contiguous().permute(2, 0, 1)
    return v2.functional.resize(image, list(size)).permute(1, 2, 0)


def _raw_mode(image: Image.Image) -> str:
    """Return the raw mode in which Pillow will read the pixels, such as ``RGB;16B``."""
    parameters = image.tile[0][3] if image.tile else ""
    parameters = parameters[0] if isinstance(parameters, tuple) and parameters else parameters
    return parameters if isinstance(parameters, str) else ""


def _check_header(image: Image.Image, size: int) -> None:
    """Reject an image whose file is too small for its stated size: decoding it would waste seconds and gigabytes."""
    pixels = image.size[0] * image.size[1]
    if pixels > BOMB_PIXELS and pixels > BOMB_RATIO * size:
        raise BadImage("too large", f"{pixels:,} pixels in {size:,} bytes")
    if image.format == "TIFF":
        parts = [(right - left) * (low - high) for _, (left, high, right, low), *_ in image.tile]
        if sum(parts) < pixels:
            raise ValueError("its strips do not cover the image")


def open_image(content: bytes) -> Image.Image:
    """Read an image's header.

    Raises:
        Exception: Any error that Pillow raises.
    """
    return Image.open(io.BytesIO(content), formats=formats())


def orientation_of(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 to 8; 1 if it is missing or unreadable, since the pixels may still be fine."""
    try:
        found = image.getexif().get(ORIENTATION, 1)
    except Exception:
        return 1
    return found if found in UPRIGHT else 1


def _whole_jpeg(image: Image.Image, content: bytes) -> torch.Tensor | None:
    """Decode an RGB JPEG with torchvision; None: Pillow must decode it."""
    if image.format != "JPEG" or image.mode != "RGB":
        return None
    try:
        # A bytearray, because torch warns about a buffer that is not writable.
        return decode_jpeg(torch.frombuffer(bytearray(content), dtype=torch.uint8), ImageReadMode.RGB).permute(1, 2, 0)
    except RuntimeError:  # torchvision was built without JPEG, or is stricter than Pillow about this file
        return None


def _check_png(content: bytes) -> None:
    """Verify a PNG's checksums; Pillow does not, and would return noise.

    Raises:
        ValueError: A checksum is wrong.
    """
    view, at = memoryview(content), 8
    while at + 12 <= len(view):
        length, name = int.from_bytes(view[at : at + 4], "big"), bytes(view[at + 4 : at + 8])
        end = at + 8 + length
        # A lower-case letter in the name marks a chunk that is not needed here. Pillow itself detects a truncated file.
        sums = zlib.crc32(view[at + 4 : end]), int.from_bytes(view[end : end + 4], "big")
        if name.isupper() and end + 4 <= len(view) and sums[0] != sums[1]:
            raise ValueError(f"the checksum of {name.decode('ascii', 'replace')} is wrong")
        at = end + 4
