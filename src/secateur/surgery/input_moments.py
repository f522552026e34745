"""Second moments of what a Linear reads and writes, over the real tokens of some batches.

Least squares needs no more of the tokens than these sums: `compensation` refits a Linear by them, and the method OBS
ranks units by them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from secateur.structure.encoded_rows import UNLABELLED
from secateur.system.errors import UserError

Batch: TypeAlias = Mapping[str, Tensor]
"""The inputs of one forward, as a collator makes them."""

DECODER = "decoder"
"""The part of a module's path that tells that it is in the decoder of an encoder-decoder."""


@dataclass
class Moments:
    """Sums over tokens in float64: of inputs x `(into,)`, of targets y `(out,)`, and of their products.

    Attributes:
        count: of tokens.
        x, y: the sums of inputs and of targets.
        xx, yx, yy: of `x x^T` `(into, into)`, of `y x^T` `(out, into)`, and of the squares of targets `(out,)`.
    """

    count: int
    x: Tensor
    y: Tensor
    xx: Tensor
    yx: Tensor
    yy: Tensor

    @classmethod
    def empty(cls, into: int, out: int, device: torch.device | str = "cpu") -> Moments:
        """Sums over no tokens."""
        zeros = partial(torch.zeros, dtype=torch.double, device=device)
        return cls(0, zeros(into), zeros(out), zeros(into, into), zeros(out, into), zeros(out))

    def add(self, inputs: Tensor, targets: Tensor) -> None:
        """Add tokens, `(tokens, into)` and `(tokens, out)`.

        Products are those of values less their mean, in float32 at least, because of values far from 0 a covariance is
        a small difference of large sums. Float64, in which the sums are, would take twice as long on a CPU.
        """
        if not len(inputs):
            return
        (x, around_x, rest_x), (y, around_y, rest_y) = _centred(inputs), _centred(targets)
        count = len(inputs)
        self.count += count
        self.x += count * x + rest_x
        self.y += count * y + rest_y
        self.xx += (around_x.T @ around_x).double() + torch.outer(count * x + rest_x, x) + torch.outer(x, rest_x)
        self.yx += (around_y.T @ around_x).double() + torch.outer(count * y + rest_y, x) + torch.outer(y, rest_x)
        self.yy += around_y.square().sum(0, dtype=torch.double) + (count * y + 2 * rest_y) * y

    def check(self, path: str) -> None:
        """Refuse sums that are not finite.

        Raises:
            UserError: the Linear at `path` has read or written such values.
        """
        if not bool((self.xx.diagonal().sum() + self.yy.sum()).isfinite()):
            raise UserError(f"{path} reads or writes values that are not finite: use the model in fp32, or repair it")

    def covariance(self, *, centred: bool) -> tuple[Tensor, Tensor]:
        """Of inputs with inputs `(into, into)`, and of targets with inputs `(out, into)`; around 0 unless `centred`."""
        count = max(1, self.count)
        xx, yx = self.xx / count, self.yx / count
        if not centred:
            return xx, yx
        x, y = self.x / count, self.y / count
        return xx - torch.outer(x, x), yx - torch.outer(y, x)

    def variance(self) -> Tensor:
        """`()`: of the targets, summed over their entries."""
        count = max(1, self.count)
        return (self.yy / count - (self.y / count).square()).sum()

    def error(self, weight: Tensor, bias: Tensor | None) -> Tensor:
        """`()`: the mean squared error of `W x + b` as the target, summed over entries; W `(out, into)` in float64."""
        count = max(1, self.count)
        xx, yx = self.xx / count, self.yx / count
        squares = self.yy.sum() / count - 2 * (weight * yx).sum() + (weight @ xx * weight).sum()
        if bias is None:
            return squares.clamp(min=0)
        offset = (self.y - weight @ self.x) / count
        return (squares - 2 * (bias.double() * offset).sum() + bias.double().square().sum()).clamp(min=0)


def _centred(values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The mean of values `(tokens, dims)` as it can be subtracted, the values less it, and the sum of these.

    The first and the last, `(dims,)`, are in float64.
    """
    values = values.to(torch.promote_types(values.dtype, torch.float32))
    mean = values.mean(0)
    around = values - mean
    return mean.double(), around, around.sum(0, dtype=torch.double)


@contextmanager
def reading(modules: Mapping[str, nn.Module], use: Callable[[str, Tensor, Tensor], None]) -> Iterator[None]:
    """Inside, `use(name, inputs, outputs)` is called with what each Linear reads and writes, with all dimensions."""
    handles = [
        module.register_forward_hook(lambda _, args, output, name=name: use(name, args[0].detach(), output.detach()))
        for name, module in modules.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def real_tokens(values: Tensor, batch: Batch, path: str) -> Tensor:
    """`(tokens, dims)`: the tokens of `(batch, tokens, dims)` that are no padding; all of a batch without a mask.

    In a decoder they are tokens of the target. Keys and values of cross-attention, which read the source there, are
    not asked for.

    Args:
        path: of the Linear that reads or writes the values.
    """
    mask = _target_mask(batch) if DECODER in path.split(".") else batch.get("attention_mask")
    if mask is not None and mask.shape == values.shape[:-1]:
        return values[mask.to(values.device).bool()]
    return values.flatten(0, -2)


def _target_mask(batch: Batch) -> Tensor | None:
    """`(batch, tokens)`: which tokens of the target are no padding, if the batch says so."""
    mask, labels = batch.get("decoder_attention_mask"), batch.get("labels")
    if mask is None and labels is not None and labels.dim() == 2:
        return labels != UNLABELLED
    return mask


def on_device(batch: Batch, model: PreTrainedModel) -> dict[str, Any]:
    """The tensors of a batch on the model's device."""
    return {name: value.to(model.device) for name, value in batch.items()}


@torch.no_grad()
def outputs_at(model: PreTrainedModel, batch: Batch, paths: Sequence[str]) -> dict[str, Tensor]:
    """Path -> `(tokens, out)`: what some Linears write."""
    found: dict[str, Tensor] = {}

    def use(path: str, inputs: Tensor, outputs: Tensor) -> None:
        found[path] = real_tokens(outputs, batch, path)

    with reading({path: model.get_submodule(path) for path in paths}, use):
        model(**on_device(batch, model))
    return found


@torch.no_grad()
def second_moments(model: PreTrainedModel, paths: Sequence[str], batches: Iterable[Batch]) -> dict[str, Moments]:
    """The moments of what Linears read and write, by their paths, over all batches."""
    modules = {path: model.get_submodule(path) for path in paths}
    found: dict[str, Moments] = {}
    for batch in batches:

        def use(path: str, inputs: Tensor, outputs: Tensor, batch: Batch = batch) -> None:
            tokens, targets = real_tokens(inputs, batch, path), real_tokens(outputs, batch, path)
            if path not in found:
                found[path] = Moments.empty(tokens.shape[-1], targets.shape[-1], tokens.device)
            found[path].add(tokens, targets)

        with reading(modules, use):
            model(**on_device(batch, model))
    return found
