"""How stock layers call their attention: a class for each way, which stands in its place in a cut model."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor
from transformers import EncoderDecoderCache

from secateur.surgery.compact.attention import Angles, CompactAttention
from secateur.surgery.compact.disentangled import DisentangledAttention
from secateur.surgery.compact.kernels import recorded
from secateur.surgery.schema import AttentionStructure


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


class RotaryAttention(CompactAttention):
    """Self-attention of an encoder that rotates queries and keys by the positions of their tokens.

    A head keeps pairs of dims, each with the angle that it has in the stock model, so heads have angles of their own.
    """

    def __init__(self, stock: Any, structure: AttentionStructure) -> None:
        super().__init__(stock, structure)
        self.pairs: list[int] = []
        ends = list(accumulate(structure.buckets, initial=0))
        for (start, end), (_, width, _) in zip(pairwise(ends), self.buckets, strict=True):
            for own in (structure.pairs or ())[start:end]:
                self.pairs += [*own, *[0] * (width // 2 - len(own))]  # of padding, whatever its angle is, 0 remains
        self._index: Tensor | None = None

    def forward(
        self,
        hidden_states: Tensor,
        *,
        position_embeddings: tuple[Tensor, Tensor],
        attention_mask: Tensor | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, None]:
        parts = self.project(hidden_states)
        return self.attend(parts, attention_mask, angles=self._angles(*position_embeddings)), None

    def _angles(self, cos: Tensor, sin: Tensor) -> list[Angles]:
        """Cosines and sines `(batch or 1, tokens, heads, pairs)` of each bucket, from those of one whole head."""
        if not self.buckets:
            return []
        index, sizes = self._pair_index(cos.device), [heads * width // 2 for heads, width, _ in self.buckets]
        own = (part.index_select(-1, index).split(sizes, dim=-1) for part in (cos, sin))
        shape = cos.shape[0], cos.shape[1]
        return [
            (c.view(*shape, heads, -1), s.view(*shape, heads, -1))
            for (heads, _, _), c, s in zip(self.buckets, *own, strict=True)
        ]

    def _pair_index(self, device: torch.device) -> Tensor:
        """The pairs as a tensor, which is made once for a device: a copy in every call could not be recorded."""
        if recorded():
            return torch.tensor(self.pairs, dtype=torch.long, device=device)
        if self._index is None or self._index.device != device:
            self._index = torch.tensor(self.pairs, dtype=torch.long, device=device)
        return self._index


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
    "disentangled": DisentangledAttention,
    "rotary": RotaryAttention,
    "seq2seq": Seq2SeqAttention,
    "seq2seq_bias": Seq2SeqBiasAttention,
}
"""How a stock layer calls its attention (`Attention.call` of the architecture) -> the class that is called so."""
