"""The masks of attention in a traced graph, made of the mask of the tokens by operations that hold for any length.

The masks that transformers builds itself depend on the values of the mask, which tracing would make constant.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from secateur.structure.architecture import Attention
from secateur.structure.architectures import ARCHITECTURES


def make_masks_of_tokens(model: PreTrainedModel) -> None:
    """Let the encoder of a model be called with the mask of the tokens `(batch, tokens)` of 0 and 1, in place.

    The encoder gets masks that it uses as they are. A head gets that of the tokens, over which it may average.
    """
    base: Any = model.base_model
    base.forward = _with_masks(base.forward, _attention_of(model), model)


def windows_of(model: PreTrainedModel) -> list[int]:
    """The distances up to which tokens attend to others, in a model whose layers differ in it."""
    stacks = ARCHITECTURES.get(model.config.model_type).stacks
    keys = {key for stack in stacks for attention in stack.attentions for key in attention.windows.values()}
    return [getattr(model.config, key) for key in sorted(keys)]


def _attention_of(model: PreTrainedModel) -> Attention:
    """The attention of an encoder, as its architecture describes it."""
    (stack,) = ARCHITECTURES.get(model.config.model_type).stacks
    (attention,) = stack.attentions
    return attention


def _with_masks(forward: Callable[..., Any], attention: Attention, model: PreTrainedModel) -> Callable[..., Any]:
    @wraps(forward)
    def with_masks(*args: Any, attention_mask: Tensor, **kwargs: Any) -> Any:
        masks = _masks(attention_mask, attention, model)
        return forward(*args, attention_mask=masks, **kwargs)

    return with_masks


def _masks(tokens: Tensor, attention: Attention, model: PreTrainedModel) -> Any:
    """An additive mask `(batch, 1, 1, tokens)`, or one for each kind of attention; or that of the tokens as it is."""
    if attention.takes_tokens:
        return tokens
    mask = additive(tokens[:, None, None, :], model.dtype)
    if attention.kinds is None:
        return mask
    kinds = set(getattr(model.config, attention.kinds))
    return {kind: _within(mask, attention.windows.get(kind), model) for kind in kinds}


def _within(mask: Tensor, window: str | None, model: PreTrainedModel) -> Tensor:
    """The mask, also of tokens that are further away than the key `window` of the config says.

    The tokens that are left out twice stay at the least number, which two of them would exceed.
    """
    if window is None:
        return mask
    places = torch.arange(mask.shape[-1], device=mask.device)
    near = (places[:, None] - places).abs() <= getattr(model.config, window)
    return torch.minimum(mask, additive(near[None, None], mask.dtype))


def additive(there: Tensor, dtype: torch.dtype) -> Tensor:
    """The mask that is added to scores: 0 where there is 1 or True, and the least number elsewhere."""
    return (1 - there.to(dtype)) * torch.finfo(dtype).min
