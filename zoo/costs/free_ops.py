"""Operations without MACs by convention: elementwise, reductions, normalisation, pooling, copies, indexing.

An operation that is neither here nor in `zoo.costs.mac_counter` is unknown, and reported as such by `zoo.cost`.
"""

from __future__ import annotations

import functools
import re
from typing import Any

import torch

TAGS = ("pointwise", "reduction", "nondeterministic_seeded", "inplace_view", "view_copy", "data_dependent_output")
"""torch's tags of operations that multiply no matrices. Older versions of torch have fewer of them."""

FAMILIES = {
    "normalisation": r"\w*(batch|layer|group|instance|rms)_norm\w* native_norm weight_norm_interface renorm",
    "elementwise": r"""\w*softmax\w* glu prelu_kernel gelu mish hardswish threshold log_sigmoid_forward elu softplus
        add_relu floor_divide thnn_fused_(lstm|gru)_cell transform_bias_rescale_qkv native_dropout fused_dropout
        linalg_cross""",
    "pooling": r"\w*(avg|max)_?(un)?pool\w*",
    "padding and resampling": r"""\w*_pad(_?nd|\dd)\w* pad_\w+ upsample_\w+ \w*grid_sampler\w* \w*affine_grid\w* im2col
        col2im unfold\w* (pixel|channel)_(un)?shuffle""",
    "choices": r"""(unsafe_)?(masked_)?index\w* gather scatter\w* \w*select\w* \w*slice\w* take put where sort topk
        (unsafe_)?masked_\w+ kthvalue (nan)?median mode aminmax nonzero\w* unique\w* isin bucketize searchsorted
        bincount hist\w* block_diag diag\w* tri[lu] embedding embedding_renorm segment_reduce trace""",
    "sums": r"(log)?cum\w+ sum_to_size linalg_\w*norm dist pdist_forward \w*_loss\w* binary_cross_entropy\w*",
    "layout": r"""\w*copy\w* clone cat chunk_cat stack repeat\w* roll flip rot90 (unsafe_)?split\w* (unsafe_)?view\w*
        reshape\w* lift\w* (to|from)_\w+ to set resize\w* detach alias contiguous coalesce\w* conj\w* neg_view
        nested_\w* record_stream pin_memory pack_padded_sequence \w*_to_(padded|jagged|dense)\w*
        mkldnn_(reshape|transpose|reorder\w+) cudnn_rnn_flatten_weight""",
    "new tensors": r"\w+_like new_\w+ full fill zero complex sparse_\w*tensor\w* \w+_indices",
    "quantisation": r"""fake_quantize\w* quantize_per\w* dequantize\w* int_repr q_per\w* choose_qparams\w*
        \w*per_(tensor|channel)_(affine_)?quantized\w* fused_moving_avg_obs\w*""",
    "lists of tensors": r"foreach_(?!mm)\w+",
    "questions": r"is_\w+ equal allclose local_scalar_dense (functional_)?assert\w* sym_\w+",
}
"""Regular expressions for names of ATen operations, without leading and trailing underscores."""

_ATEN = re.compile("|".join(" ".join(FAMILIES.values()).split()))

_VISION = {"nms", "roi_align", "roi_pool", "ps_roi_align", "ps_roi_pool"}
"""Operations of torchvision, which select and average."""

_ROOMS = {"quantized_decomposed", "_c10d_functional", "c10d", "c10d_functional", "profiler", "debugprims"}
"""Namespaces without products: (de)quantisation, communication between ranks, and profiling."""


@functools.cache
def is_free(func: Any) -> bool:
    """Returns whether an operator (an overload, or a higher-order one) is known to have no MACs."""
    schema = getattr(func, "_schema", None)
    if schema is None:
        return False
    if any(getattr(torch.Tag, tag, None) in func.tags for tag in TAGS) or func.is_view:
        return True
    written = schema.returns or any(a.alias_info and a.alias_info.is_write for a in schema.arguments)
    if not written or not any("Tensor" in str(part.type) for part in schema.arguments):
        return True  # It writes no tensor, or takes none.
    room, _, name = schema.name.partition("::")
    if room != "aten":
        return room in _ROOMS or (room == "torchvision" and name in _VISION)
    base = name.strip("_")
    # The in-place variant may lack the tag of the functional one.
    twin = getattr(torch.ops.aten, base, None) if name.endswith("_") else None
    overloads = [getattr(twin, o) for o in twin.overloads()] if twin is not None else []
    return bool(_ATEN.fullmatch(base)) or any(torch.Tag.pointwise in o.tags for o in overloads)
