"""Heads and masks in the layout that the fused attention kernels of a device need.

Kernels on GPUs load 16 bytes at a time: rows of query, key and value begin at multiples of 16 bytes, and so do rows of
an additive mask. PyTorch chooses a kernel by other rules, and the kernel then fails ("query is not correctly aligned").
Heads of odd widths, and slices of one product for several buckets, are therefore copied to aligned memory there, padded
with zeros. Kernels on CPUs need the same width for query, key and value. Zero dims change no score and no context.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

MASK_MULTIPLE = 16
"""PyTorch copies a mask whose rows do not begin at multiples of this number of elements."""


@dataclass(frozen=True)
class KernelRules:
    """What the attention kernels of a device need.

    Attributes:
        one_width: whether query, key and value of a head must have the same width.
        multiple: of which widths, strides and offsets must be multiples, in elements: 8 of bf16 and fp16 are 16 bytes.
    """

    one_width: bool
    multiple: int

    def width(self, *widths: int) -> int:
        """The width of a head as it is passed to the kernel, for a part whose width is the first of these."""
        return -(-(max(widths) if self.one_width else widths[0]) // self.multiple) * self.multiple

    def aligned(self, widths: Iterable[int]) -> bool:
        """Whether heads of these widths begin at multiples, stored one after the other."""
        return all(width % self.multiple == 0 for width in widths)


ANY = KernelRules(one_width=False, multiple=1)
CPU = KernelRules(one_width=True, multiple=1)
CUDA = KernelRules(one_width=True, multiple=8)


def rules_for(device: torch.device, training: bool) -> KernelRules:
    """The rules of a device; on a CPU, training uses unfused attention, and compilers and exporters have their own."""
    if device.type == "cuda":
        return CUDA
    return ANY if training or recorded() else CPU


def reliable_kernels(device: torch.device) -> AbstractContextManager[Any]:
    """Within the block, attention on an NVIDIA GPU does not use the kernels of cuDNN, which PyTorch prefers on Hopper.

    Their backward pass under a mask fails with "misaligned address" (seen with PyTorch 2.11 on an H200, in dense and in
    cut models), or returns NaN for some lengths (pytorch/pytorch#196678). Compilers and exporters choose kernels
    themselves.
    """
    if device.type != "cuda" or recorded():
        return nullcontext()
    return sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH])


def recorded() -> bool:
    """Whether a compiler or an exporter records the computation, which they then optimise themselves."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()


def heads_of(parts: Sequence[Tensor], heads: Sequence[int], rules: KernelRules, aligned: bool) -> list[Tensor]:
    """Query, key and value of a bucket as kernels take them, `(batch, heads, tokens, width)` each.

    Args:
        parts: `(batch, tokens, heads x width)` each.
        heads: of each.
        aligned: whether `parts` begin at multiples, as slices of tensors whose heads all do.
    """
    shaped = [part.view(part.shape[0], part.shape[1], n, -1) for part, n in zip(parts, heads, strict=True)]
    widths = [part.shape[-1] for part in shaped]
    return [_padded(part, rules.width(part.shape[-1], *widths), aligned).transpose(1, 2) for part in shaped]


def _padded(part: Tensor, width: int, aligned: bool) -> Tensor:
    """`(..., width)`: padded with zeros, or copied if it is not aligned."""
    if part.shape[-1] < width:
        return functional.pad(part, (0, width - part.shape[-1]))
    return part if aligned else part.clone(memory_format=torch.contiguous_format)


def aligned_mask(mask: Tensor, rules: KernelRules) -> Tensor:
    """A mask `(..., queries, keys)` whose rows begin at multiples of `MASK_MULTIPLE`, where kernels need that."""
    if rules.multiple == 1 or all(stride % MASK_MULTIPLE == 0 for stride in mask.stride()[:-1]):
        return mask
    keys = mask.shape[-1]
    return functional.pad(mask, (0, -keys % MASK_MULTIPLE or MASK_MULTIPLE))[..., :keys]
