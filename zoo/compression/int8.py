"""Quantises a trained network to int8 for x86 CPUs: post-training and static, with torchao's PT2E.

Weights are int8 with a scale per output channel, activations uint8 with a scale and a zero point per tensor, set from
calibration images (Jacob et al. 2018; per-channel weights: Krishnamoorthi 2018, section 3.1). BatchNorm is folded into
the convolution first. ReLU, ReLU6, SiLU and Hardswish are fused into the convolution before them; other activations
run in float between two int8 convolutions.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from torch import nn

from zoo.deploy.export import capture
from zoo.errors import ConvzooError, need_packages
from zoo.places import copy_of


def quantize(net: nn.Module, calibration_batches: Iterable[torch.Tensor]) -> torch.fx.GraphModule:
    """Quantises the convolutions and linear layers of a network to int8.

    The result simulates the int8 kernels in float. It is slow, and meant for checking and for saving (`save`); `lower`
    makes it fast.

    Args:
        net: A trained network that takes (N, C, H, W). It is not changed.
        calibration_batches: Preprocessed images (N, C, H, W), all of one height and width. A few hundred images from
            the training set determine the ranges of the activations.

    Returns:
        A network on the CPU that takes batches of any size at that height and width. `count_layers` counts its int8
        layers, and `float_layers` lists the layers that are not int8.

    Raises:
        ConvzooError: torchao is missing, the CPU is not x86, there is no calibration image, or the network cannot be
            traced or has nothing that the backend quantises.
    """
    _need_backend()
    from torchao.quantization.pt2e import allow_exported_model_train_eval
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

    batches = (batch.cpu().contiguous(memory_format=torch.channels_last) for batch in calibration_batches)
    first = next(batches, None)
    if first is None or not len(first):
        raise ConvzooError("int8 needs calibration images: give at least one batch (N, C, H, W).")
    net = copy_of(net).cpu().eval().to(memory_format=torch.channels_last)
    program = capture(net, first[:1].expand(2, *first.shape[1:]).contiguous(memory_format=torch.channels_last))
    # Without VNNI the sum of two 8-bit products overflows its 16 bits, so the activations get 7 bits.
    config = x86.get_default_x86_inductor_quantization_config(reduce_range=not torch.cpu._is_vnni_supported())
    graph = program.module()
    _tell_calls_apart(graph)
    try:
        prepared = prepare_pt2e(graph, x86.X86InductorQuantizer().set_global(config))
        with torch.no_grad():
            prepared(first)
            for batch in batches:
                prepared(batch)
        quantized = convert_pt2e(prepared)
    except ValueError as error:  # PT2E raises it for a convolution that it does not support
        raise ConvzooError(f"{type(net).__name__} cannot be quantised: {str(error).partition(chr(10))[0]}") from error
    if count_layers(quantized)[0] == 0:
        raise ConvzooError(
            f"{type(net).__name__} has no layer that the x86 backend quantises: plain convolutions and linear layers "
            "whose weights are parameters."
        )
    _drop_unused(quantized)
    allow_exported_model_train_eval(quantized)
    return quantized


def _tell_calls_apart(graph: torch.fx.GraphModule) -> None:
    """Gives each call of a module its own name, since the backend treats calls of one name as one.

    Otherwise it would reject a ReLU that several convolutions share, as in torchvision's networks.
    """
    for node in graph.graph.nodes:
        if stack := node.meta.get("nn_module_stack"):
            node.meta["nn_module_stack"] = {call: (call, kind) for call, (_, kind) in stack.items()}


def count_layers(quantized: torch.fx.GraphModule) -> tuple[int, int]:
    """Returns (int8, all): the numbers of convolutions and linear layers in a network that `quantize` made."""
    layers = list(_layers(quantized))
    return sum(map(_is_int8, layers)), len(layers)


def float_layers(quantized: torch.fx.GraphModule) -> list[str]:
    """Returns the names of the convolutions and linear layers that the backend left in float.

    Layers after TensorFlow's 'same' padding are among them, since that padding is a separate operator.
    """
    return [str(n.args[1].target).removesuffix(".weight") for n in _layers(quantized) if not _is_int8(n)]


def _layers(quantized: torch.fx.GraphModule) -> Iterator[torch.fx.Node]:
    return (n for n in quantized.graph.nodes if str(n.target).startswith(("aten.conv", "aten.linear")))


def _is_int8(layer: torch.fx.Node) -> bool:
    return all("dequantize" in str(read.target) for read in layer.args[:2])


def save(quantized: torch.fx.GraphModule, path: str | os.PathLike[str], image_shape: tuple[int, int, int]) -> None:
    """Writes a quantised network to a file that `lower` reads.

    Args:
        image_shape: (C, H, W) of the calibration images.
    """
    torch.export.save(capture(quantized, torch.zeros(2, *image_shape)), path)


class Lowered(nn.Module):
    """A quantised network on int8 kernels (oneDNN, through torch.compile), for inference only.

    Each batch size is compiled at its first use, so use only a few.
    """

    def __init__(self, quantized: nn.Module) -> None:
        super().__init__()
        # A bound method, not a child module: an exported graph does not support train() and eval().
        self._run = torch.compile(quantized, dynamic=False).__call__

    @torch.no_grad()
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) → logits (N, num_classes)."""
        # Inductor needs constant weights for int8 kernels. As an option of torch.compile, freezing comes too late.
        with torch._inductor.config.patch(freezing=True):
            return self._run(images)


def lower(quantized: nn.Module | str | os.PathLike[str]) -> Lowered:
    """Makes a quantised network fast by running it on int8 kernels.

    A file holds a program, which ``torch.export.load`` unpickles and evaluates: load only files that you trust.

    Args:
        quantized: A network from `quantize`, or a file from `save`.

    Raises:
        ConvzooError: torchao or a C++ compiler is missing, the CPU is not x86, or the file does not exist.
    """
    _need_backend()
    # This import registers the operators in a saved file, and the patterns that int8 kernels replace.
    import torchao.quantization.pt2e.quantizer.x86_inductor_quantizer  # noqa: F401
    from torch._inductor.cpp_builder import get_cpp_compiler

    try:
        get_cpp_compiler()
    except RuntimeError as error:
        raise ConvzooError("int8 kernels are compiled: install a C++ compiler (g++), or name one in CXX.") from error
    if isinstance(quantized, nn.Module):
        return Lowered(quantized)
    if not Path(quantized).is_file():
        raise ConvzooError(f"{quantized} is not a file.")
    return Lowered(torch.export.load(quantized).module())


def _need_backend() -> None:
    need_packages("int8", "torchao")
    if platform.machine().lower() not in ("x86_64", "amd64"):
        raise ConvzooError(f"int8 is for x86 CPUs (AVX2 or later), and this machine is a {platform.machine()}.")


def _drop_unused(graph: torch.fx.GraphModule) -> None:
    """Deletes the float weights: the graph reads only the int8 ones."""
    used = {node.target for node in graph.graph.nodes if node.op == "get_attr"}
    for name, _ in [*graph.named_parameters(), *graph.named_buffers()]:
        if name not in used:
            parent, _, leaf = name.rpartition(".")
            delattr(graph.get_submodule(parent), leaf)
