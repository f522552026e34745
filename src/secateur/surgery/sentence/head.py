"""The head of a model for sentence embeddings: pooling over tokens, linear layers, and normalisation.

It computes what the modules after the Transformer compute in sentence-transformers (Reimers and Gurevych, EMNLP 2019).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from secateur.surgery.sentence.similarity import COSINE

Pool = Callable[[Tensor, Tensor], Tensor]
"""States `(batch, tokens, dims)` and the mask `(batch, tokens, 1)`, 1 for a real token -> `(batch, dims)`."""


@dataclass(frozen=True)
class Settings:
    """What belongs to a model for sentence embeddings besides its weights, for those who encode texts with it.

    Attributes:
        prompts: name -> the text that is put before a text, such as "query: ".
        default_prompt: name of the prompt for texts of no stated kind; None for no prompt.
        similarity: how vectors are compared: "cosine", "dot", "euclidean", "manhattan"; None if it is not stated.
        max_length: most tokens of a text, special ones included; None for the limit of the tokenizer.
        lower_case: whether texts are lower-cased before they are split into tokens.
    """

    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt: str | None = None
    similarity: str | None = None
    max_length: int | None = None
    lower_case: bool = False


class Dense(nn.Module):
    """A linear layer with an activation."""

    def __init__(self, into: int, out: int, bias: bool = False, activation: nn.Module | None = None) -> None:
        super().__init__()
        self.linear = nn.Linear(into, out, bias=bias)
        self.activation = activation or nn.Identity()

    @classmethod
    def identity(cls, size: int) -> Dense:
        """A layer that changes nothing before it is trained, without bias and activation."""
        layer = cls(size, size)
        nn.init.eye_(layer.linear.weight)
        return layer

    def forward(self, vectors: Tensor) -> Tensor:
        """Of vectors in any type, and in it; the product is computed in the type of the weights."""
        return self.activation(self.linear(vectors.to(self.linear.weight.dtype)).to(vectors.dtype))

    def with_inputs(self, size: int) -> Dense:
        """A layer of the same kind with that many inputs, whose weights are not those of this one."""
        linear = self.linear
        with linear.weight.device:  # also while a model is made of shapes alone, on `meta`
            own = Dense(size, linear.out_features, linear.bias is not None, self.activation)
        return own.to(linear.weight.dtype)


class SentenceHead(nn.Module):
    """Vectors of texts from the states of an encoder.

    Args:
        poolings: names in `POOLINGS`; the vectors of several are concatenated.
        dense: layers that follow.
        normalise: whether the vectors get length 1 at the end.
        width: dims of the encoder's states.
    """

    def __init__(
        self,
        poolings: Iterable[str],
        dense: Iterable[Dense] = (),
        normalise: bool = True,
        *,
        width: int,
        settings: Settings | None = None,
    ) -> None:
        super().__init__()
        self.poolings, self.normalise, self.width = tuple(poolings), normalise, width
        self.dense = nn.ModuleList(dense)
        self.settings = settings or Settings()

    @property
    def size(self) -> int:
        """The dims of the vectors."""
        last: Any = self.dense[-1] if len(self.dense) else None
        return len(self.poolings) * self.width if last is None else last.linear.out_features

    @property
    def similarity(self) -> str:
        """How the vectors are compared: as is stated, by default by cosine, which of length 1 is the dot product."""
        stated = self.settings.similarity or COSINE
        return COSINE if stated == "dot" and self.normalise else stated

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """`(batch, size)`, in float32 at least.

        Args:
            states: `(batch, tokens, width)`.
            mask: `(batch, tokens)`, 1 for a real token; or the additive one, `(batch, 1, 1, tokens)`, 0 for a real one.
        """
        states = states.to(torch.promote_types(states.dtype, torch.float32))
        real = (mask[:, 0, 0, :] == 0 if mask.dim() == 4 else mask > 0).to(states.dtype).unsqueeze(-1)
        vectors = torch.cat([POOLINGS[name](states, real) for name in self.poolings], dim=-1)
        for layer in self.dense:
            vectors = layer(vectors)
        return functional.normalize(vectors, dim=-1) if self.normalise else vectors

    def of_width(self, width: int) -> SentenceHead:
        """A head of the same kind for states of that width; weights of a layer that changes its shape are not these."""
        dense: list[Any] = list(self.dense)
        if dense and width != self.width:
            dense[0] = dense[0].with_inputs(width)
        return SentenceHead(self.poolings, dense, self.normalise, width=width, settings=self.settings)

    def with_way_back(self) -> SentenceHead:
        """The head with a layer before the normalisation that starts as the identity, which keeps the vectors' size."""
        dense: list[Any] = [*self.dense, Dense.identity(self.size)]
        return SentenceHead(self.poolings, dense, self.normalise, width=self.width, settings=self.settings)


def _first(states: Tensor, real: Tensor) -> Tensor:
    """The state of the first real token: that of [CLS], also where padding is on the left."""
    first = real.squeeze(-1).argmax(dim=1)
    return states.gather(1, first[:, None, None].expand(-1, 1, states.shape[-1])).squeeze(1)


def _last(states: Tensor, real: Tensor) -> Tensor:
    positions = torch.arange(states.shape[1], device=states.device)
    last = (real.squeeze(-1) * positions).argmax(dim=1)
    return states.gather(1, last[:, None, None].expand(-1, 1, states.shape[-1])).squeeze(1)


def _largest(states: Tensor, real: Tensor) -> Tensor:
    return states.masked_fill(real == 0, torch.finfo(states.dtype).min).amax(dim=1)


def _mean(states: Tensor, real: Tensor) -> Tensor:
    return (states * real).sum(dim=1) / real.sum(dim=1).clamp(min=1.0)


def _mean_by_root(states: Tensor, real: Tensor) -> Tensor:
    """The sum over the root of the number of tokens."""
    return (states * real).sum(dim=1) / real.sum(dim=1).clamp(min=1.0).sqrt()


def _mean_by_position(states: Tensor, real: Tensor) -> Tensor:
    """The mean with weights 1, 2, 3, ... from the first real token on (Muennighoff, SGPT, 2022)."""
    weights = real * real.cumsum(dim=1)
    return (states * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1.0)


POOLINGS: Mapping[str, Pool] = {
    "mean": _mean,
    "cls": _first,
    "max": _largest,
    "lasttoken": _last,
    "mean_sqrt_len_tokens": _mean_by_root,
    "weightedmean": _mean_by_position,
}
"""Name of a pooling in sentence-transformers -> what computes it."""
