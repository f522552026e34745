"""Attention whose heads differ in size. How stock layers call theirs is in `attention_calls`."""

from __future__ import annotations

from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

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


class Bucket(NamedTuple):
    """Heads that are stored with one width.

    Attributes:
        keys: how many keys and values there are: one of each head, unless heads share them.
        qk, vo: width of queries and keys, and of values.
        sharing: how many heads share each key and value; empty if none do.
    """

    keys: int
    qk: int
    vo: int
    sharing: tuple[int, ...] = ()

    @property
    def heads(self) -> int:
        """How many heads there are."""
        return sum(self.sharing) if self.sharing else self.keys


class CompactAttention(nn.Module):
    """The heads of an attention; subclasses add how it is called.

    Query and key keep the same dims of a head; value and output projection keep others. The heads are stored bucket by
    bucket, each padded with zeros to the width of its bucket, so that one call of attention computes a bucket. Zero
    dims of query and key add nothing to the scores, and zero dims of the value meet zero columns of the output
    projection: the padding is exact and stays zero in training. The softmax scale is that of the unpruned heads.
    """

    def __init__(self, stock: Any, structure: AttentionStructure) -> None:  # Any: each family names its projections
        super().__init__()
        self.scale, self.causal, self.layer = structure.scale, structure.causal, structure.layer
        self.buckets = _buckets(structure)
        self._widths = [width for bucket in self.buckets for width in (bucket.qk, bucket.vo)]
        self.heads = None if structure.heads is None else list(structure.heads)
        self.names = (structure.query, structure.key, structure.value)
        self.output, self.after, self.norms = structure.output, structure.after, structure.norms
        self.dropout: Any = getattr(stock, structure.dropout)  # a module, or the probability itself
        if self.buckets:
            self._check_outputs(stock)
        names = (*(self.names if self.buckets else ()), *self.norms, self.output, self.after)
        kept = {name for name in names if name is not None}
        if missing := kept - {name for name, _ in stock.named_children()}:
            raise AttributeError(f"the attention has no {min(missing)}")
        for name, module in stock.named_children():  # in its order, in which an optimizer's moments are stored
            if name in kept:
                self.add_module(name, module)

    def _check_outputs(self, stock: Any) -> None:
        """Check that each projection of the stock attention has the outputs that the heads have."""
        wanted: dict[str, int] = {}
        for name, sizes in zip(self.names, self._sizes(), strict=True):
            wanted[name] = wanted.get(name, 0) + sum(sizes)
        for name, size in wanted.items():
            if (found := getattr(stock, name).out_features) != size:
                raise ValueError(f"{name} has {found} outputs, its heads have {size}")

    def project(self, hidden_states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Query, key and value of the same states, `(batch, tokens, dims as stored)` each; empty without heads."""
        if not self.buckets:
            return hidden_states[..., :0], hidden_states[..., :0], hidden_states[..., :0]
        sizes = [sum(sizes) for sizes in self._sizes()]
        if len(set(self.names)) == 1:
            query, key, value = self._projected(0, hidden_states).split(sizes, dim=-1)
            return query, key, value
        if not self._joins(hidden_states):
            return (
                self._projected(0, hidden_states),
                self._projected(1, hidden_states),
                self._projected(2, hidden_states),
            )
        joined = functional.linear(hidden_states, self._joined("weight"), self._joined("bias"))
        query, key, value = joined.split(sizes, dim=-1)
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
        output = getattr(self, self.after)(output) if self.after else output
        if self.training and bias is not None and not self.buckets:
            output = output + 0.0 * bias.sum()  # a gradient of 0, as in the masked model: None would be skipped
        return output

    def _masks(self, mask: Tensor | None, bias: Tensor | None, rules: KernelRules) -> list[Tensor | None]:
        """The mask of each bucket: the mask of the tokens plus the relative position bias of its heads."""
        if bias is None:
            return [None if mask is None else aligned_mask(mask, rules)] * len(self.buckets)
        own = bias if self.heads is None else _of_heads(bias, self.heads)
        if mask is None and self.causal and own.shape[2] > 1:
            mask = torch.ones(own.shape[2:], dtype=torch.bool, device=own.device).tril()
        if mask is not None:
            least = torch.finfo(own.dtype).min
            own = torch.where(mask, own, least) if mask.dtype == torch.bool else own + mask
        return list(aligned_mask(own, rules).split([bucket.heads for bucket in self.buckets], dim=1))

    def _attend_bucket(
        self, bucket: Bucket, parts: tuple[Tensor, ...], mask: Tensor | None, rules: KernelRules
    ) -> Tensor:
        """One call of attention: from query, key and value, `(batch, tokens, heads x width)` each, to the contexts."""
        batch, tokens, _ = parts[0].shape
        dropout = self.dropout_probability() if self.training else 0.0
        heads = bucket.heads, bucket.keys, bucket.keys
        query, key, value = heads_of(parts, heads, rules, rules.aligned(self._widths))
        if bucket.sharing:
            key, value = _at_heads(key, bucket.sharing), _at_heads(value, bucket.sharing)
        causal = self.causal and mask is None and tokens > 1
        context = functional.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, dropout_p=dropout, scale=self.scale, is_causal=causal
        )
        return context[..., : bucket.vo].transpose(1, 2).reshape(batch, tokens, -1)

    def dropout_probability(self) -> float:
        """The probability of an attention weight to be dropped in training."""
        return float(self.dropout.p if isinstance(self.dropout, nn.Dropout) else self.dropout)

    def _sizes(self) -> list[list[int]]:
        """Dims of each bucket as stored: of the query, the key and the value."""
        queries = [bucket.heads * bucket.qk for bucket in self.buckets]
        keys = [bucket.keys * bucket.qk for bucket in self.buckets]
        return [queries, keys, [bucket.keys * bucket.vo for bucket in self.buckets]]

    def _projected(self, number: int, states: Tensor) -> Tensor:
        return getattr(self, self.names[number])(states)

    def _joined(self, kind: str) -> Any:
        """The weights, or the biases if there are any, of query, key and value."""
        own = [getattr(getattr(self, name), kind) for name in self.names]
        return None if own[0] is None else torch.cat(own)

    def _joins(self, hidden_states: Tensor) -> bool:
        """Whether query, key and value are one product with the joined weights, which leaves out calls of the modules.

        It is faster for many tokens, or if joining is done only once: compilers and exporters fold it into a constant.
        The joined weights are not stored here, because a change of the weights by an optimizer cannot be detected, and
        the copy would be outdated.
        """
        if not all(_is_plain(getattr(self, name)) for name in self.names):
            return False
        return recorded() or (not self.training and hidden_states.shape[:-1].numel() >= JOIN_FROM)


def _is_plain(module: nn.Module) -> bool:
    """Whether a call of the module is the product with its weight alone: there is no adapter, no mask and no hook."""
    hooks = module._forward_hooks, module._forward_pre_hooks
    return (
        type(module) is nn.Linear and not any(hooks) and "forward" not in vars(module) and _can_be_joined(module.weight)
    )


def _can_be_joined(weight: Tensor) -> bool:
    """Whether the weight is an ordinary parameter: a tensor of another class, such as a quantised one, has no `cat`.

    An exporter puts a class of its own in place of a parameter, but not of a tensor that wraps others.
    """
    return type(weight) is nn.Parameter or (recorded() and not hasattr(weight, "__tensor_flatten__"))


def _of_heads(bias: Tensor, heads: list[int]) -> Tensor:
    """The bias of some heads: an index would be copied to a GPU in every call, which a CUDA graph cannot record."""
    if recorded():
        return bias[:, heads]
    by_head = bias.unbind(1)
    return torch.stack([by_head[head] for head in heads], dim=1)


def _at_heads(states: Tensor, sharing: tuple[int, ...]) -> Tensor:
    """`(batch, heads, tokens, width)`: the keys or the values `(batch, keys, tokens, width)` of each head."""
    batch, keys, tokens, width = states.shape
    if len(set(sharing)) == 1:
        shared = states.unsqueeze(2).expand(batch, keys, sharing[0], tokens, width)
        return shared.reshape(batch, -1, tokens, width)
    return torch.cat([states[:, n : n + 1].expand(-1, heads, -1, -1) for n, heads in enumerate(sharing)], dim=1)


def _buckets(structure: AttentionStructure) -> list[Bucket]:
    ends = list(accumulate(structure.buckets, initial=0))
    return [
        Bucket(
            end - start,
            _width(structure.qk[start:end], structure.multiple),
            _width(structure.vo[start:end], structure.multiple),
            (structure.queries or ())[start:end],
        )
        for start, end in pairwise(ends)
    ]


def _width(dims: tuple[int, ...], multiple: int) -> int:
    """The largest number of dims, at least 1, rounded up to a multiple."""
    return -(-max(1, *dims) // multiple) * multiple
