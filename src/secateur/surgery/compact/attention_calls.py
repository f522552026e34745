"""How stock layers call their attention: a class for each way, which stands in its place in a cut model."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor
from transformers import EncoderDecoderCache

from secateur.surgery.compact.attention import CompactAttention
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
        self.pairs: tuple[list[int], list[int]] = [], []
        ends = list(accumulate(structure.buckets, initial=0))
        for (start, end), bucket in zip(pairwise(ends), self.buckets, strict=True):
            for number, own in enumerate((structure.pairs or ())[start:end]):
                row = [*own, *[0] * (bucket.qk // 2 - len(own))]  # of padding, whatever its angle is, 0 remains
                self.pairs[0].extend(row * (bucket.sharing[number] if bucket.sharing else 1))
                self.pairs[1].extend(row)
        self._index: list[Tensor] = []

    def forward(
        self,
        hidden_states: Tensor,
        *,
        position_embeddings: tuple[Tensor, Tensor],
        attention_mask: Tensor | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, None]:
        return self.attend(self.rotated_parts(hidden_states, position_embeddings), attention_mask), None

    def rotated_parts(self, states: Tensor, angles: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Query and key, normed where the family norms them and rotated, and value; see `project`.

        Args:
            angles: their cosines and sines, `(batch or 1, tokens, head dims)` each.
        """
        query, key, value = self.project(states)
        if not self.buckets:
            return query, key, value
        if self.norms:
            query, key = (self._normed(name, part) for name, part in zip(self.norms, (query, key), strict=True))
        return *self._rotated((query, key), *angles), value

    def _normed(self, name: str, part: Tensor) -> Tensor:
        """Query or key with each head normed: all dims of a head are there (`architecture.Attention.norms`)."""
        norm = getattr(self, name)
        return norm(part.unflatten(-1, (-1, norm.weight.shape[0]))).flatten(-2)

    def _rotated(self, parts: tuple[Tensor, Tensor], cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        """Query and key `(batch, tokens, dims as stored)`, each pair rotated by its angle.

        In float32 at least, as in stock models: cosines of a long sequence have too few bits in bfloat16.

        Args:
            cos, sin: of the angles of one whole head, `(batch or 1, tokens, head dims)`.
        """
        angles = [[angle.index_select(-1, own) for own in self._pair_index(cos.device)] for angle in (cos, sin)]
        heads = [bucket.heads for bucket in self.buckets], [bucket.keys for bucket in self.buckets]
        sides = zip(parts, heads, self._sizes()[:2], *angles, strict=True)
        query, key = (self._turned(*side) for side in sides)
        return query, key

    def _turned(self, part: Tensor, heads: list[int], sizes: list[int], cos: Tensor, sin: Tensor) -> Tensor:
        """Query or key of so many heads and dims in each bucket, with angles of `(batch or 1, tokens, pairs)`."""
        halves = [size // 2 for size in sizes]
        buckets = zip(part.split(sizes, -1), heads, cos.split(halves, -1), sin.split(halves, -1), strict=True)
        return torch.cat([_turned(*bucket) for bucket in buckets], dim=-1)

    def _pair_index(self, device: torch.device) -> list[Tensor]:
        """The pairs as tensors, which are made once for a device: a copy in every call could not be recorded.

        Those of the queries, and those of the keys, which are the same unless heads share keys.
        """
        if not recorded() and self._index and self._index[0].device == device:
            return self._index
        queries, keys = (torch.tensor(own, dtype=torch.long, device=device) for own in self.pairs)
        index = [queries, queries if len(queries) == len(keys) else keys]
        if not recorded():
            self._index = index
        return index


class DecoderAttention(RotaryAttention):
    """Self-attention of a decoder: rotary positions, and a cache of rotated keys and of values.

    The cache holds the keys and values of all heads as those of a single head, whatever the buckets.
    """

    def forward(  # type: ignore[override]  # called as the stock module that it replaces
        self,
        hidden_states: Tensor,
        *,
        position_embeddings: tuple[Tensor, Tensor],
        attention_mask: Tensor | None = None,
        past_key_values: Any = None,
        **kwargs: Any,
    ) -> tuple[Tensor, None]:
        query, key, value = self.rotated_parts(hidden_states, position_embeddings)
        if past_key_values is not None:
            if not self.buckets:
                key = value = hidden_states[..., :1]  # a cache does not know the length of states of width 0
            key, value = past_key_values.update(key.unsqueeze(1), value.unsqueeze(1), self.layer)
            key, value = key.squeeze(1), value.squeeze(1)
        return self.attend((query, key, value), attention_mask), None


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


def _turned(part: Tensor, heads: int, cos: Tensor, sin: Tensor) -> Tensor:
    """`(batch, tokens, heads x width)` of a bucket, rotated by angles of `(batch or 1, tokens, heads x pairs)`.

    A head has the first dims of its pairs, and then the second ones.
    """
    wide = part.to(torch.promote_types(part.dtype, torch.float32))
    first, second = wide.view(part.shape[0], part.shape[1], heads, 2, -1).unbind(3)
    cos, sin = (angle.view(angle.shape[0], angle.shape[1], heads, -1) for angle in (cos, sin))
    turned = torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
    return turned.view(part.shape[0], part.shape[1], -1).to(part.dtype)


ATTENTIONS: Mapping[str, type[CompactAttention]] = {
    "encoder": EncoderAttention,
    "encoder_bias": EncoderBiasAttention,
    "disentangled": DisentangledAttention,
    "rotary": RotaryAttention,
    "decoder": DecoderAttention,
    "seq2seq": Seq2SeqAttention,
    "seq2seq_bias": Seq2SeqBiasAttention,
}
"""How a stock layer calls its attention (`Attention.call` of the architecture) -> the class that is called so."""
