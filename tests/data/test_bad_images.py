"""Image folders as they are in the world: what is read, what is told at start, what a run does about bad images."""

import contextlib
import errno
import functools
import json
import os
import signal
import subprocess
import sys
import threading
import time
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import torch
from broken_images import broken, damaged, encoded, formats, make_folder, odd_entries, scene, write
from conftest import ROOT, cell_config
from PIL import Image
from torchvision.datasets import ImageFolder

from lightning_modules import run_cell
from lightning_modules.data import check, files, make_data
from lightning_modules.data.bad_images import FILE, BadImages, TooManyBadImages
from lightning_modules.data.crop import central
from lightning_modules.data.decode import decode
from lightning_modules.data.files import BadImage, read, shown
from lightning_modules.data.layout import scan
from lightning_modules.data.split import DANGLING, HIDDEN, NO_BYTES, NO_FILE, overview
from lightning_modules.data.workers import WatchedImages, WatchedLoader, WorkerDied
from zoo import ConvzooError
from zoo.__main__ import main as zoo_command
from zoo.image_size import ImageSize

SOUND, BROKEN = formats(), broken()
LATER = float("inf")


# One image


@pytest.mark.parametrize("name", SOUND)
def test_every_kind_of_image_is_read(name):
    pixels = decode(SOUND[name])
    assert pixels.dtype == torch.uint8 and pixels.shape[2] == 3
    assert central(pixels, ImageSize(24, 24), 0.95).shape == (24, 24, 3)
    if min(pixels.shape[:2]) < 8 or name in ("one_bit.png", "palette.png"):
        return
    image = scene().transpose(Image.Transpose.ROTATE_270) if name.startswith("turned") else scene()
    expected = np.asarray(image.convert("L").convert("RGB") if np.ptp(pixels, axis=2).max() == 0 else image)
    if "palette" not in name and "gif" not in name:
        assert np.abs(pixels.numpy().astype(int) - expected).mean() < 6


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_no_image_is_bad_and_says_why(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path, {name: BROKEN[name]}) / name
    with pytest.raises(BadImage) as bad:
        decode(read(str(path), LATER))
    kind = {
        "empty.jpg": "empty file",
        "bomb.png": "too large",
        "flipped.png": "damaged",
        "nan.tif": "damaged",
        "long.tif": "damaged",
    }
    expected = kind.get(name, "cut off" if name.startswith("cut") else "not an image")
    assert bad.value.kind in (expected, "damaged" if expected == "cut off" else expected)
    assert "0x" not in str(bad.value) and not (tmp_path / "executed").exists()


def test_exif_data_that_make_no_sense_do_not_cost_an_image():
    for exif in (b"Exif\0\0garbage", b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x63\0\0\0\0\0\0"):
        assert decode(encoded(scene(), "JPEG", exif=exif)).shape == (40, 48, 3)


def test_floating_point_from_0_to_1_and_from_0_to_255_are_the_same_image():
    grey = np.asarray(scene().convert("L"))
    for factor in (1, 1 / 255):
        tiff = encoded(Image.fromarray((grey * factor).astype(np.float32)), "TIFF")
        assert np.array_equal(decode(tiff)[..., 0], grey)


def test_a_very_long_image_does_not_become_a_gigantic_one(monkeypatch):
    sizes = []
    original = torch.nn.functional.interpolate

    def interpolate(image, size, **options):
        sizes.append(size[0] * size[1])
        return original(image, size, **options)

    monkeypatch.setattr("torchvision.transforms.v2.functional._geometry.interpolate", interpolate)
    rows = torch.arange(5000, dtype=torch.uint8)[:, None, None].expand(5000, 1, 3).contiguous()
    middle = central(rows, ImageSize(64, 64), 1.0)
    assert middle.shape == (64, 64, 3) and max(sizes) <= 8 * 64 * 64
    assert (middle.float().mean(1)[:, 0] - rows[2499:2501].float().mean()).abs().max() < 2


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ENOENT])
def test_a_file_that_comes_back_is_read(tmp_path, monkeypatch, number):
    path, attempts = write(tmp_path, {"x": b"content"}) / "x", []

    def flaky(*arguments, **options):
        attempts.append(1)
        if len(attempts) < 3:
            raise OSError(number, os.strerror(number))
        return open(*arguments, **options)

    monkeypatch.setattr(files, "open", flaky, raising=False)
    monkeypatch.setattr(files, "PAUSES_S", (0.01, 0.01, 0.01))
    assert read(str(path), LATER) == b"content" and len(attempts) == 3


def test_a_file_that_stays_away_costs_a_batch_seconds_not_hours(tmp_path, monkeypatch):
    start = time.monotonic()
    with pytest.raises(BadImage) as bad:
        read(str(tmp_path / "gone"), start + 0.2)
    assert bad.value.kind == "cannot be read" and time.monotonic() - start >= 0.1
    threading.Timer(0.05, lambda: write(tmp_path, {"late": b"here"})).start()
    assert read(str(tmp_path / "late"), LATER) == b"here"


# A folder, without opening a file


def test_images_are_listed_as_torchvision_lists_them(tmp_path):
    root = make_folder(tmp_path, per_class=3)
    for place in ("b/c", "b", "B", "a.b", "é"):
        write(root / "train" / "ant" / place, {"z.JPG": b"1", "a.png": b"1", "10.webp": b"1"})
    assert scan(str(root), "train").images == ImageFolder(root / "train").samples


def test_whatever_is_odd_in_a_folder_is_counted_and_named(tmp_path):
    root = make_folder(tmp_path, per_class=2)
    odd_entries(root / "val" / "ant")
    write(root / "val", {"stray.jpg": b"x"})
    (root / "train" / "ant" / "0.jpg").unlink()
    (root / "train" / "bee" / "1.jpg").write_bytes(b"")
    for path in (root / "val" / "bee").iterdir():
        path.unlink()
    for name in (".ipynb_checkpoints", ".hidden", "__MACOSX"):
        write(root / "train" / name / "ant", {"0.jpg": b"x"})
    write(root / "val", {".stray.jpg": b"x"})
    train, val = (scan(str(root), name) for name in ("train", "val"))
    found = {
        what: sorted(shown(os.path.relpath(p, root)) for split in (train, val) for p in split.odd.get(what, ()))
        for what in train.odd | val.odd
    }
    assert found == {
        "class with one image": ["train/ant"],
        NO_BYTES: ["train/bee/1.jpg"],
        "class without an image": ["val/bee"],
        "outside of a class folder, skipped": ["val/stray.jpg"],
        HIDDEN: [
            "train/.hidden",
            "train/.ipynb_checkpoints",
            "train/__MACOSX",
            "val/.stray.jpg",
            "val/ant/.DS_Store",
            "val/ant/._0.jpg",
            "val/ant/.hidden",
        ],
        "another extension, skipped": ["val/ant/Thumbs.db", "val/ant/itself", "val/ant/readme.txt"],
        DANGLING: ["val/ant/dangling.jpg"],
        "link to a folder around it, skipped": ["val/ant/circle"],
        NO_FILE: ["val/ant/pipe.jpg"],
    }
    assert [os.path.basename(path) for path, _ in val.images] == ["0.jpg", "1.jpg", "caf\udce9.jpg", "dangling.jpg"]
    text = overview([train, val])
    assert text.startswith("2 classes of images: train 3 (1 to 2 a class), val 4; test: val")
    assert all(what in text for what in found)
    text.encode()  # any terminal takes it


def test_folders_that_cannot_be_a_data_set_are_refused(tmp_path):
    def refused(text, name="train"):
        with pytest.raises(ConvzooError, match=text) as error:
            scan(str(root), name)
        assert f"{root}/{name}" in str(error.value)

    root = make_folder(tmp_path, per_class=1)
    (root / "train" / "cow").mkdir()
    refused("1 classes.*: cow")
    write(root / "train" / "cow", {"1.heic": b"1"})
    refused(": cow")
    refused("Missing: cow", "val")
    (root / "val" / "ant").rename(root / "val" / "ante")
    refused("Missing: ant, cow. Not in train: ante.", "val")
    for split, form in (("train", "NFC"), ("val", "NFD")):
        for name in os.listdir(root / split):
            os.rename(root / split / name, root / split / unicodedata.normalize(form, f"é{len(name) > 3}{name[0]}"))
    write(root / "train" / unicodedata.normalize("NFC", "éFalsec"), {"1.jpg": b"1"})
    (root / "val" / unicodedata.normalize("NFD", "éFalsec")).mkdir()
    for name in os.listdir(root / "val"):
        os.rename(root / "val" / name, root / "val" / name.replace("True", "False"))
    refused("Unicode", "val")
    for name in os.listdir(root / "val"):
        for path in (root / "val" / name).iterdir():
            path.unlink()
        os.rename(root / "val" / name, root / "val" / unicodedata.normalize("NFC", name))
    refused(r"\.jpg", "val")


# All images, before training


@functools.cache
def group():
    return cell_config("data=imagefolder", "data.root=x", "data.batch_size=8", "data.workers=0")["data"]


def module(root, **changes):
    return make_data({**group(), "root": str(root), "image_size": 24, **changes})


@pytest.fixture
def mixed(tmp_path):
    """16 good training images of two classes, 4 bad ones; 8 good ones to validate, 3 bad ones."""
    root = make_folder(tmp_path / "images of mine", per_class=8)
    bad = [BROKEN[name] for name in ("cut.jpg", "text.jpg", "empty.jpg", "bomb.png")]
    for i, content in enumerate(bad):
        (root / "train" / "ant" / f"bad{i}.jpg").write_bytes(content)
    for i, content in enumerate(bad[:3]):
        (root / "val" / "bee" / f"0{i}.jpg").write_bytes(content)
    return root


@pytest.mark.parametrize("workers", [0, 2])
def test_the_check_names_everything(tmp_path, capfd, workers):
    root = make_folder(tmp_path / "images", per_class=2)
    write(root / "train" / "ant", SOUND)
    write(root / "train" / "bee", BROKEN)
    write(root / "val" / "bee", {"twin.jpg": (root / "train" / "ant" / "0.jpg").read_bytes()})
    splits = [scan(str(root), name) for name in ("train", "val")]
    bad = BadImages(len(BROKEN), sum(map(len, splits)))
    assert check.check_all(splits, bad, tmp_path, workers) == len(BROKEN)
    assert set(bad.found) == {shown(root / "train" / "bee" / name) for name in BROKEN}
    lines = [line.split("\t") for line in (tmp_path / "data_check.txt").read_text().splitlines()]
    noted = {}
    for what, path, _ in lines:
        noted.setdefault(what, set()).add(os.path.basename(path))
    assert noted["CMYK"] == {"cmyk.jpg"} and noted["rotated by EXIF"] == {"turned.jpg", "turned.png"}
    assert noted["16-bit grey"] == {"deep.png", "deep.tiff"} and noted["floating point"] == {"float.tif"}
    assert noted["smaller than 8 pixels"] == {"dot.png", "line.png", "row.jpg", "deep_rgb.png"}
    assert noted["animated (the first frame is used)"] == {"animated.gif", "animated.webp"}
    assert noted["extension of another format than its content (PNG)"] == {"named wrongly.jpg"}
    assert noted["the same in train and val, as two classes"] == {"twin.jpg"}
    output = capfd.readouterr().out
    assert "bad: not an image" in output and "train/bee/archive.jpg" in output
    with pytest.raises(TooManyBadImages):
        check.check_all(splits, BadImages(3, 100), None, workers)


def test_a_file_that_kills_its_reader_is_named_and_the_others_are_read(tmp_path, monkeypatch, capfd):
    root = make_folder(tmp_path, per_class=12)
    (root / "train" / "bee" / "5.jpg").write_bytes(b"deadly")
    decoder = decode

    def deadly(content, *arguments, **options):
        if content == b"deadly":
            os.kill(os.getpid(), signal.SIGSEGV)
        return decoder(content, *arguments, **options)

    monkeypatch.setattr("lightning_modules.data.check.decode", deadly)
    bad = BadImages(1, 48)
    assert check.check_all([scan(str(root), name) for name in ("train", "val")], bad, None, 2) == 1
    (path, reason), *others = bad.found.items()
    assert path.endswith("train/bee/5.jpg") and "crashes" in reason and not others


def test_the_check_without_training(mixed, capsys):
    def ends(code, text, root):
        assert zoo_command(["data-check", str(root), "--workers", "0"]) == code
        assert text in "".join(capsys.readouterr())

    ends(1, "bad: empty file", mixed)
    ends(2, "error: ", mixed / "train")
    for path in (*mixed.glob("*/*/bad*"), *mixed.glob("*/*/0?.jpg")):
        path.unlink()
    ends(0, "no problems", mixed)


# In the middle of a run


def epoch(root, number=0, split="train", **changes):
    data = module(root, **changes)
    loader = getattr(data, f"{split}_dataloader")()
    loader.batch_sampler.set_epoch(number)
    return list(loader), data.bad.found


def same(a, b):
    return len(a) == len(b) and all(
        torch.equal(x, y) for p, q in zip(a, b, strict=True) for x, y in zip(p, q, strict=True)
    )


def test_bad_images_are_replaced_in_training_whatever_the_processes(mixed):
    alone, found = epoch(mixed, max_bad_images=7)
    assert [len(labels) for _, labels in alone] == [8, 8] and 2 <= len(found) <= 4
    for workers in (1, 2):
        again, found_again = epoch(mixed, max_bad_images=7, workers=workers)
        assert same(again, alone) and found_again == found
    assert not same(epoch(mixed, 1, max_bad_images=7)[0], alone)


def test_bad_images_are_left_out_of_evaluation(mixed):
    batches, found = epoch(mixed, split="val", max_bad_images=7, workers=1)
    good = [os.path.basename(name) for name in found]
    assert sum(len(labels) for _, labels in batches) == 16 and sorted(good) == ["00.jpg", "01.jpg", "02.jpg"]
    for path in mixed.glob("val/bee/0?.jpg"):
        path.unlink()
    assert same(epoch(mixed, split="val")[0], batches)


def test_a_batch_of_bad_images_only_is_no_batch(mixed):
    for path in mixed.glob("val/*/*.jpg"):
        path.write_bytes(b"x")
    with pytest.raises(ConvzooError, match="19 images"):
        epoch(mixed, split="val", max_bad_images=1.0)


@pytest.mark.parametrize(("limit", "allowed"), [(0, 0), (2, 2), (0.001, 1), (0.05, 2)])
def test_too_many_bad_images_are_an_error_that_names_them(mixed, limit, allowed):
    with pytest.raises(
        TooManyBadImages, match=rf"{allowed + 1} of 39 .*max_bad_images={limit} allows {allowed}\."
    ) as error:
        for number in range(3):
            epoch(mixed, number, max_bad_images=limit)
        epoch(mixed, split="val", max_bad_images=limit)
    assert "bad" in str(error.value) and any(reason in str(error.value) for reason in ("cut off", "not an image"))


CELL = ("model=mobilenet", "model.variant=v3_small", "logger=csv", "hardware=cpu", "hardware.threads=1")


def config(root, *overrides):
    folder = ("data=imagefolder", f"data.root='{root}'", "data.batch_size=8", "data.image_size=32")
    return cell_config(*CELL, *folder, "trainer.max_epochs=2", "hardware.plan=fp32", *overrides)


def test_the_check_before_training_ends_a_run_of_too_many_bad_images(mixed, tmp_path):
    with pytest.raises(TooManyBadImages):
        run_cell(config(mixed, "data.max_bad_images=6", "data.check=true"), tmp_path / "run", "a command")
    failed = json.loads((tmp_path / "run" / "result.json").read_text())
    assert failed["status"] == "failed" and "bad0.jpg" in failed["error"] and "traceback" not in failed


def test_a_killed_reader_ends_the_run_which_resumes_and_names_its_bad_images(mixed, tmp_path, monkeypatch, capfd):
    from lightning_modules.checkpoint.last import LastCheckpoint

    def kill(self, trainer, module, images, index):
        if trainer.current_epoch == 1:
            (loader, *_) = [loader for loader in WatchedLoader._all if loader._processes]
            os.kill(loader._processes[0].pid, signal.SIGKILL)
            time.sleep(10)  # until PyTorch says so

    overrides = ("data.max_bad_images=7", "checkpoint.every_s=0")
    with monkeypatch.context() as patch:
        patch.setattr(LastCheckpoint, "on_train_batch_start", kill)
        with pytest.raises(WorkerDied, match=r"data\.workers"):
            run_cell(config(mixed, *overrides, "data.workers=1"), tmp_path / "run", "a command")
    state = torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)["FolderData"]
    module(mixed).load_state_dict(state)
    (mixed / "train" / "ant" / "new.jpg").write_bytes(SOUND["rgb.jpg"])
    with pytest.raises(ConvzooError, match=r"hydra\.run\.dir"):
        module(mixed).load_state_dict(state)
    (mixed / "train" / "ant" / "new.jpg").unlink()
    capfd.readouterr()
    again = run_cell(config(mixed, *overrides), tmp_path / "run", "a command")
    # Training leaves out four images an epoch, which fill no batch.
    assert again["status"] == "completed" and again["metrics"]["data/bad_images"] == 6
    assert again["metrics"]["test/images"] == 16
    listed = dict(line.split("\t") for line in (tmp_path / "run" / FILE).read_text().splitlines())
    assert len(listed) == 6 and listed[str(mixed / "train" / "ant" / "bad2.jpg")] == "empty file"
    output = capfd.readouterr()
    assert "6 bad images" in output.out and "Traceback" not in output.err
    assert "data/bad_images" in (tmp_path / "run" / "metrics.csv").read_text()


def in_session(leader):
    """The processes of a session that have not ended."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            pid, (state, _, _, session, *_) = path.parent.name, path.read_text().rpartition(")")[2].split()
            found += [int(pid)] if int(session) == leader and state != "Z" else []
    return found


def test_a_signal_to_the_readers_too_interrupts(mixed, tmp_path, start):
    """A scheduler's: all processes of a job have it at once."""
    folder = tmp_path / "run"
    words = (*CELL, "data=imagefolder", f"data.root='{mixed}'", "data.batch_size=4", "data.image_size=32")
    words += ("data.max_bad_images=7", "data.workers=1", "hardware.plan=fp32", f"hydra.run.dir={folder}")
    first = start(*words, "trainer.max_epochs=5")
    lines = folder / "epochs.jsonl"
    first.until(lambda: lines.exists() and lines.read_text())
    assert len(in_session(first.pid)) > 2
    os.killpg(first.pid, signal.SIGTERM)
    assert first.wait(60) == 143, first.stdout + first.stderr
    assert not in_session(first.pid) and (folder / "last.ckpt").exists()
    assert json.loads((folder / "result.json").read_text())["status"] == "interrupted"
    assert "killed by signal" not in first.stdout + first.stderr
    second = start(*words, "trainer.max_epochs=5")
    assert second.wait() == 0, second.stdout + second.stderr
    epochs = [json.loads(line)["epoch"] for line in lines.read_text().splitlines()]
    assert epochs == list(range(5)) and not in_session(second.pid)


@pytest.mark.parametrize("how", ["PyTorch", "Python"])
def test_a_stuck_reader_is_ended_all_the_same(how, monkeypatch):
    loader = WatchedLoader(Stuck(["0"]), num_workers=1, batch_sampler=[[0]])
    batches = iter(loader)
    (reader,) = loader._processes
    os.kill(reader.pid, signal.SIGTERM)
    reader.join(0.3)
    assert reader.is_alive()
    monkeypatch.setattr("torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL", 0.5)  # how long PyTorch waits
    # When Python exits, PyTorch still watches it.
    batches._shutdown_workers() if how == "PyTorch" else reader.terminate()
    assert reader.exitcode == -signal.SIGKILL


class Stuck(WatchedImages):
    def __getitems__(self, indices):
        time.sleep(1000)


def _rank(rank, folder):
    torch.distributed.init_process_group("gloo", f"file://{folder}/rendezvous", rank=rank, world_size=2)
    bad = BadImages(3, 100)
    bad.add("/both", "x")
    bad.add(f"/{rank}", "x")
    bad.share(2)
    assert sorted(bad.found) == ["/0", "/1", "/both"]
    bad.add(f"/{rank}", "x")
    try:
        bad.share(2)
        if rank:
            bad.found["/more"] = "x"
        bad.share(2)
    except ConvzooError as error:
        (folder / f"error{rank}").write_text(str(error))
    torch.distributed.destroy_process_group()


def test_the_limit_holds_over_all_ranks(tmp_path):
    torch.multiprocessing.start_processes(_rank, (tmp_path,), 2, start_method="fork")
    assert all("4 of 100 " in (tmp_path / f"error{rank}").read_text() for rank in (0, 1))


# By hand: python -m pytest tests/data/test_bad_images.py -m fault


@pytest.mark.fault
@pytest.mark.parametrize("seed", range(5))
def test_a_run_survives_a_folder_of_damaged_images(seed, tmp_path, clean_env):
    """Flipped bits, cuts, holes and foreign parts at random places in all formats; the run ends right, or refuses."""
    root = make_folder(tmp_path / "images", per_class=10)
    for i, (name, content) in enumerate(damaged(seed, 400)):
        folder = root / ("train" if i % 4 else "val") / ("ant" if i % 2 else "bee")
        (folder / name).write_bytes(content)
    command = [sys.executable, str(ROOT / "train.py"), *CELL, "data=imagefolder", f"data.root={root}"]
    command += [
        "data.batch_size=16",
        "data.image_size=32",
        "trainer.max_epochs=1",
        "data.workers=2",
        "hardware.plan=fp32",
    ]
    for limit, first, code in ((1.0, "false", 0), (1.0, "true", 0), (5, "false", 2), (5, "true", 2)):
        run = tmp_path / f"{limit}-{first}"
        more = [f"data.max_bad_images={limit}", f"data.check={first}", f"hydra.run.dir={run}"]
        ran = subprocess.run([*command, *more], env=clean_env, capture_output=True, text=True, timeout=600)
        assert ran.returncode == code and "Traceback" not in ran.stderr, ran.stderr
        result = json.loads((run / "result.json").read_text())
        assert result["status"] == ("failed" if code else "completed")
        if not code:
            found = (run / FILE).read_text().splitlines()
            assert result["metrics"]["data/bad_images"] == len(found) > 50
