"""Folders of images as they are in the world: of all kinds, and broken in all ways. Small, the same every time."""

from __future__ import annotations

import io
import os
import random
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image


def scene(width: int = 48, height: int = 40, seed: int = 0) -> Image.Image:
    """Smooth colours with some grain, another for each seed."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(np.int16)
    return Image.fromarray((smooth + rng.integers(-9, 10, smooth.shape)).clip(0, 255).astype(np.uint8))


def encoded(image: Image.Image, form: str, **options: object) -> bytes:
    """The bytes of an image file."""
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


def chunk(name: bytes, content: bytes) -> bytes:
    """One of a PNG's."""
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(width: int, height: int, depth: int, kind: int, rows: bytes) -> bytes:
    """A PNG of any kind that the format knows."""
    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")


def formats(seed: int = 0) -> dict[str, bytes]:
    """One picture in every format that is read, by file name."""
    image = scene(seed=seed)
    exif = Image.Exif()
    exif[0x0112] = 6
    return {
        "rgb.jpg": encoded(image, "JPEG"),
        "progressive.jpeg": encoded(image, "JPEG", progressive=True),
        "turned.jpg": encoded(image, "JPEG", exif=exif),
        "grey.jpg": encoded(image.convert("L"), "JPEG"),
        "cmyk.jpg": encoded(image.convert("CMYK"), "JPEG"),
        "rgb.png": encoded(image, "PNG"),
        "turned.png": encoded(image, "PNG", exif=exif),
        "palette.png": encoded(image.quantize(64), "PNG"),
        "transparent_palette.png": encoded(image.quantize(64), "PNG", transparency=bytes(range(64))),
        "grey_alpha.png": encoded(image.convert("LA"), "PNG"),
        "rgba.webp": encoded(image.convert("RGBA"), "WEBP", lossless=True),
        "rgb.webp": encoded(image, "WEBP"),
        "one_bit.png": encoded(image.convert("1"), "PNG"),
        "deep.png": encoded(Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257), "PNG"),
        "deep_rgb.png": png(2, 2, 16, 2, (b"\0" + bytes(range(12))) * 2),
        "deep.tiff": encoded(Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257), "TIFF"),
        "float.tif": encoded(Image.fromarray(np.asarray(image.convert("L")).astype(np.float32) / 255), "TIFF"),
        "rgb.tif": encoded(image, "TIFF", compression="tiff_lzw"),
        "jpeg.tif": encoded(image, "TIFF", compression="jpeg"),
        "animated.gif": encoded(image, "GIF", save_all=True, append_images=[scene(seed=seed + 1)]),
        "animated.webp": encoded(image, "WEBP", save_all=True, append_images=[scene(seed=seed + 1)]),
        "rgb.bmp": encoded(image, "BMP"),
        "rgb.ppm": encoded(image, "PPM"),
        "grey.pgm": encoded(image.convert("L"), "PPM"),
        "dot.png": encoded(scene(1, 1), "PNG"),
        "line.png": encoded(scene(1, 2000), "PNG"),
        "row.jpg": encoded(scene(2000, 1), "JPEG"),
        "named wrongly.jpg": encoded(image, "PNG"),
        "Zürich ☃.JPG": encoded(image, "JPEG"),
    }


def broken(seed: int = 0) -> dict[str, bytes]:
    """What has an image's name and is none that can be used, by file name."""
    image = scene(seed=seed)
    whole = {"jpg": encoded(image, "JPEG"), "png": encoded(image, "PNG"), "webp": encoded(image, "WEBP")}
    whole |= {"gif": encoded(image, "GIF"), "bmp": encoded(image, "BMP"), "tif": encoded(image, "TIFF")}
    nan = Image.fromarray(np.full((8, 8), np.nan, np.float32))
    return {f"cut.{ending}": content[: len(content) // 2] for ending, content in whole.items()} | {
        "head.jpg": whole["jpg"][:20],
        "empty.jpg": b"",
        "text.jpg": b"<html><body>404 Not Found</body></html>",
        "zeros.png": bytes(500),
        "archive.jpg": b"PK\x03\x04" + bytes(100),
        "postscript.jpg": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(touch executed) system\n",
        "long.tif": whole["tif"].replace(struct.pack("<HHII", 257, 4, 1, 40), struct.pack("<HHII", 257, 4, 1, 80)),
        "bomb.png": png(30000, 30000, 1, 0, bytes(1000)),
        "flipped.png": whole["png"][:60] + bytes(b ^ 255 for b in whole["png"][60:90]) + whole["png"][90:],
        "nan.tif": encoded(nan, "TIFF"),
    }


def damaged(seed: int, n: int) -> Iterator[tuple[str, bytes]]:
    """Images of all formats with flipped bits, cut off, with holes, or with parts of each other, at random places."""
    draws = random.Random(seed)
    sound = list(formats(seed).items())
    for i in range(n):
        name, content = draws.choice(sound)
        data = bytearray(content)
        for _ in range(draws.choice((1, 1, 2, 8, 64))):
            match draws.randrange(5):
                case 0 if len(data) > 1:
                    del data[draws.randrange(1, len(data)) :]
                case 1 if data:
                    start = draws.randrange(len(data))
                    del data[start : start + draws.randrange(1, 200)]
                case 2:
                    other = draws.choice(sound)[1]
                    start = draws.randrange(len(other))
                    at = draws.randrange(len(data) + 1)
                    data[at:at] = other[start : start + draws.randrange(1, 100)]
                case _ if data:
                    # Half of them at the beginning: that is where the lengths and sizes are.
                    at = draws.randrange(min(len(data), draws.choice((64, len(data)))))
                    data[at] ^= 1 << draws.randrange(8)
        yield f"{i:05d}-{name}", bytes(data)


def make_folder(root: Path, per_class: int = 6, classes: tuple[str, ...] = ("ant", "bee"), side: int = 48) -> Path:
    """A sound image folder: no two images alike."""
    seed = 0
    for split in ("train", "val"):
        for name in classes:
            place = root / split / name
            place.mkdir(parents=True)
            for i in range(per_class):
                seed += 1
                (place / f"{i}.jpg").write_bytes(encoded(scene(side, side - 8, seed), "JPEG"))
    return root


def write(folder: Path, files: dict[str, bytes]) -> Path:
    """Writes files into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def odd_entries(folder: Path) -> None:
    """What is in folders beside images: hidden files, links, pipes, other files, names that are no text."""
    write(folder, {".DS_Store": b"x", "._0.jpg": b"x", "Thumbs.db": b"x", "readme.txt": b"x"})
    (folder / ".hidden").mkdir()
    (folder / ".hidden" / "x.jpg").write_bytes(b"x")
    os.symlink(folder / "nothing", folder / "dangling.jpg")
    os.symlink(folder, folder / "circle")
    os.symlink("itself", folder / "itself")
    os.mkfifo(folder / "pipe.jpg")
    (folder / "folder.jpg").mkdir()
    with open(os.fsencode(folder) + b"/caf\xe9.jpg", "wb") as file:
        file.write(encoded(scene(seed=99), "JPEG"))
