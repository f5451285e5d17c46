"""Images of one, three, four or more channels, from the formats that hold them."""

import io

import numpy as np
import pytest
from conftest import cell_config
from PIL import Image
from tiny_cell import TINY

from lightning_modules import run_cell
from lightning_modules.data import make_data
from lightning_modules.data.decode import decode
from lightning_modules.data.files import BadImage
from zoo import ConvzooError

VALUES = np.random.default_rng(0).integers(0, 256, (9, 7, 5), dtype=np.uint8)


def saved(image, form, **options):
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def npy(values):
    file = io.BytesIO()
    np.save(file, values)
    return file.getvalue()


def pages(values):
    first, *others = (Image.fromarray(page) for page in values)
    return saved(first, "TIFF", save_all=True, append_images=others)


CHANNELS = VALUES.transpose(2, 0, 1).copy()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (saved(Image.fromarray(VALUES[:, :, 0]), "PNG"), VALUES[:, :, :1]),
        (saved(Image.fromarray(VALUES[:, :, :4]), "PNG"), VALUES[:, :, :4]),
        (saved(Image.fromarray(VALUES[:, :, :4]), "TIFF"), VALUES[:, :, :4]),
        (pages(CHANNELS), VALUES),
        (pages(CHANNELS.astype(np.uint16) * 257), VALUES),
        (npy(VALUES), VALUES),
        (npy(CHANNELS), VALUES),
        (npy(VALUES[:, :, 0]), VALUES[:, :, :1]),
        (npy(VALUES / np.float32(255)), VALUES),
        (npy(VALUES.astype(np.uint16) * 257), VALUES),
    ],
)
def test_channels_are_read_as_they_are(content, expected):
    assert (decode(content, channels=expected.shape[2]).numpy() == expected).all()


def test_colour_becomes_grey_and_grey_becomes_colour():
    colour = Image.fromarray(VALUES[:, :, :3])
    assert (decode(saved(colour, "PNG"), channels=1)[:, :, 0].numpy() == np.array(colour.convert("L"))).all()
    assert (decode(saved(colour.convert("L"), "PNG")).numpy() == np.array(colour.convert("L"))[:, :, None]).all()


@pytest.mark.parametrize(
    ("content", "channels", "text"),
    [
        (saved(Image.new("RGB", (9, 9)), "PNG"), 4, r"3 \(RGB\), but data\.in_chans=4"),
        (saved(Image.new("RGB", (9, 9)), "JPEG"), 2, r"3 \(RGB\), but data\.in_chans=2"),
        (npy(VALUES), 4, r"array \(9, 7, 5\), but data\.in_chans=4"),
        (pages(CHANNELS), 6, "5 pages of L, but"),
        (npy(VALUES)[:200], 5, "damaged"),
        (npy(np.array([{}])), 3, "damaged"),
        (npy(VALUES.astype(np.int64) - 9), 5, "unknown range"),
    ],
)
def test_other_channels_are_bad_and_say_so(content, channels, text):
    with pytest.raises(BadImage, match=text):
        decode(content, channels=channels)


@pytest.fixture
def folder(tmp_path):
    for split in ("train", "val"):
        for kind in ("ant", "bee"):
            (tmp_path / split / kind / "deeper").mkdir(parents=True)
            for index in range(8):
                np.save(tmp_path / split / kind / "deeper" / f"{index}.npy", VALUES + np.uint8(index))
    return tmp_path


def test_a_run_of_five_channels(folder, tmp_path):
    words = [f"data.{key}=[{','.join(['0.5'] * 5)}]" for key in ("mean", "std")]
    words = [*TINY, "data=imagefolder", f"data.root={folder}", "data.workers=0", *words]
    assert run_cell(cell_config(*words, "data.in_chans=5"), tmp_path / "run", "a command")["status"] == "completed"
    data = {**cell_config(*words)["data"], "in_chans": 4, "mean": [0.5] * 4, "std": [0.5] * 4}
    with pytest.raises(ConvzooError, match=r"0\.npy: other channels .*data\.in_chans=4.*Type data\.in_chans=N"):
        make_data(data).look()
