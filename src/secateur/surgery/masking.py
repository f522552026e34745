"""Masks on a running model: activations are multiplied by them, and detaching them restores the model exactly.

Masks are computed once per forward, in a pre-forward hook on the whole model; the hooks at the sites read that tensor,
so that gradient checkpointing recomputes with the same sample. If the encoder of an encoder-decoder is called alone, as
generation does first, they are computed there as well.

The sites of the masks:

- FFN neurons and VO dims: the input of the Linear that reads them;
- QK dims: the output of the query only, because a mask on both query and key would be squared in the scores;
- hidden dims of a table that is read as a whole: its weight;
- sublayer gates and hidden dims: the output of every module that writes to the residual stream;
- hidden dims also: the input of a Linear that shares the weight of the word embeddings, because the mask of a weight
  acts wherever the weight is used;
- tiles: their weight.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import cache, partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from secateur.structure.architecture import Embedding, Linear, Norm, Row
from secateur.structure.axis_table import Parameter
from secateur.structure.space import UnitSpace
from secateur.surgery.compact.kernels import reliable_kernels
from secateur.surgery.kept_indices import select, split_parts
from secateur.system.compat import stored_parameter
from secateur.system.errors import UserError
from secateur.system.model_state import device_of

ATTACHED = "_secateur_attachment"
"""The attribute of a model that holds its `Attachment` while masks are attached."""


class Attachment:
    """Masks that are attached to a model.

    Attributes:
        masks: the `(N,)` tensor of the latest forward: differentiate with respect to it.
        at_sites: the factors at every site, over the whole axis.
        at_modules: the same, over the indices that the modules of a shrunk model still have.
        stored: for a model that is cut while it is trained (`shrinking`): axis -> the indices that its modules still
            have, in storage order, -1 for padding. Axes that are not cut are left out.
        exchanged: modules whose class was exchanged, and their own class.
        running: whether a forward of the whole model is in progress.
    """

    masks: Tensor

    def __init__(self, model: PreTrainedModel, space: UnitSpace, source: Callable[[], Tensor]) -> None:
        self.model, self.space, self.source = model, space, source
        self.at_sites: dict[str, Tensor] = {}
        self.at_modules: dict[str, Tensor] = {}
        self.stored: Mapping[str, Tensor] = {}
        self.exchanged: list[tuple[nn.Module, type[nn.Module]]] = []
        self.handles: list[RemovableHandle] = []
        self.running = False
        self._kernels = ExitStack()
        self.attach()

    def attach(self, stored: Mapping[str, Tensor] | None = None) -> None:
        """Attach the masks, for the first time or again.

        Args:
            stored: the indices that a shrunk model still has, see the attribute.

        Raises:
            UserError: masks are attached already, or the model has a module that cannot be masked.
        """
        if getattr(self.model, ATTACHED, None) is not None:
            raise UserError("masks are attached to this model already: detach them first")
        self.stored = {axis: indices.to(device_of(self.model)) for axis, indices in (stored or {}).items()}
        try:
            setattr(self.model, ATTACHED, self)
            self._hook_model()
            self._hook_sites()
        except BaseException:  # an interrupt too must leave the model as it was
            self.detach()
            raise

    def detach(self) -> None:
        """Detach the masks: the model has its own modules and keys again. Nothing happens if they are not attached."""
        for handle in self.handles:
            handle.remove()
        for module, stock in self.exchanged:
            module.__class__ = stock
            vars(module).pop("site", None)
        self.handles, self.exchanged = [], []
        if getattr(self.model, ATTACHED, None) is self:
            delattr(self.model, ATTACHED)

    def _hook_model(self) -> None:
        self.handles.append(self.model.register_forward_pre_hook(self._begin))
        self.handles.append(self.model.register_forward_hook(self._end, always_call=True))
        if self.model.config.is_encoder_decoder:
            self.handles.append(self.model.get_encoder().register_forward_pre_hook(self._begin_alone))

    def _hook_sites(self) -> None:
        acting = {site for group in self.space.groups for site in group.sites}
        modules = dict(self.model.named_modules())
        for path, rows in self.space.table.modules.items():
            if path in modules:  # a cut attention without heads has no projections
                self._mask_weight(rows, modules[path])
                for row in rows:
                    self._hook_row(row, modules[path], acting)

    def _begin(self, module: nn.Module, args: Any) -> None:
        self.running = True
        self._kernels.enter_context(reliable_kernels(self.model.device))
        self._compute_masks()

    def _end(self, module: nn.Module, args: Any, output: Any) -> None:
        self.running = False
        self._kernels.close()

    def _begin_alone(self, module: nn.Module, args: Any) -> None:
        if not self.running:
            self._compute_masks()

    def _compute_masks(self) -> None:
        masks = self.source()
        if torch.is_grad_enabled() and not masks.requires_grad:
            masks = masks.detach().clone().requires_grad_()
        self.masks = masks
        self.at_sites = self.space.at_sites(masks)
        self.at_modules = self.at_sites | {
            site: self.at_sites[site][indices.clamp(min=0)] * (indices >= 0)
            for site, indices in self.stored.items()
            if site in self.at_sites
        }

    def _hook_row(self, row: Row, module: nn.Module, acting: set[str]) -> None:
        """Mask a module; each hook is noted at once, so that an interrupt finds all of them."""
        if isinstance(row, Norm):
            if {row.axis, row.behind} & acting and not isinstance(module, nn.Identity):  # Identity: already cut
                self._exchange_norm(row, module)
            return
        if isinstance(row, Embedding) and row.whole:
            if row.axis in acting:
                self._exchange(row, module, nn.Embedding, MaskedTable)
            return
        if written := [axis for axis in self._written(row) if axis in acting]:
            multiply = partial(self._multiply_output, written)
            if isinstance(row, Linear) and row.parts > 1:
                multiply = partial(self._multiply_part, row, written)
            self.handles.append(module.register_forward_hook(multiply))
        if isinstance(row, Linear) and row.into in acting and (row.into != "hidden" or row.tied):
            self.handles.append(module.register_forward_pre_hook(partial(self._multiply_input, row.into)))

    def _mask_weight(self, rows: tuple[Row, ...], module: nn.Module) -> None:
        """Exchange the class of a Linear of which a weight is tiled."""
        own = [row for row in rows if isinstance(row, Linear) and not row.tied]
        has_weight = any(name == "weight" for name, _ in module.named_parameters(recurse=False))
        if has_weight and any(self.space.table.weight(row).label in self.space.tiled for row in own):
            self._exchange(rows[0], module, nn.Linear, MaskedLinear)  # without a weight it is already cut

    def _written(self, row: Linear | Embedding) -> list[str]:
        """The sites at a row's output: the residual stream and the sublayer's gate, or QK dims at the query."""
        if isinstance(row, Embedding):
            return [row.axis] if row.axis else []
        if row.out == "hidden":
            return ["hidden", row.behind] if row.behind else ["hidden"]
        if row.out is not None and row.out.endswith(".qk") and row in self.space.table.queries(row.out):
            return [row.out]
        return []

    def _multiply_output(self, axes: list[str], module: nn.Module, args: Any, output: Tensor) -> Tensor:
        for axis in axes:
            output = output * self.at_modules[axis].to(output.dtype)
        return output

    def _multiply_part(self, row: Linear, axes: list[str], module: nn.Module, args: Any, output: Tensor) -> Tensor:
        parts = list(split_parts(self.space.table.tensors[f"{row.path}.weight"], output, self.stored, dim=-1))
        parts[row.part] = self._multiply_output(axes, module, args, parts[row.part])
        return torch.cat(parts, dim=-1)

    def _multiply_input(self, axis: str, module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (args[0] * self.at_modules[axis].to(args[0].dtype), *args[1:])

    def at_weight(self, row: Row, module: nn.Linear) -> tuple[Tensor, Tensor | None]:
        """Weight and bias of a tiled Linear, multiplied by the masks of this forward at the stored indices."""
        masked = {}
        for name, own in module.named_parameters():
            parts = self.space.table.tensors[f"{row.path}.{name}"]
            values = zip(parts, split_parts(parts, own, self.stored), strict=True)
            masked[name] = torch.cat([self._tiled(part, value) for part, value in values])
        return masked["weight"], masked.get("bias")

    def _tiled(self, part: Parameter, value: Tensor) -> Tensor:
        """The stored values of a parameter, or of a part of one, multiplied by the masks of its tiles."""
        factor = self.space.at_parameter(self.masks, part)
        if factor is None:
            return value
        for dim, axis in enumerate(part.axes):
            if axis is not None and axis in self.stored:
                factor = select(factor, dim, self.stored[axis])  # 0 at padding, which must not learn
        return value * factor.to(value.dtype)

    def _exchange_norm(self, row: Norm, module: nn.Module) -> None:
        if row.centred:
            self._exchange(row, module, nn.LayerNorm, MaskedLayerNorm)
        else:
            stock: Any = type(module)  # mypy takes the hash of a module for that of its class
            self._exchange(row, module, stock, _masked_rms_norm(stock))

    def _exchange(self, row: Row, module: nn.Module, stock: type[nn.Module], masked: type[nn.Module]) -> None:
        if type(module) is not stock:
            raise UserError(f"{row.path} is a {type(module).__name__}: only {stock.__name__} can be masked")
        self.exchanged.append((module, stock))  # first, so that an interrupted exchange is undone
        module.site = (self, row)  # type: ignore[assignment]  # mypy does not follow the exchanged class
        module.__class__ = masked


class MaskedLinear(nn.Linear):
    """A Linear whose weight is multiplied by the masks of its tiles, the class of tiled Linears under masks.

    Weights are trained in kept tiles only. The gradient of a tile's mask, `sum(W * dL/dW)` over the tile, exists for
    removed tiles too.
    """

    site: tuple[Attachment, Linear]

    def forward(self, input: Tensor) -> Tensor:
        attachment, row = self.site
        return functional.linear(input, *attachment.at_weight(row, self))


class MaskedTable(nn.Embedding):
    """An embedding whose weight is read as a whole: while the model runs, the weight multiplied by the masks.

    At other times it is the parameter, for all who read the weights of a model under masks.
    """

    site: tuple[Attachment, Embedding]

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        attachment, row = self.site
        own: Tensor = stored_parameter(self, "weight")
        return own * attachment.at_modules[str(row.axis)].to(own.dtype) if attachment.running else own


class _KeptNorm(nn.Module):
    """A norm over the kept dims of the residual stream, or the identity where its sublayer's gate is 0.

    The class of a model's norms while masks are attached; their parameters and keys stay the same. Statistics run over
    the kept dims only, in training too, so that cutting the dims changes nothing (CoFi, specification 1.3).
    """

    site: tuple[Attachment, Norm]

    def forward(self, input: Tensor) -> Tensor:
        attachment, row = self.site
        hidden = attachment.at_sites.get(row.axis) if row.axis else None
        output = super().forward(input) if hidden is None else self._over_kept(input, hidden)
        gate = attachment.at_sites.get(row.behind) if row.behind else None
        return output if gate is None else torch.where(gate == 0, input.to(output.dtype), output)

    def _over_kept(self, input: Tensor, hidden: Tensor) -> Tensor:
        raise NotImplementedError


class MaskedLayerNorm(_KeptNorm, nn.LayerNorm):
    """LayerNorm over the kept dims, with statistics in float32 at least, as PyTorch's own computes them."""

    def _over_kept(self, input: Tensor, hidden: Tensor) -> Tensor:
        wide = _widened(input)
        kept = (hidden != 0).to(wide.dtype)
        count = kept.sum()
        mean = (wide * kept).sum(-1, keepdim=True) / count
        centred = (wide - mean) * kept
        variance = centred.square().sum(-1, keepdim=True) / count
        scaled = centred * torch.rsqrt(variance + self.eps) * self.weight
        output = (scaled if self.bias is None else scaled + self.bias) * hidden
        return output.to(self.weight.dtype)  # that of the stock norm, under autocast too


class MaskedRMSNorm(_KeptNorm):
    """RMSNorm over the kept dims, computed by the model's own class.

    If k of n dims are kept and the others are 0, the mean square over the k dims is the mean square over all n dims of
    the input multiplied by sqrt(n / k).
    """

    def _over_kept(self, input: Tensor, hidden: Tensor) -> Tensor:
        wide, weight = _widened(input), cast(Tensor, self.weight)
        kept = (hidden != 0).to(wide.dtype)
        factor = (len(kept) / kept.sum()).sqrt()
        output = super(_KeptNorm, self).forward(wide * kept * factor) / factor * hidden
        return output.to(weight.dtype)


def _widened(input: Tensor) -> Tensor:
    """In float32 at least: bfloat16 cannot even count the kept dims exactly."""
    return input.to(torch.promote_types(input.dtype, torch.float32))


@cache
def _masked_rms_norm(stock: type[nn.Module]) -> type[nn.Module]:
    return type(f"Masked{stock.__name__}", (MaskedRMSNorm, stock), {})


def attach(model: PreTrainedModel, space: UnitSpace, masks: Callable[[], Tensor] | Tensor) -> Attachment:
    """Attach masks to a model: a fixed `(N,)` tensor, or a callable that returns one per forward (`method.masks`).

    A method is no part of the model: while it trains, its masks may be samples, also after `model.eval()`. For masks
    that do not change call `method.eval()` as well.

    Raises:
        UserError: masks are attached already, or the model has a module that cannot be masked; the model is unchanged.
    """
    return Attachment(model, space, masks if callable(masks) else lambda: masks)


@contextmanager
def attached(model: PreTrainedModel, space: UnitSpace, masks: Callable[[], Tensor] | Tensor) -> Iterator[Attachment]:
    """`with attached(model, space, masks) as attachment:` masks within the block, the unchanged model after it.

    As of `attach`, masks of a method need `method.eval()` where they must not be samples.
    """
    attachment = attach(model, space, masks)
    try:
        yield attachment
    finally:
        attachment.detach()
