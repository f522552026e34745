"""An encoder-decoder as two functions of arrays, which exporters trace.

The encoder returns what the decoder needs of a source: the keys and values of cross-attention, which are the same for
every token that is written, and a cache of self-attention that holds nothing yet. A step of the decoder takes these and
returns logits and the cache with the new tokens in it. So no weight but a shared table of word embeddings is in both
files, no size is wired into the program that runs them, and the first step is like every other one:

    encoder: input_ids, attention_mask                                        -> past.*, cross.*
    decoder: decoder_input_ids, encoder_attention_mask, past.*, cross.*       -> logits, present.*

The names are `past.0.key`, `cross.0.value` and so on, by layer; `present.*` are the `past.*` of the next step. A layer
without heads in its cross-attention has no `cross`. Keys and values are `(batch, heads, tokens, dims)`; those of a cut
model are stored as one head, however many there are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.cache_utils import DynamicCache, EncoderDecoderCache
from transformers.modeling_outputs import BaseModelOutput

from secateur.deploy.graph import Signature, example_inputs, inference_copy
from secateur.deploy.graph_masks import additive
from secateur.system.errors import UserError

KEY, VALUE = "key", "value"
IDS, MASK = "decoder_input_ids", "encoder_attention_mask"
"""Names of the decoder's inputs besides those of the cache: `(batch, target tokens)` and `(batch, source tokens)`."""

Sizes = tuple[tuple[int, int], tuple[int, int]]


@dataclass(frozen=True)
class CacheLayout:
    """Which layers of a decoder keep what: layer -> the (heads, dims) of its keys, and those of its values.

    Attributes:
        own: of self-attention, over the tokens that are written.
        cross: of cross-attention, over the tokens of the source.
    """

    own: dict[int, Sizes]
    cross: dict[int, Sizes]

    @classmethod
    def of(cls, model: PreTrainedModel) -> CacheLayout:
        """The layout of a model, found by running it once on a few tokens.

        Raises:
            UserError: no layer of the decoder keeps anything, and a step cannot tell how many tokens are written.
        """
        cache = empty_cache()
        ids, mask = example_inputs(("input_ids", "attention_mask"))
        with torch.inference_mode():
            run: Any = model
            run(input_ids=ids, attention_mask=mask, decoder_input_ids=ids, past_key_values=cache, use_cache=True)
        sides = (cache.self_attention_cache, cache.cross_attention_cache)
        own, cross = ({layer: _sizes(held) for layer, held in _filled(side)} for side in sides)
        if not own:
            raise UserError(f"{type(model).__name__} has a decoder without layers: there is no step to export")
        return cls(own, cross)

    def names(self, kind: str) -> tuple[str, ...]:
        """The names of the arrays of `past`, `present` or `cross`."""
        layers = self.cross if kind == "cross" else self.own
        return tuple(f"{kind}.{layer}.{part}" for layer in layers for part in (KEY, VALUE))


class EncoderGraph(nn.Module):
    """The encoder, the projections of cross-attention, and an empty cache."""

    def __init__(self, model: PreTrainedModel, layout: CacheLayout, dtype: str = "fp32") -> None:
        super().__init__()
        self.model = inference_copy(model, dtype)
        self.layout = layout

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, ...]:
        """From source ids and mask, `(batch, tokens)` of int64, the arrays of `past` and `cross` as float32."""
        mask = additive(attention_mask[:, None, None, :], self.model.dtype)
        encoder: Any = self.model.get_encoder()
        states = encoder(input_ids=input_ids, attention_mask=mask).last_hidden_state
        cache = empty_cache()
        # Of this step of the decoder only cross-attention's keys and values are returned: the rest is not traced.
        _step(self.model, input_ids[:, :1], states, mask, cache)
        sizes = [size for pair in self.layout.own.values() for size in pair]
        own = [states.new_zeros((input_ids.shape[0], heads, 0, dims)) for heads, dims in sizes]
        cross = [tensor for _, held in _filled(cache.cross_attention_cache) for tensor in (held.keys, held.values)]
        return tuple(tensor.float() for tensor in (*own, *cross))

    def signature(self) -> Signature:
        """Inputs and outputs, with examples to trace with."""
        names = ("input_ids", "attention_mask")
        past, cross = self.layout.names("past"), self.layout.names("cross")
        free = {name: {0: "batch", 1: "source"} for name in names}
        free |= {name: {0: "batch"} for name in past} | {name: {0: "batch", 2: "source"} for name in cross}
        return Signature(dict(zip(names, example_inputs(names), strict=True)), (*past, *cross), free)


class DecoderGraph(nn.Module):
    """A step of the decoder: one or more tokens, after those in the cache."""

    def __init__(self, model: PreTrainedModel, layout: CacheLayout, dtype: str = "fp32") -> None:
        super().__init__()
        self.model = inference_copy(model, dtype)
        self.layout = layout

    def forward(self, decoder_input_ids: Tensor, encoder_attention_mask: Tensor, *held: Tensor) -> tuple[Tensor, ...]:
        """Logits `(batch, tokens, pieces)` and the arrays of `present`, as float32.

        Args:
            decoder_input_ids: `(batch, tokens)` of int64, no padding.
            encoder_attention_mask: that of the source, `(batch, source tokens)`.
            held: the arrays of `past` and `cross`.
        """
        dtype, written = self.model.dtype, held[0].shape[2]
        cache, tensors = empty_cache(), iter(tensor.to(dtype) for tensor in held)
        for layer in self.layout.own:
            cache.self_attention_cache.update(next(tensors), next(tensors), layer)
        for layer in self.layout.cross:
            cache.cross_attention_cache.update(next(tensors), next(tensors), layer)
        cache.is_updated |= dict.fromkeys(self.layout.cross, True)
        places = torch.arange(decoder_input_ids.shape[1] + written, device=decoder_input_ids.device)
        before = additive((places <= places[written:, None])[None, None], dtype)
        mask = additive(encoder_attention_mask[:, None, None, :], dtype)
        states = encoder_attention_mask[:, :, None].to(dtype)  # only its length is read: all keys are in the cache
        logits = _step(self.model, decoder_input_ids, states, mask, cache, before)
        own = (tensor for _, one in _filled(cache.self_attention_cache) for tensor in (one.keys, one.values))
        return tuple(tensor.float() for tensor in (logits, *own))

    def signature(self, example: Sequence[Tensor]) -> Signature:
        """Inputs and outputs; `example` are the tensors of a step to trace with, as `forward` takes them."""
        past, cross, present = (self.layout.names(kind) for kind in ("past", "cross", "present"))
        free = {IDS: {0: "batch", 1: "target"}, MASK: {0: "batch", 1: "source"}, "logits": {0: "batch", 1: "target"}}
        for names, length in ((past, "written"), (cross, "source"), (present, "length")):
            free |= {name: {0: "batch", 2: length} for name in names}
        inputs = dict(zip((IDS, MASK, *past, *cross), example, strict=True))
        return Signature(inputs, ("logits", *present), free)


def example_step(encoder: EncoderGraph, decoder: DecoderGraph) -> list[Tensor]:
    """The tensors of a step to trace the decoder with: three tokens after two, for two sources."""
    ids, mask = example_inputs(("input_ids", "attention_mask"))
    with torch.inference_mode():
        held = encoder(ids, mask)
        past, cross = held[: 2 * len(decoder.layout.own)], held[2 * len(decoder.layout.own) :]
        _, *past = decoder(ids[:, :2], mask, *past, *cross)
    return [tensor.clone() for tensor in (ids[:, 2:5], mask, *past, *cross)]


def empty_cache() -> EncoderDecoderCache:
    """A cache of a decoder that has written nothing."""
    return EncoderDecoderCache(DynamicCache(), DynamicCache())


def _step(
    model: PreTrainedModel,
    ids: Tensor,
    states: Tensor,
    mask: Tensor,
    cache: EncoderDecoderCache,
    before: Tensor | None = None,
) -> Tensor:
    """The logits of tokens after those in a cache, which is changed; `before` and `mask` are added to scores."""
    run: Any = model
    return run(
        encoder_outputs=BaseModelOutput(states),
        attention_mask=mask,
        decoder_input_ids=ids,
        decoder_attention_mask=mask[:1, :, :, :1] * 0 if before is None else before,
        past_key_values=cache,
        use_cache=True,
    ).logits


def _filled(side: Any) -> Iterator[tuple[int, Any]]:
    """Number and content of the layers of a cache that hold something."""
    return ((layer, held) for layer, held in enumerate(side.layers) if held.is_initialized)


def _sizes(held: Any) -> Sizes:
    """The (heads, dims) of the keys and of the values of a layer."""
    return (held.keys.shape[1], held.keys.shape[3]), (held.values.shape[1], held.values.shape[3])
