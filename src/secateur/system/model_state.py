"""What is changed of a caller's model for a while, and restored afterwards whatever happens; and where weights are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn


@contextmanager
def evaluating(models: Sequence[nn.Module]) -> Iterator[None]:
    """Within the block every module is in evaluation mode; afterwards each has its former mode again."""
    before = [(module, module.training) for model in models for module in model.modules()]
    try:
        for model in models:
            model.eval()
        yield
    finally:
        for module, training in before:
            module.training = training


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """As `evaluating`, and within the block no parameter of the model requires a gradient."""
    before = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    with evaluating([model]):
        try:
            model.requires_grad_(False)
            yield
        finally:
            for parameter, trained in before:
                parameter.requires_grad_(trained)


def without_weights(model: nn.Module) -> bool:
    """Whether a model has shapes alone, as where another process has its weights."""
    return any(parameter.is_meta for parameter in model.parameters())


def device_of(model: nn.Module) -> torch.device:
    """Where the weights of a model are; the CPU for one without weights or without parameters."""
    devices = (parameter.device for parameter in model.parameters() if not parameter.is_meta)
    return next(devices, torch.device("cpu"))


@contextmanager
def on_device(models: Sequence[nn.Module], device: torch.device | None = None) -> Iterator[None]:
    """Within the block every model is on a device; afterwards each is where it was, also if the block moves it.

    Args:
        device: None leaves each model where it is.
    """
    before = [device_of(model) for model in models]
    try:
        for model in models if device is not None else ():
            model.to(device)
        yield
    finally:
        for model, place in zip(models, before, strict=True):
            if not without_weights(model):
                model.to(place)


def in_own_memory(model: nn.Module) -> None:
    """Copy the weights of a loaded model, in place.

    They are parts of one mapped file, whose changed pages stay in memory as long as any of the weights does: those of
    a model that is cut on the way would stay until its end.
    """
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()


def saved_buffers(model: nn.Module) -> dict[str, Tensor]:
    """The buffers that are saved with a model, by their names; `named_parameters` has the rest of what is saved."""
    saved = model.state_dict().keys()
    return {name: buffer for name, buffer in model.named_buffers() if name in saved}


def held_bytes(model: nn.Module) -> int:
    """Bytes of the parameters and buffers of a model as they are in memory; those that share it count once."""
    tensors = {tensor.data_ptr(): tensor.nbytes for tensor in (*model.parameters(), *model.buffers())}
    return sum(tensors.values())
