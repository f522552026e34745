"""In which types the weights of a model are written: fewer bytes in a file, from which they are loaded in fp32."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PreTrainedModel

from secateur.surgery.quantisation import quantise_embeddings
from secateur.surgery.word_embeddings import quantised_tables
from secateur.system.errors import UserError

STORED = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""Name of a type of weights in a file -> the type."""


def as_stored(model: PreTrainedModel, *, dtype: str = "fp32", embeddings: str = "fp32") -> PreTrainedModel:
    """The model with the values that a file in these types holds, still in its own type.

    Args:
        dtype: one of `STORED`; the weights of the model are rounded in place.
        embeddings: "int8" for word embeddings in int8, see `quantise_embeddings`.

    Raises:
        UserError: a value is too large for the type, or the word embeddings cannot be quantised.
    """
    if embeddings == "int8" and not quantised_tables(model):
        model = quantise_embeddings(model)
    with torch.no_grad():
        stored = stored_state(model, dtype)
        for name, tensor in model.state_dict().items():
            tensor.copy_(stored[name])
    return model


def stored_state(model: PreTrainedModel, dtype: str) -> dict[str, Tensor]:
    """Name -> each tensor as it is written: floating point numbers in a type, but the scales of int8 rows unchanged.

    Raises:
        UserError: the type is unknown, or a value is too large for it.
    """
    if dtype not in STORED:
        raise UserError(f"expected weights to be stored as one of {', '.join(STORED)}, got {dtype!r}: choose one")
    scales = {f"{path}.scale" for path in quantised_tables(model)}
    written: dict[int, Tensor] = {}  # by address, so that tied weights stay one tensor, which is written once
    state = {}
    for name, tensor in model.state_dict().items():
        if name not in scales and tensor.is_floating_point() and tensor.numel():
            tensor = written.setdefault(tensor.data_ptr(), _cast(name, tensor, dtype))
        state[name] = tensor
    return state


def narrowest_type(model: PreTrainedModel) -> str:
    """The type of `STORED` with the fewest digits in which the weights are written without rounding, else fp32."""
    return next((name for name in ("bf16", "fp16") if _exact_in(model, name)), "fp32")  # fp16 holds most of bf16 too


def _exact_in(model: PreTrainedModel, dtype: str) -> bool:
    scales = {f"{path}.scale" for path in quantised_tables(model)}
    own = [tensor for name, tensor in model.state_dict().items() if name not in scales and tensor.is_floating_point()]
    return all(torch.equal(tensor.to(STORED[dtype]).to(tensor.dtype), tensor) for tensor in own)


def stored_bytes(model: PreTrainedModel, dtype: str) -> int:
    """Bytes of the weights of a model as they are written in a type; a tied weight counts once."""
    written = {tensor.data_ptr(): tensor.nbytes for tensor in stored_state(model, dtype).values()}
    return sum(written.values())


def _cast(name: str, tensor: Tensor, dtype: str) -> Tensor:
    cast = tensor.to(STORED[dtype])
    if bool((cast.isinf() & tensor.isfinite()).any()):
        raise UserError(f"{name} holds values that are too large for {dtype}: store the model as bf16 or fp32")
    return cast
