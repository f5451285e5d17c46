"""Give an image the number of channels that the network takes: grey, colour, colour and transparency, or any other.

Grey becomes colour and colour becomes grey; nothing else is made up. Four channels are those of an image with
transparency. Other numbers are read from NumPy's files (.npy), and from the grey pages of a TIFF or another format.
"""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageCms

from lightning_modules.data.files import BadImage
from lightning_modules.data.levels import array_to_bytes, to_bytes

OTHER = "other channels"
"""Kind of a `BadImage` whose number of channels is not the network's."""

NPY = b"\x93NUMPY"
"""How a NumPy file begins."""
FOUR = ("RGBA", "RGBX", "RGBa", "LA", "La", "PA")
"""Pillow's modes with three colours, or grey, and a fourth channel."""


def to_channels(image: Image.Image, form: str | None, channels: int) -> np.ndarray:
    """Return the pixels of a decoded image.

    Args:
        image: The image, upright.
        form: The file's format.
        channels: Number of channels.

    Returns:
        uint8 (H, W, channels).

    Raises:
        BadImage: The image has other channels, or its black and white are unknown.
    """
    if channels == 1:
        grey = to_bytes(image, form)
        return np.array(grey if grey.mode == "L" else _rgb(grey).convert("L"))[:, :, None]
    if channels == 3:
        return np.array(_rgb(to_bytes(image, form)))
    if channels == 4 and (image.mode in FOUR or "transparency" in image.info):
        image = image.convert(image.mode.upper()) if image.mode in ("RGBa", "La") else image
        return np.array(image if image.mode in ("RGBA", "RGBX") else image.convert("RGBA"))
    pages = getattr(image, "n_frames", 1)
    if pages != channels or len(image.getbands()) > 1:
        found = f"{pages} pages of {image.mode}" if pages > 1 else f"{len(image.getbands())} ({image.mode})"
        raise _other(found, channels)
    return array_to_bytes(np.stack([_page(image, index) for index in range(pages)], axis=-1))


def from_npy(content: bytes, channels: int) -> np.ndarray:
    """Return the pixels of a NumPy file: (H, W), (H, W, channels) or (channels, H, W), of any type with known levels.

    Returns:
        uint8 (H, W, channels).

    Raises:
        BadImage: The array has another shape, or its black and white are unknown.
        ValueError: The file is damaged.
    """
    values = np.load(io.BytesIO(content), allow_pickle=False)
    if values.ndim == 2:
        values = values[:, :, None]
    if values.ndim == 3 and values.shape[2] != channels == values.shape[0]:
        values = values.transpose(1, 2, 0)
    if values.ndim != 3 or values.shape[2] != channels or not values.size:
        raise _other(f"an array {values.shape}", channels)
    return np.ascontiguousarray(array_to_bytes(values))


def _page(image: Image.Image, index: int) -> np.ndarray:
    image.seek(index)
    return np.asarray(image)


def _other(found: str, channels: int) -> BadImage:
    return BadImage(OTHER, f"{found}, but data.in_chans={channels}")


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "LAB":
        transform = ImageCms.buildTransform(ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), "LAB", "RGB")
        return ImageCms.applyTransform(image, transform)
    if image.mode in ("RGBa", "La"):
        image = image.convert(image.mode.upper())
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image if image.mode == "RGB" else image.convert("RGB")
