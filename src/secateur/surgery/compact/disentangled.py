"""Attention whose scores compare contents with relative positions too (He et al., DeBERTa, ICLR 2021, section 3.1)."""

from __future__ import annotations

import struct
from typing import Any

import torch
from torch import Tensor

from secateur.surgery.compact.attention import CompactAttention
from secateur.surgery.compact.kernels import recorded
from secateur.surgery.schema import AttentionStructure


class DisentangledAttention(CompactAttention):
    """Self-attention of an encoder whose scores are a sum: content to content, to position, and position to content.

    Relative embeddings `(2 x span, hidden)` are projected to keys and queries of positions, by projections of their
    own or by those of the contents. The position of a pair of tokens depends on their distance only. A row is taken
    for each distance, and the scores of a pair are then on the diagonals of one product, so that no score is gathered
    for each pair. Padded queries attend to all keys alike, as in the stock model.

    Attributes:
        relative: whether any term of the scores is about positions.
        span: half of the number of relative embeddings that are used.
        position_key, position_query: names of the projections of relative embeddings; None where there is no such term.
    """

    def __init__(self, stock: Any, structure: AttentionStructure) -> None:
        super().__init__(stock, structure)
        terms = {"c2p", "p2c"} & {*stock.pos_att_type}
        self.scale = 1 / _in_single(((1 + len(terms)) / structure.scale**2) ** 0.5)  # stock models take it in single
        self.position_key = self.position_query = None
        self.relative = bool(stock.relative_attention and terms)
        if not (self.relative and self.buckets):
            return
        self.span, self.pos_dropout = stock.pos_ebd_size, stock.pos_dropout
        if "c2p" in terms:
            self.position_key = self._projection(stock, "pos_key_proj", structure.key)
        if "p2c" in terms:
            self.position_query = self._projection(stock, "pos_query_proj", structure.query)

    def _projection(self, stock: Any, own: str, of_contents: str) -> str:
        """The name of a projection of relative embeddings, which is taken over from the stock attention if need be."""
        if stock.share_att_key:
            return of_contents
        module, size = getattr(stock, own), sum(self._sizes()[0])
        if module.out_features != size:
            raise ValueError(f"{own} has {module.out_features} outputs, its heads have {size}")
        self.add_module(own, module)
        return own

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor,
        output_attentions: bool = False,
        query_states: None = None,
        relative_pos: Tensor | None = None,
        rel_embeddings: Tensor | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, None]:
        query, key, value = self.project(hidden_states)
        mask = attention_mask.bool()  # `(batch, 1, queries, keys)`
        query = query * mask.any(-1).squeeze(1).unsqueeze(-1)  # without a key: all scores alike, in any precision
        if relative_pos is None or rel_embeddings is None or not self.relative:
            additive = torch.where(mask, query.new_zeros(()), torch.finfo(query.dtype).min)
            return self.attend((query, key, value), additive), None
        bias = self._bias(query, key, relative_pos, rel_embeddings) if self.buckets else rel_embeddings
        return self.attend((query, key, value), mask, bias), None

    def _bias(self, query: Tensor, key: Tensor, positions: Tensor, embeddings: Tensor) -> Tensor:
        """Scaled scores of positions, `(batch, stored heads, queries, keys)`.

        Args:
            positions: `(1, queries, keys)`, of a query relative to a key.
        """
        embeddings = self.pos_dropout(embeddings)
        by_distance = _by_distance(positions.reshape(positions.shape[-2:]))
        terms = []
        if self.position_key is not None:
            terms.append(self._scores(query, self.position_key, embeddings, by_distance))
        if self.position_query is not None:
            terms.append(self._scores(key, self.position_query, embeddings, -by_distance).transpose(-1, -2))
        return self.scale * sum(terms[1:], start=terms[0])

    def _scores(self, states: Tensor, name: str, embeddings: Tensor, by_distance: Tensor) -> Tensor:
        """Unscaled scores of contents with positions, `(batch, stored heads, tokens, other tokens)`.

        Compilers and exporters fold the projection of all relative embeddings into a constant. Otherwise those of the
        distances are projected, if they are fewer. They are a batch of one, as contents are: a product of two matrices
        is exported as another operator, whose weight ONNX Runtime's quantiser transposes, also if it is equal to
        another one (those of a query and a key without dims), which the exporter stores once.
        """
        project, rows = getattr(self, name), (by_distance + self.span).clamp(0, 2 * self.span - 1)
        if recorded() or len(rows) >= 2 * self.span:
            projected = project(embeddings[None, : 2 * self.span])[0, rows]
        else:
            projected = project(embeddings[rows][None])[0]
        sizes = self._sizes()[0]
        parts = zip(states.split(sizes, dim=-1), projected.split(sizes, dim=-1), self.buckets, strict=True)
        scores = [_products(own, of_distances, bucket.heads) for own, of_distances, bucket in parts]
        return scores[0] if len(scores) == 1 else torch.cat(scores, dim=1)


def _in_single(value: float) -> float:
    """A number rounded to single precision."""
    return float(struct.unpack("f", struct.pack("f", value))[0])


def _by_distance(positions: Tensor) -> Tensor:
    """`(2 x tokens,)`: the relative positions `(tokens, tokens)` from the largest distance to the smallest.

    The last one is not used: a row of scores has one column more than there are distances, so that `_diagonals` need
    no case for a single token.
    """
    return torch.cat([positions[:, 0].flip(0), positions[0].roll(-1, 0)])


def _products(states: Tensor, of_distances: Tensor, heads: int) -> Tensor:
    """`(batch, heads, tokens, tokens)` of a bucket, from `(batch, tokens, heads x width)` and `(2 x tokens, same)`."""
    batch, tokens, _ = states.shape
    by_head = states.reshape(batch * tokens, heads, -1).transpose(0, 1)
    scores = by_head @ of_distances.reshape(2 * tokens, heads, -1).permute(1, 2, 0)
    return _diagonals(scores.view(heads, batch, tokens, 2 * tokens)).transpose(0, 1)


def _diagonals(scores: Tensor) -> Tensor:
    """`(..., tokens, tokens)`: entry (i, j) is the score of token i in column `tokens - 1 - i + j`.

    In memory these begin `2 x tokens - 1` after one another, so that they are the beginnings of rows of that length.
    """
    tokens = scores.shape[-2]
    rows = scores.flatten(-2)[..., tokens - 1 : tokens * 2 * tokens - 1]
    return rows.unflatten(-1, (tokens, 2 * tokens - 1))[..., :tokens]
