"""Writes small data sets in the formats that timm opens; each image has a colour of its own, which is its number."""

import io
import json
import tarfile
from itertools import pairwise

from data_files import write_fashion
from PIL import Image

TRAIN, VAL = 44, 9
"""Numbers of images."""


def picture(number):
    """A PNG of one colour and of a size of its own."""
    file = io.BytesIO()
    Image.new("RGB", (20 + number % 7, 24), (number, number, number)).save(file, "PNG")
    return file.getvalue()


def parts(count, shards):
    """The numbers of the images of each shard: shards differ in length."""
    ends = [0, *(count * (i + 1) // shards - (i + 1) % 2 for i in range(shards - 1)), count]
    return [range(a, b) for a, b in pairwise(ends)]


def write_parquet(root, shards=3):
    import datasets

    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["ant", "bee"])})
    root.mkdir()
    for split, count, files in (("train", TRAIN, shards), ("validation", VAL, 1)):
        for i, numbers in enumerate(parts(count, files)):
            rows = {
                "image": [{"bytes": picture(n), "path": None} for n in numbers],
                "label": [n % 2 for n in numbers],
            }
            part = datasets.Dataset.from_dict(rows, features=features)
            part.to_parquet(str(root / f"{split}-{i:05d}-of-{files:05d}.parquet"))
    return [f"data.source=hfds/{root}", f"data.root={root}-cache"]


def write_stream(root):
    _, cache = write_parquet(root)
    return [f"data.source=hfids/{root}", cache]


def write_shards(root, shards=3, image=picture, label="cls"):
    root.mkdir()
    for split, count, files in (("train", TRAIN, shards), ("val", VAL, 2)):
        for i, numbers in enumerate(parts(count, files)):
            with tarfile.open(root / f"{split}-{i}.tar", "w") as archive:
                for n in numbers:
                    text = json.dumps({"kind": n % 2}) if label == "json" else str(n % 2)
                    for ending, content in (("png", image(n)), (label, text.encode())):
                        entry = tarfile.TarInfo(f"{n:04d}.{ending}")
                        entry.size = len(content)
                        archive.addfile(entry, io.BytesIO(content))
    splits = [f'data.train_split="train-{{0..{shards - 1}}}.tar"', 'data.val_split="val-{0..1}.tar"']
    return ["data.source=wds", f"data.root={root}", *splits]


def write_folders(root):
    for split, count in (("train", TRAIN), ("validation", VAL)):
        for n in range(count):
            folder = root / split / ("ant", "bee")[n % 2]
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{n:03d}.png").write_bytes(picture(n))
    return ["data.source=folder", f"data.root={root}"]


def write_torch(root):
    write_fashion(root)
    return ["data.source=torch/fashion_mnist", f"data.root={root}", "data.val_split=test"]


KINDS = {
    "hfds": write_parquet,
    "hfids": write_stream,
    "wds": write_shards,
    "torch": write_torch,
    "folder": write_folders,
}
