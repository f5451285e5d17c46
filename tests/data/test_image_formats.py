"""Images of every format and type that Pillow decodes: the same picture, or a clear reason why not."""

import numpy as np
import pytest
from broken_images import encoded, make_folder, png, scene
from PIL import Image, ImageCms

from lightning_modules.data.channels import to_channels
from lightning_modules.data.decode import decode
from lightning_modules.data.files import BadImage
from lightning_modules.data.image_formats import endings, formats
from lightning_modules.data.layout import scan

GREY = np.asarray(scene().convert("L")).astype(np.int64)


def tiff(values, kind):
    return encoded(Image.fromarray(values.astype(kind)), "TIFF")


def pgm(values, most):
    height, width = values.shape
    return f"P5 {width} {height} {most}\n".encode() + values.astype(">u2").tobytes()


@pytest.mark.parametrize(
    "content",
    [
        tiff(GREY, np.int32),
        tiff(GREY, np.uint16),
        tiff(GREY * 257, np.int32),
        tiff(GREY * 257, np.uint16),
        tiff(GREY * 257, ">u2"),
        encoded(Image.fromarray(GREY.astype(np.uint16)), "PNG"),
        encoded(Image.fromarray((GREY * 257).astype(np.uint16)), "PNG"),
        pgm(GREY * 257, 65535),
        tiff(GREY, np.float32),
        tiff(GREY / 255, np.float32),
        tiff(GREY / 255 * 1.03 - 0.015, np.float32),
        tiff(GREY * 257, np.float32),
    ],
)
def test_grey_of_any_type_is_the_same_image(content):
    assert np.abs(decode(content).numpy().astype(int) - GREY[..., None]).max() <= 5


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (tiff(GREY / 255 * 4000, np.float32), "floating point"),
        (tiff(GREY / 255 * 4000, np.int32), "integers from 360"),
        (tiff(GREY - 128, np.int32), "integers from -"),
        (tiff(GREY * 1000, np.int32), "integers"),
        (tiff(GREY / 255 - 0.5, np.float32), "from -0"),
        (tiff(GREY / 255 * 10, np.float32), "floating point"),
        (tiff(GREY * 1e6, np.float32), "floating point"),
        (png(4, 1, 16, 2, b"\0" + bytes([0, 200] * 12)), "16 bits"),
    ],
)
def test_an_image_whose_white_nobody_knows_is_bad(content, text):
    with pytest.raises(BadImage, match=text) as bad:
        decode(content)
    assert bad.value.kind == "unknown range"


def test_a_dark_image_of_a_known_range_stays_dark():
    most = GREY.max()
    for content, white in (
        (tiff(GREY, np.uint8), most),
        (tiff(GREY * 10, np.uint16), most * 10 / 256),
        (tiff(GREY / 2550, np.float32), most / 10),
        (tiff(GREY // 10, np.int32), most // 10),
    ):
        assert abs(int(decode(content).max()) - white) <= 1


@pytest.mark.parametrize("ending", sorted(set(endings()) & set(Image.registered_extensions())))
def test_what_pillow_can_write_and_read_is_listed_and_decoded(ending, tmp_path):
    form = Image.registered_extensions()[ending]
    if form not in Image.SAVE:
        pytest.skip(f"Pillow writes no {form}")
    root = make_folder(tmp_path, per_class=1)
    file = root / "train" / "ant" / f"x{ending.upper()}"
    for mode in ("RGB", "L", "P", "1", "CMYK"):
        try:
            scene().convert(mode).save(file, form)
            break
        except (OSError, ValueError):
            continue
    else:
        pytest.skip(f"Pillow writes no {form} of this picture")
    assert str(file) in [path for path, _ in scan(str(root), "train").images]
    assert decode(file.read_bytes()).shape[2] == 3


@pytest.mark.parametrize("ending", [".eps", ".ps", ".mpg", ".h5", ".grib", ".pdf", ".heic", ".emf"])
def test_what_needs_another_program_is_no_image(ending):
    assert ending not in endings() and not {"EPS", "MPEG", "HDF5", "WMF"} & set(formats())


@pytest.mark.parametrize("mode", ["LAB", "YCbCr", "CMYK", "PA", "LA", "RGBA", "RGBX", "La", "RGBa", "1", "HSV"])
def test_colours_of_every_kind_are_read(mode):
    image = scene()
    if mode == "LAB":
        profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        image = ImageCms.applyTransform(image, ImageCms.buildTransform(*profiles, "RGB", "LAB"))
    else:
        for step in {"PA": ("P", "PA"), "La": ("LA", "La"), "RGBa": ("RGBA", "RGBa")}.get(mode, (mode,)):
            image = image.convert(step)
    found = to_channels(image, None, 3).astype(int)
    expected = np.asarray(scene().convert("L").convert("RGB") if mode in ("La", "LA") else scene())
    assert mode in ("1", "PA") or np.abs(found - expected).mean() < 12
