"""Attention whose heads differ in size: one class for each way in which stock layers call their attention."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import EncoderDecoderCache

from secateur.surgery.compact.kernels import (
    KernelRules,
    aligned_mask,
    heads_of,
    recorded,
    reliable_kernels,
    rules_for,
)
from secateur.surgery.schema import AttentionStructure

JOIN_FROM = 256
"""From this number of tokens on, joining the weights of query, key and value costs less than it saves."""


class CompactAttention(nn.Module):
    """The heads of an attention; subclasses add how it is called.

    Query and key keep the same dims of a head; value and output projection keep others. The heads are stored bucket by
    bucket, each padded with zeros to the width of its bucket, so that one call of attention computes a bucket. Zero
    dims of query and key add nothing to the scores, and zero dims of the value meet zero columns of the output
    projection: the padding is exact and stays zero in training. The softmax scale is that of the unpruned heads.
    """

    dropout: Any
    """Of the stock attention: a module, or in an encoder-decoder the probability itself."""

    def __init__(self, stock: Any, structure: AttentionStructure) -> None:  # Any: each family names its projections
        super().__init__()
        self.scale, self.causal, self.layer = structure.scale, structure.causal, structure.layer
        self.buckets = _buckets(structure)
        self._widths = [width for _, *widths in self.buckets for width in widths]
        self.heads = None if structure.heads is None else list(structure.heads)
        self.names = (structure.query, structure.key, structure.value)
        self.output = structure.output
        self.dropout = stock.dropout
        if self.buckets:
            for name, sizes in zip(self.names, self._sizes(), strict=True):
                projection = getattr(stock, name)
                if projection.out_features != sum(sizes):
                    raise ValueError(f"{name} has {projection.out_features} outputs, its heads have {sum(sizes)}")
        kept = {*(self.names if self.buckets else ()), self.output} - {None}
        if missing := kept - {name for name, _ in stock.named_children()}:
            raise AttributeError(f"the attention has no {min(missing)}")
        for name, module in stock.named_children():  # in its order, in which an optimizer's moments are stored
            if name in kept:
                self.add_module(name, module)

    def project(self, hidden_states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Query, key and value of the same states, `(batch, tokens, dims as stored)` each; empty without heads."""
        if not self.buckets:
            return hidden_states[..., :0], hidden_states[..., :0], hidden_states[..., :0]
        if not self._joins(hidden_states):
            return (
                self._projected(0, hidden_states),
                self._projected(1, hidden_states),
                self._projected(2, hidden_states),
            )
        joined = functional.linear(hidden_states, self._joined("weight"), self._joined("bias"))
        query, key, value = joined.split([sum(sizes) for sizes in self._sizes()], dim=-1)
        return query, key, value

    def attend(self, parts: tuple[Tensor, Tensor, Tensor], mask: Tensor | None, bias: Tensor | None = None) -> Tensor:
        """The output of the sublayer, from query, keys and values.

        `mask` is additive or bool. `bias` `(batch or 1, heads of the stock model, queries, keys)` is added to the
        scores.
        """
        context = parts[0]
        if self.buckets:
            rules = rules_for(context.device, self.training)
            masks = self._masks(mask, bias, rules)
            split = (part.split(sizes, dim=-1) for part, sizes in zip(parts, self._sizes(), strict=True))
            buckets = zip(self.buckets, zip(*split, strict=True), masks, strict=True)
            with reliable_kernels(context.device):
                contexts = [self._attend_bucket(bucket, own, own_mask, rules) for bucket, own, own_mask in buckets]
            context = contexts[0] if len(contexts) == 1 else torch.cat(contexts, dim=-1)
        output = getattr(self, self.output)(context) if self.output else context
        if self.training and bias is not None and not self.buckets:
            output = output + 0.0 * bias.sum()  # a gradient of 0, as in the masked model: None would be skipped
        return output

    def _masks(self, mask: Tensor | None, bias: Tensor | None, rules: KernelRules) -> list[Tensor | None]:
        """The mask of each bucket: the mask of the tokens plus the relative position bias of its heads."""
        if bias is None or self.heads is None:
            return [None if mask is None else aligned_mask(mask, rules)] * len(self.buckets)
        own = _of_heads(bias, self.heads)
        if mask is None and self.causal and own.shape[2] > 1:
            mask = torch.ones(own.shape[2:], dtype=torch.bool, device=own.device).tril()
        if mask is not None:
            least = torch.finfo(own.dtype).min
            own = torch.where(mask, own, least) if mask.dtype == torch.bool else own + mask
        return list(aligned_mask(own, rules).split([heads for heads, _, _ in self.buckets], dim=1))

    def _attend_bucket(
        self, bucket: tuple[int, int, int], parts: tuple[Tensor, ...], mask: Tensor | None, rules: KernelRules
    ) -> Tensor:
        """One call of attention: from query, key and value, `(batch, tokens, heads x width)` each, to the contexts."""
        batch, tokens, _ = parts[0].shape
        heads, _, own = bucket
        dropout = self.dropout_probability() if self.training else 0.0
        query, key, value = heads_of(parts, heads, rules, rules.aligned(self._widths))
        causal = self.causal and mask is None and tokens > 1
        context = functional.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, dropout_p=dropout, scale=self.scale, is_causal=causal
        )
        return context[..., :own].transpose(1, 2).reshape(batch, tokens, -1)

    def dropout_probability(self) -> float:
        """The probability of an attention weight to be dropped in training."""
        return self.dropout.p

    def _sizes(self) -> list[list[int]]:
        """Dims of each bucket as stored: of the query, the key and the value."""
        sizes = [[heads * width for heads, width, _ in self.buckets]] * 2
        return [*sizes, [heads * width for heads, _, width in self.buckets]]

    def _projected(self, number: int, states: Tensor) -> Tensor:
        return getattr(self, self.names[number])(states)

    def _joined(self, kind: str) -> Any:
        """The weights, or the biases if there are any, of query, key and value."""
        own = [getattr(getattr(self, name), kind) for name in self.names]
        return None if own[0] is None else torch.cat(own)

    def _joins(self, hidden_states: Tensor) -> bool:
        """Whether one product with the joined weights is faster: for many tokens, or if joining is done only once.

        Compilers and exporters fold the joining into a constant. The joined weights are not stored here, because a
        change of the weights by an optimizer cannot be detected, and the copy would be outdated.
        """
        if recorded():
            return True
        query = getattr(self, self.names[0])
        if query._forward_hooks or type(query) is not nn.Linear:  # masks act at its output, or at the weights
            return False
        return not self.training and hidden_states.shape[:-1].numel() >= JOIN_FROM


class EncoderAttention(CompactAttention):
    """Self-attention of an encoder: called with the states and a mask, returns the output and no probabilities."""

    def forward(
        self, hidden_states: Tensor, attention_mask: Tensor | None = None, **kwargs: Any
    ) -> tuple[Tensor, None]:
        return self.attend(self.project(hidden_states), attention_mask), None


class EncoderBiasAttention(CompactAttention):
    """Self-attention of an encoder that looks up a relative position bias once and passes it to every layer."""

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        position_bias: Tensor | None = None,
        output_attentions: bool = False,
        **kwargs: Any,
    ) -> tuple[Tensor, None]:
        return self.attend(self.project(hidden_states), attention_mask, position_bias), None


class Seq2SeqAttention(CompactAttention):
    """Attention of an encoder-decoder: self-attention, or cross-attention to other states (`key_value_states`).

    During generation, a cache holds the keys and values of all heads as those of a single head, whatever the buckets.
    """

    def forward(
        self,
        hidden_states: Tensor,
        key_value_states: Tensor | None = None,
        past_key_values: Any = None,
        attention_mask: Tensor | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, None]:
        return self.attend(self.states(hidden_states, key_value_states, past_key_values), attention_mask), None

    def dropout_probability(self) -> float:
        return self.dropout

    def states(self, hidden_states: Tensor, others: Tensor | None, cache: Any) -> tuple[Tensor, Tensor, Tensor]:
        """Query, and keys and values of all tokens so far, `(batch, tokens, dims as stored)` each.

        Without heads the query is empty, and the shape of the key gives the number of tokens.
        """
        if cache is None and others is None and self.buckets:
            return self.project(hidden_states)
        held, filled = self._held(cache, others is not None)
        if filled and self.buckets:
            return self._projected(0, hidden_states), filled.keys.squeeze(1), filled.values.squeeze(1)
        query, key, value = self._separate(hidden_states, hidden_states if others is None else others)
        if held is None or (others is not None and not self.buckets):
            return query, key, value
        key, value = held.update(key.unsqueeze(1), value.unsqueeze(1), self.layer)
        if others is not None and held is not cache:
            cache.is_updated[self.layer] = True
        return query, key.squeeze(1), value.squeeze(1)

    def _separate(self, hidden_states: Tensor, source: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The query of `hidden_states`, key and value of `source`."""
        if self.buckets:
            return self._projected(0, hidden_states), self._projected(1, source), self._projected(2, source)
        one = source[..., :1]  # a cache does not know the length of states of width 0
        return hidden_states[..., :0], one, one

    def _held(self, cache: Any, cross: bool) -> tuple[Any, Any]:
        """The part of a cache for this attention, and its layer if it holds all states of cross-attention already."""
        if not isinstance(cache, EncoderDecoderCache):
            return cache, None
        held = cache.cross_attention_cache if cross else cache.self_attention_cache
        return held, held.layers[self.layer] if cross and cache.is_updated.get(self.layer) else None


class Seq2SeqBiasAttention(Seq2SeqAttention):
    """Attention of an encoder-decoder whose first layer looks up a relative position bias and passes it on.

    The first layer returns the bias of every head of the stock model, also of heads that it does not keep, because
    later layers use it; each layer selects its own heads.
    """

    def __init__(self, stock: Any, structure: AttentionStructure) -> None:
        super().__init__(stock, structure)
        self.compute_bias = None
        if structure.bias:
            setattr(self, structure.bias, getattr(stock, structure.bias))
            self.compute_bias = stock.compute_bias  # the stock method: it reads the same embedding

    def forward(  # type: ignore[override]  # called as the stock module that it replaces
        self,
        hidden_states: Tensor,
        mask: Tensor | None = None,
        key_value_states: Tensor | None = None,
        position_bias: Tensor | None = None,
        past_key_values: Any = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None, None]:
        past = past_key_values.get_seq_length(self.layer) if past_key_values is not None else 0
        past = past.clone() if isinstance(past, Tensor) else past  # a static cache changes this tensor in place
        parts = self.states(hidden_states, key_value_states, past_key_values)
        if position_bias is None and self.compute_bias is not None:
            lengths = hidden_states.shape[1], parts[1].shape[1]
            position_bias = self.compute_bias(*lengths, device=hidden_states.device, past_seen_tokens=past)
        return self.attend(parts, mask, position_bias), position_bias, None


ATTENTIONS: Mapping[str, type[CompactAttention]] = {
    "encoder": EncoderAttention,
    "encoder_bias": EncoderBiasAttention,
    "seq2seq": Seq2SeqAttention,
    "seq2seq_bias": Seq2SeqBiasAttention,
}
"""How a stock layer calls its attention (`Attention.call` of the architecture) -> the class that is called so."""


def _of_heads(bias: Tensor, heads: list[int]) -> Tensor:
    """The bias of some heads: an index would be copied to a GPU in every call, which a CUDA graph cannot record."""
    if recorded():
        return bias[:, heads]
    by_head = bias.unbind(1)
    return torch.stack([by_head[head] for head in heads], dim=1)


def _buckets(structure: AttentionStructure) -> list[tuple[int, int, int]]:
    """(heads, width of query and key, width of value) of each bucket."""
    ends = list(accumulate(structure.buckets, initial=0))
    return [
        (
            end - start,
            _width(structure.qk[start:end], structure.multiple),
            _width(structure.vo[start:end], structure.multiple),
        )
        for start, end in pairwise(ends)
    ]


def _width(dims: tuple[int, ...], multiple: int) -> int:
    """The largest number of dims, at least 1, rounded up to a multiple."""
    return -(-max(1, *dims) // multiple) * multiple
