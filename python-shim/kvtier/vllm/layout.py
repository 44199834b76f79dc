"""Where the pages of a device block lie, derived from the tensors' strides. Unknown layouts are refused.

A device block of a group is one page of each of its layers, in the order of the group's layer names. Pages that follow
one another in every block are joined into one run, so a block-outermost layout costs one copy a block.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kvtier.client import Run

from .groups import Unsupported

if TYPE_CHECKING:
    import torch


def page_runs(tensors: Mapping[str, torch.Tensor], layers: Sequence[str], num_blocks: int) -> list[Run]:
    """The runs of a group. Layers that share one cache are taken once."""
    runs: list[Run] = []
    seen: set[tuple[int, tuple[int, ...]]] = set()
    for layer in layers:
        tensor = tensors.get(layer)
        if tensor is None:
            raise Unsupported(f"layer {layer} has no KV cache tensor")
        if not hasattr(tensor, "stride"):
            raise Unsupported(f"layer {layer} has a KV cache of type {type(tensor).__name__}, want one tensor")
        identity = (tensor.data_ptr(), tuple(tensor.shape))
        if identity not in seen:
            seen.add(identity)
            runs.extend(_layer_runs(layer, tensor, num_blocks))
    return _join(runs)


def page_signature(tensors: Mapping[str, torch.Tensor], layers: Sequence[str]) -> str:
    """Shape, order of dimensions and type of each layer's page: what the bytes of a page mean."""
    parts = []
    for layer in layers:
        tensor = tensors[layer]
        order = sorted(range(tensor.dim()), key=lambda dim: -tensor.stride(dim))
        shape = [size for dim, size in enumerate(tensor.shape) if dim != _block_dim(tensor, None)]
        parts.append(f"{layer}:{shape}:{order}:{tensor.dtype}")
    return ";".join(parts)


def _block_dim(tensor: torch.Tensor, num_blocks: int | None) -> int:
    """0, or 1 where keys and values are outermost as in older versions: (2, blocks, ...)."""
    outer_pair = tensor.dim() == 5 and tensor.shape[0] == 2
    if num_blocks is None:
        return 1 if outer_pair else 0
    if outer_pair and num_blocks == 2:
        raise Unsupported("two blocks or keys and values: the outermost dimension can be read both ways")
    return 1 if outer_pair else 0


def _layer_runs(layer: str, tensor: torch.Tensor, num_blocks: int) -> list[Run]:
    item = tensor.element_size()
    dim = _block_dim(tensor, num_blocks)
    if tensor.dim() < 2 or tensor.shape[dim] % num_blocks:
        raise Unsupported(f"layer {layer}: shape {tuple(tensor.shape)} does not hold {num_blocks} blocks")
    kernel_blocks = tensor.shape[dim] // num_blocks
    inner = [(tensor.stride(d), tensor.shape[d]) for d in range(dim + 1, tensor.dim())]
    dense = _dense_elements(inner)
    if dense is None:
        raise Unsupported(f"layer {layer}: strides {tensor.stride()} of shape {tuple(tensor.shape)} leave gaps")
    stride = tensor.stride(dim)
    if stride < dense or (kernel_blocks > 1 and stride != dense):
        raise Unsupported(f"layer {layer}: a block of {dense} elements every {stride} elements")
    bases = [tensor.data_ptr() + i * tensor.stride(0) * item for i in range(tensor.shape[0])] if dim else None
    return [
        Run(base, stride * kernel_blocks * item, dense * kernel_blocks * item, num_blocks)
        for base in bases or [tensor.data_ptr()]
    ]


def _dense_elements(inner: Sequence[tuple[int, int]]) -> int | None:
    """Elements of a page if its dimensions fill it without gaps, in whatever order."""
    expected = 1
    for stride, size in sorted(pair for pair in inner if pair[1] != 1):
        if stride != expected:
            return None
        expected *= size
    return expected


def _join(runs: list[Run]) -> list[Run]:
    joined: list[Run] = []
    for run in runs:
        last = joined[-1] if joined else None
        if last and last.base + last.page_bytes == run.base and last.stride_bytes == run.stride_bytes:
            joined[-1] = last._replace(page_bytes=last.page_bytes + run.page_bytes)
        else:
            joined.append(run)
    return joined

