"""Small data sets whose files are damaged, hostile or half there: one clear error, and nothing is executed."""

import functools
import gzip
import http.server
import os
import pickle
import shutil
import struct
import tarfile
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import cell_config
from data_files import TEN, md5, publish, write_cifar, write_fashion, write_idx
from torchvision.datasets import CIFAR10, CIFAR100

from lightning_modules.data import make_data
from zoo import ConvzooError

__all__ = ["publish"]


@functools.cache
def group(name):
    return cell_config(f"data={name}", "data.batch_size=8")["data"]


def read(name, root, **changes):
    module = make_data({**group(name), "root": str(root), **changes})
    module.prepare_data()
    module.setup("fit")
    return module._splits


def refused(name, root, text):
    with pytest.raises(ConvzooError, match=text) as error:
        read(name, root)
    assert "data.download=true" in str(error.value)


@pytest.fixture
def cifar(tmp_path, publish):
    folder = tmp_path / "cifar-10-batches-py"
    write_cifar(tmp_path, folder.name, TEN, "labels", 10)
    publish(CIFAR10, folder)
    return folder


def test_a_cifar_file_that_is_missing_cut_off_or_flipped_is_named(cifar, tmp_path):
    file = cifar / "data_batch_3"
    whole = file.read_bytes()
    for content in (b"", whole[: len(whole) // 2], bytes([whole[0], whole[1] ^ 1]) + whole[2:], b"<html>not found"):
        file.write_bytes(content)
        refused("cifar10", tmp_path, rf"data_batch_3 \({len(content):,} bytes\).*MD5")
    file.unlink()
    refused("cifar10", tmp_path, "data_batch_3 is missing")
    file.mkdir()
    refused("cifar10", tmp_path, "data_batch_3 is missing")


class Evil:
    def __reduce__(self):
        return os.system, ("touch executed",)


ROW = np.zeros((2, 3072), np.uint8)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ({"data": ROW, "labels": Evil()}, "posix.system"),
        (Evil(), "posix.system"),
        ({"data": ROW, "labels": [1, 10]}, "0 to 9"),
        ({"data": ROW, "labels": [1, -1]}, "0 to 9"),
        ({"data": ROW, "labels": [1, 2, 3]}, "2 images and 3 labels"),
        ({"data": ROW[:, :100], "labels": [1, 2]}, "damaged"),
        ({"data": ROW.astype(np.float32), "labels": [1, 2]}, "not bytes"),
        ({"data": ROW.astype(object), "labels": [1, 2]}, "not bytes"),
        ({"labels": [1, 2]}, "damaged"),
        ([1, 2], "damaged"),
        (torch.zeros(2), "torch"),
    ],
)
def test_a_cifar_file_of_the_right_checksum_is_not_trusted_either(cifar, tmp_path, publish, monkeypatch, content, text):
    monkeypatch.chdir(tmp_path)
    (cifar / "data_batch_2").write_bytes(pickle.dumps(content, protocol=4))
    publish(CIFAR10, cifar)
    refused("cifar10", tmp_path, f"data_batch_2.*{text}")
    assert not (tmp_path / "executed").exists()


def test_pickles_of_python_2_are_read(cifar, tmp_path, publish):
    """As the published ones are: protocol 2, with the pixels as a text."""
    before = read("cifar10", tmp_path)
    for file in cifar.glob("*_batch*"):
        content = pickle.loads(file.read_bytes())
        shape, pixels = content["data"].shape, content["data"].tobytes()
        array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01"
        array += b"M" + struct.pack("<H", shape[0]) + b"M" + struct.pack("<H", shape[1]) + b"\x86"
        array += b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
        array += b"T" + struct.pack("<I", len(pixels)) + pixels + b"tb"
        labels = b"](" + b"".join(b"K" + bytes([label]) for label in content["labels"]) + b"e"
        file.write_bytes(b"\x80\x02}(U\x04data" + array + b"U\x06labels" + labels + b"u.")
    publish(CIFAR10, cifar)
    after = read("cifar10", tmp_path)
    assert all(torch.equal(a, b) for old, new in zip(before, after, strict=True) for a, b in zip(old, new, strict=True))


def test_a_fashion_mnist_file_that_is_wrong_is_named(tmp_path):
    raw = write_fashion(tmp_path)
    images, labels = raw / "train-images-idx3-ubyte", raw / "t10k-labels-idx1-ubyte"
    good = images.read_bytes()
    for content, text in (
        (good[:-1], "31,375 bytes.*31,376"),
        (good + b"0", "31,377 bytes.*31,376"),
        (good[:9], "9 bytes"),
        (b"", "IDX"),
        (b"\x1f\x8b" + good, "IDX"),
        (good[:4] + b"\xff" * 12 + good[16:], "31,376 bytes"),
    ):
        images.write_bytes(content)
        refused("fashion_mnist", tmp_path, f"train-images-idx3-ubyte.*{text}")
    write_idx(images, np.zeros((40, 14, 56), np.uint8))
    refused("fashion_mnist", tmp_path, "14×56")
    images.write_bytes(good)
    for values, text in ((np.full(9, 10), "0 to 9"), (np.zeros(8), "9 images and 8 labels")):
        write_idx(labels, values.astype(np.uint8))
        refused("fashion_mnist", tmp_path, f"t10k-labels-idx1-ubyte.*{text}")


def test_a_flipped_bit_in_fashion_mnist_shows_against_its_archive(tmp_path):
    file = write_fashion(tmp_path, packed=True) / "train-images-idx3-ubyte"
    content = bytearray(file.read_bytes())
    content[1000] ^= 4
    file.write_bytes(content)
    refused("fashion_mnist", tmp_path, r"train-images-idx3-ubyte\.gz")


# Downloads


@pytest.fixture
def server(tmp_path, publish, monkeypatch):
    """A loopback server with CIFAR-10's archive. ``broken`` bytes of it are held back at first."""
    source = tmp_path / "source"
    write_cifar(source, "cifar-10-batches-py", TEN, "labels", 10)
    publish(CIFAR10, source / "cifar-10-batches-py")
    archive = tmp_path / "archive.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(source / "cifar-10-batches-py", "cifar-10-batches-py")
    monkeypatch.setattr(CIFAR10, "tgz_md5", md5(archive))
    content, state = archive.read_bytes(), {"broken": 0, "asked": 0}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            state["asked"] += 1
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: len(content) - state["broken"]])

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(CIFAR10, "url", f"http://127.0.0.1:{server.server_port}/cifar-10-python.tar.gz")
        yield state
        server.shutdown()


def test_a_download_is_there_whole_or_not_at_all(server, tmp_path):
    root = tmp_path / "data of mine"
    server["broken"] = 1000
    refused_by = pytest.raises(ConvzooError, match="could not be downloaded")
    with refused_by:
        read("cifar10", root, download=True)
    assert [path.name for path in root.iterdir()] == [".CIFAR10.lock"]
    server["broken"] = 0
    assert len(read("cifar10", root, download=True).test.labels) == 15
    asked = server["asked"]
    read("cifar10", root, download=True)
    assert server["asked"] == asked, "what is there is not fetched again"


def test_a_damaged_data_set_is_replaced_by_a_download_and_kept_if_that_fails(server, tmp_path):
    root = tmp_path / "data"
    read("cifar10", root, download=True)
    file = root / "cifar-10-batches-py" / "data_batch_5"
    file.write_bytes(file.read_bytes()[:-5])
    server["broken"] = 1
    with pytest.raises(ConvzooError, match="could not be downloaded"):
        read("cifar10", root, download=True)
    assert (root / "cifar-10-batches-py" / "data_batch_1").exists()
    server["broken"] = 0
    assert len(read("cifar10", root, download=True).test.labels) == 15


def test_an_archive_that_is_there_already_needs_no_server(server, tmp_path):
    root = tmp_path / "data"
    root.mkdir()
    (tmp_path / "archive.tar.gz").rename(root / "cifar-10-python.tar.gz")
    assert len(read("cifar10", root, download=True).test.labels) == 15
    assert server["asked"] == 0
    assert (root / "cifar-10-python.tar.gz").exists()


def test_a_download_that_was_killed_leaves_nothing_that_counts(server, tmp_path):
    root = tmp_path / "data"
    part = root / ".CIFAR10.part"
    part.mkdir(parents=True)
    (part / "cifar-10-python.tar.gz").write_bytes(b"half")
    refused("cifar10", root, "is missing")
    assert len(read("cifar10", root, download=True).test.labels) == 15 and not part.exists()


# Files as their publishers ship them

HUNDRED = {"train": 50, "test": 7}


def the_same(a, b):
    return all(torch.equal(x, y) for old, new in zip(a, b, strict=True) for x, y in zip(old, new, strict=True))


def pack(folder):
    for file in folder.iterdir():
        if file.suffix != ".gz":
            Path(f"{file}.gz").write_bytes(gzip.compress(file.read_bytes()))
            file.unlink()


@pytest.mark.parametrize("packed", [True, False, "mixed"])
@pytest.mark.parametrize("place", [".", "FashionMNIST/raw", "raw", "fashion-mnist", "data/fashion"])
def test_fashion_mnist_is_read_where_it_lies_packed_or_not(tmp_path, place, packed):
    raw = write_fashion(tmp_path / "usual")
    usual = read("fashion_mnist", tmp_path / "usual")
    root = tmp_path / "other"
    shutil.copytree(raw, root / place)
    if packed:
        pack(root / place)
    if packed == "mixed":
        shutil.copy(raw / "t10k-labels-idx1-ubyte", root / place)
    files = sorted(root.rglob("*"))
    assert the_same(usual, read("fashion_mnist", root, download=True))
    assert files == sorted(root.rglob("*"))  # nothing is unpacked or locked there


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda content: content[:-9], r"is cut off"),
        (lambda content: b"", "cut off"),
        (lambda content: content[:-6] + b"\0" + content[-5:], "is damaged"),
        (lambda content: content[:30] + bytes(20) + content[50:], "is damaged"),
        (lambda content: b"<html>404</html>", "is damaged"),
    ],
)
def test_a_packed_file_that_is_wrong_is_named(tmp_path, change, text):
    raw = write_fashion(tmp_path)
    pack(raw)
    file = raw / "train-images-idx3-ubyte.gz"
    file.write_bytes(change(file.read_bytes()))
    refused("fashion_mnist", tmp_path, f"train-images-idx3-ubyte.gz .*{text}")


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
@pytest.mark.parametrize("form", ["folder", "direct", "tar.gz", "tar", "named"])
def test_cifar_is_read_where_it_lies_packed_or_not(tmp_path, publish, name, form):
    kind, files, key, classes = (
        (CIFAR10, TEN, "labels", 10) if name == "cifar10" else (CIFAR100, HUNDRED, "fine_labels", 100)
    )
    root, source = tmp_path / "root", tmp_path / "source"
    write_cifar(source, kind.base_folder, files, key, classes)
    publish(kind, source / kind.base_folder)
    usual = read(name, source)
    root.mkdir()
    if form == "direct":
        shutil.copytree(source / kind.base_folder, root, dirs_exist_ok=True)
    elif form.startswith("tar"):
        with tarfile.open(root / kind.filename.removesuffix("" if form == "tar.gz" else ".gz"), "w:gz") as archive:
            archive.add(source / kind.base_folder, kind.base_folder)
        (root / "train").mkdir()  # a folder of something else
    else:
        shutil.copytree(source, root / ("" if form == "folder" else kind.__name__), dirs_exist_ok=True)
    assert the_same(usual, read(name, root))
    if form == "tar.gz":
        archive = root / kind.filename
        archive.write_bytes(archive.read_bytes()[:-2000])
        refused(name, root, f"{kind.filename} .*cut off")
