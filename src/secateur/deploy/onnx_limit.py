"""The limit of ONNX files: protobuf writes no message of 2**31 bytes or more, and the weights are in the message.

ONNX can have weights in a second file, but servers and the hub layout take one. An IR of OpenVINO, which is converted
from a graph with such a second file, and an archive of torch.export have no limit.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from torch import nn

from secateur.deploy.graph import TORCH_DTYPES
from secateur.system.errors import UserError

LIMIT = 2**31
"""Bytes that a file stays below."""
OTHERS = "OpenVINO or PyTorch (a file that ends in .xml or .pt2)"
"""What has no limit, for messages."""


def check_weights(modules: Iterable[nn.Module], dtype: str, *, fold: bool = True, others: str = OTHERS) -> None:
    """Refuse weights that no ONNX file can hold, before they are traced.

    Args:
        modules: those whose weights are in the file, each by itself.
        dtype: of the file; int8 is made of fp32.
        fold: as of `onnx_format.trace`.
        others: what has no limit, for the message.

    Raises:
        UserError: naming their size, and what to choose instead.
    """
    own = list(modules)
    size = weight_bytes(own, dtype, fold=fold)
    if size >= LIMIT:
        raise too_large(size, dtype, halves=weight_bytes(own, "fp16", fold=fold) < LIMIT, others=others)


def weight_bytes(modules: Iterable[nn.Module], dtype: str, *, fold: bool = True) -> int:
    """Bytes of the weights and buffers of modules, each by itself, as they are traced for a file in a dtype.

    A shared one counts once, but for a table that is both looked up and multiplied: that is stored twice if `fold`.
    """
    floats = TORCH_DTYPES[before_quantisation(dtype)].itemsize
    held = {
        (id(tensor), fold and isinstance(module, nn.Embedding)): tensor
        for module in modules
        for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False))
    }
    return sum(one.numel() * (floats if one.is_floating_point() else one.itemsize) for one in held.values())


def before_quantisation(dtype: str) -> str:
    """The dtype in which a graph is traced of which a file in `dtype` is made."""
    return "fp32" if dtype == "int8" else dtype


def check_traced(traced: Path, dtype: str) -> None:
    """Refuse a traced graph that PyTorch wrote with its weights in other files, because it reaches the limit.

    Raises:
        UserError: as `check_weights`.
    """
    import onnx

    weights = onnx.load(traced, load_external_data=False).graph.initializer
    if any(onnx.external_data_helper.uses_external_data(tensor) for tensor in weights):
        size = sum(file.stat().st_size for file in traced.parent.iterdir())
        raise too_large(size, dtype, halves=dtype != "fp16")


def too_large(size: int, dtype: str, *, halves: bool, others: str = OTHERS) -> UserError:
    """The error of weights that an ONNX file cannot hold; `halves` is whether it could in fp16."""
    made = ", of which int8 is made" if dtype == "int8" else ""
    return UserError(
        f"the weights have {size / 1e9:.2f} GB in {before_quantisation(dtype)}{made}, and an ONNX file holds less than "
        f"{LIMIT / 1e9:.2f} GB: take {'fp16, or ' if halves else ''}{others}"
    )
