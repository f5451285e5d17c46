"""Exports a network to ONNX or torch.export, with verification."""

from __future__ import annotations

import copy
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import nn

from zoo.deploy.checkpoint import read_checkpoint
from zoo.errors import ConvzooError, choose, need_packages
from zoo.image_size import Size
from zoo.inputs import Run, try_inputs

Forward = Callable[[torch.Tensor], torch.Tensor]

SUFFIXES = {"onnx": ".onnx", "torch": ".pt2"}
TOLERANCES = {"onnx": 1e-4, "torch": 1e-6}
"""Format → allowed difference of a logit from the eager network's, as a share of the largest logit. torch.export keeps
the operators, so the same kernels run; ONNX Runtime has its own kernels, which add in another order."""
CHECKED_BATCHES = (1, 3)
"""Batch sizes that are checked. They differ from the traced one, to detect a batch dimension that is not dynamic."""
TRACED_BATCH = 2


def export(
    net: nn.Module | str | os.PathLike[str],
    path: str | os.PathLike[str] | None = None,
    image_size: Size | None = None,
    format: str = "onnx",
    in_chans: int | None = None,
) -> Path:
    """Writes a network to a file that needs neither convzoo nor timm: any batch size, float32, eval mode.

    The file is loaded again and compared with the eager network on random images before it gets its name.

    Args:
        net: A network that maps (N, C, H, W) to one tensor, or the checkpoint of a run. It is not changed.
        path: File to write; None for the checkpoint's name with ``.onnx`` or ``.pt2``.
        image_size: H = W, or (H, W). A checkpoint contains its own.
        in_chans: Number of image channels; None to try likely ones. A checkpoint contains its own.
        format: ``onnx`` (input ``images``, output ``logits``), or ``torch``: `torch.export.load` reads it.

    Returns:
        The file's path.

    Raises:
        ConvzooError: An optional package is missing, the network cannot be exported, or the outputs differ by more
            than `TOLERANCES` allows. No file is left behind.
    """
    choose("format", format, SUFFIXES)
    if format == "onnx":
        need_packages("export", "onnx", "onnxscript", "onnxruntime")
    if not isinstance(net, nn.Module):
        trained = read_checkpoint(net)
        image_size, in_chans = image_size or trained.image_size, in_chans or trained.in_chans
        path = path or Path(net).with_suffix(SUFFIXES[format])
        net = trained.net
    if image_size is None:
        raise ConvzooError("the image size is not known. Give image_size=N (--image-size N on the command line).")
    if path is None:
        raise ConvzooError(f"where to? Give path=FILE{SUFFIXES[format]}.")
    net = copy.deepcopy(net).cpu().float().eval()
    images = torch.zeros(TRACED_BATCH, *_image_shape(net, image_size, in_chans))
    write = _write_onnx if format == "onnx" else torch.export.save
    return _checked(net, images, Path(path), format, lambda file: write(capture(net, images), file))


def _image_shape(net: nn.Module, image_size: Size, in_chans: int | None) -> tuple[int, ...]:
    """Returns (C, H, W) of an image that the network accepts.

    Raises:
        UnfitError: It accepts no image of that size.
    """

    def attempt(run: Run) -> tuple[int, ...]:
        with torch.no_grad():
            run()
        return tuple(run.args[0].shape[1:])

    return try_inputs(net, attempt, image_size, in_chans)


def capture(net: nn.Module, images: torch.Tensor) -> torch.export.ExportedProgram:
    """Traces a network into a graph of ATen operators, for any batch size.

    Args:
        net: A network in eval mode.
        images: (N, C, H, W) with N ≥ 2, since a batch size of one would become a constant.

    Raises:
        ConvzooError: torch.export cannot trace the network.
    """
    try:
        with torch.no_grad():
            return torch.export.export(net, (images,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    except Exception as error:  # torch.export has no common base class for what it raises
        raise _refused(net, "torch.export cannot trace it", error) from error


def _write_onnx(program: torch.export.ExportedProgram, path: Path) -> None:
    torch.onnx.export(
        program, f=path, input_names=["images"], output_names=["logits"], external_data=False, verbose=False
    )


def _read(path: Path, format: str) -> Forward:
    if format == "torch":
        return torch.export.load(path).module()
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])


def _checked(net: nn.Module, images: torch.Tensor, path: Path, format: str, write: Callable[[Path], None]) -> Path:
    """Writes to a temporary folder, reads the file back, compares, and only then gives the file its name."""
    if not path.parent.is_dir():
        raise ConvzooError(f"{path.parent} is not a folder: {path.name} cannot be written there.")
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".export-") as folder:
        file = Path(folder) / path.with_suffix(SUFFIXES[format]).name
        try:
            write(file)
            forward = _read(file, format)
            difference = max_difference(net, forward, images.shape[1:])
        except ConvzooError:
            raise
        except Exception as error:  # the exporters and ONNX Runtime have no common base class either
            raise _refused(net, f"format={format} cannot express it", error) from error
        if not difference <= TOLERANCES[format]:
            raise ConvzooError(
                f"the exported network's logits differ from the eager one's by {difference:.1e} of the largest; "
                f"{TOLERANCES[format]:.0e} is allowed. Nothing was written. "
                f"Try format={'torch' if format == 'onnx' else 'onnx'}."
            )
        file.replace(path)
    return path


def max_difference(net: Forward, other: Forward, image_shape: Sequence[int]) -> float:
    """Returns the largest difference of two networks' logits on random images, as a share of the largest logit.

    Both receive standard-normal batches of the sizes in `CHECKED_BATCHES`. The result is NaN if a logit is not finite
    or the shapes differ.
    """
    generator, worst = torch.Generator().manual_seed(0), 0.0
    for n in CHECKED_BATCHES:
        images = torch.randn(n, *image_shape, generator=generator)
        with torch.no_grad():
            expected, got = net(images), other(images)
        if expected.shape != got.shape or not (expected.isfinite().all() and got.isfinite().all()):
            return float("nan")
        scale = expected.abs().max().clamp(min=torch.finfo(torch.float32).tiny)
        worst = max(worst, ((expected - got).abs().max() / scale).item())
    return worst


def _refused(net: nn.Module, what: str, error: Exception) -> ConvzooError:
    reason = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return ConvzooError(f"{type(net).__name__} cannot be exported: {what} ({type(error).__name__}: {reason})")
