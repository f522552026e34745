"""The words in which a family of Transformers is described: on which named axis each dimension of each parameter lies.

A family is data: one `Architecture` in one file of `architectures/`. `binding.bind` applies it to a model and returns
the model's `AxisTable`. Masks, cost, surgery and reports are derived from that table; no other code knows a family.

The axes of a layer are `qk` (dims of queries and keys), `vo` (dims of values) and `ffn` (neurons). Binding puts the
name of the layer in front: `3.ffn` in a family with one stack of layers, `encoder.3.ffn` and `decoder.3.ffn` in one
with two, and `decoder.3.cross.vo` for the second attention of a layer. Where several heads share one key and one value
(grouped-query attention), `qk` and `vo` are the dims of the heads, and `key` and `value` those of the KV heads, which
follow from them. The residual stream is the axis `hidden`. The pieces of the tokenizer are the axis `vocabulary`; they
are no units of a space, because they are cut by how often they occur in texts (`surgery.vocabulary`). A dimension that
is never pruned (positions, labels) has the axis `None`.

An encoder-decoder has one axis `hidden` for both stacks. Their residual streams have one width: word embeddings are
usually shared by the encoder, the decoder and the output layer, and cross-attention reads the encoder's stream while it
writes to the decoder's. With one mask for both, every use of a shared weight keeps the same columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from torch import nn

Axis = str | None
VOCABULARIES = ("vocabulary", "target_vocabulary")
"""The axes of pieces. The second is that of a decoder whose word embeddings may be its own; where they are the
encoder's, binding makes it the first."""


@dataclass(frozen=True)
class Linear:
    """A `torch.nn.Linear`: weight `(out, into)`, bias `(out,)`.

    Attributes:
        path: of the module; relative to a layer or to the base model, and once bound from the model's root.
        out, into: axes of the outputs and of the inputs.
        behind: the gate of the sublayer that the module belongs to; its output counts for nothing where that gate is 0.
        adds: path of the module that adds the sublayer's output to the residual stream, where the family has one.
        tied: set when the table is bound: the weight is shared with an embedding, which counts it and carries its
            masks.
        part, parts: the outputs of the module lie on `parts` axes in turn, each of the same number of outputs, and this
            row is about that number `part`: see `in_turn`.
        queries: whether it makes queries beside the first Linear on its axis, which always does: those of relative
            positions. Masks of QK dims act at queries, so that they act once in every product with keys.
    """

    path: str
    out: Axis
    into: Axis
    behind: str | None = None
    adds: str | None = None
    tied: bool = False
    part: int = 0
    parts: int = 1
    queries: bool = False

    def dims(self, module: nn.Module) -> dict[str, tuple[Axis, ...]]:
        """Name of each parameter -> the axes of its dimensions."""
        return {"weight": (self.out, self.into), "bias": (self.out,)}


def in_turn(path: str, outs: tuple[Axis, ...], into: Axis, behind: str | None = None) -> tuple[Row, ...]:
    """The rows of a Linear whose outputs are several things, one after the other: queries, keys and values, say.

    Args:
        outs: the axis of each, all of one size in the unpruned model. An axis may occur twice: a gate and what it
            multiplies lie on the same neurons.
    """
    return tuple(Linear(path, out, into, behind, part=part, parts=len(outs)) for part, out in enumerate(outs))


@dataclass(frozen=True)
class Norm:
    """A LayerNorm over `axis`, or, if not `centred`, an RMSNorm, which has no bias.

    A norm stands after the sum of a sublayer and the residual stream (post-LN) or before the sublayer (pre-LN). Where
    the gate of the sublayer that it is `behind` is 0, it becomes the identity: after the sum it would otherwise change
    the stream, and before a removed sublayer its output is not used.
    """

    path: str
    axis: Axis
    behind: str | None = None
    centred: bool = True

    def dims(self, module: nn.Module) -> dict[str, tuple[Axis, ...]]:
        """Name of each parameter -> the axes of its dimensions."""
        return {"weight": (self.axis,), "bias": (self.axis,)}


@dataclass(frozen=True)
class Embedding:
    """A lookup table `(rows, axis)`, or its factorisation: a table `(rows, rank)` and a projection `(axis, rank)`.

    Attributes:
        rows: `vocabulary` if there is a row for each piece of the tokenizer; None for positions and token types.
        whole: whether the model reads all rows at once, as a tensor, and not by looking some of them up.
    """

    path: str
    axis: Axis
    behind: str | None = None
    rows: Axis = None
    whole: bool = False

    def dims(self, module: nn.Module) -> dict[str, tuple[Axis, ...]]:
        """Name of each parameter -> the axes of its dimensions."""
        if isinstance(module, nn.Embedding):
            return {"weight": (self.rows, self.axis)}
        return {"table.weight": (self.rows, None), "projection.weight": (self.axis, None)}


@dataclass(frozen=True)
class Patches(Embedding):
    """The module that embeds an image: a convolution makes a vector of each patch, and single tokens stand before them.

    Its output is on the residual stream, where its masks act.

    Attributes:
        projection: path of the convolution, relative to the module: weight `(axis, channels, height, width)`.
        tokens: names of the module's own parameters for single tokens, `(1, 1, axis)`; a model need not have all.
        positions: name of its own parameter for the positions of all tokens, `(1, tokens, axis)`.
    """

    projection: str = ""
    tokens: tuple[str, ...] = ()
    positions: str = ""

    def dims(self, module: nn.Module) -> dict[str, tuple[Axis, ...]]:
        """Name of each parameter -> the axes of its dimensions."""
        weight, bias = f"{self.projection}.weight", f"{self.projection}.bias"
        tokens = dict.fromkeys((*self.tokens, self.positions), (None, None, self.axis))
        return {weight: (self.axis, None, None, None), bias: (self.axis,), **tokens}


Row = Linear | Norm | Embedding  # Patches are embeddings


Call = Literal["encoder", "encoder_bias", "disentangled", "rotary", "decoder", "seq2seq", "seq2seq_bias"]
"""How a stock layer calls its attention: the arguments, in order, and what is returned.

`encoder`: `(hidden_states, attention_mask)`; returns `(output, probabilities)`.
`encoder_bias`: `(hidden_states, attention_mask, position_bias)`, where the encoder looks up the relative position bias
    once, `(batch, heads, queries, keys)`, and passes it to every layer; returns `(output, ...)`.
`rotary`: `(hidden_states, position_embeddings=, attention_mask=)`, where the encoder computes the cosines and the sines
    of the rotary positions of the layer's kind, `(batch or 1, tokens, head dims)` each; returns `(output,
    probabilities)`. Dims i and i + half of a head are one pair, which is rotated by one angle.
`decoder`: as `rotary`, with `past_key_values=`, a cache of keys and values.
`disentangled`: `(hidden_states, attention_mask, output_attentions, query_states=, relative_pos=, rel_embeddings=)` with
    a mask `(batch, 1, queries, keys)` and embeddings of relative positions, which keys and queries are compared with
    too (DeBERTa); returns `(output, probabilities)`. Which of these scores there are is read off the stock module.
`seq2seq`: `(hidden_states, key_value_states, past_key_values, attention_mask)`, with the states of the encoder
    (cross-attention) and a cache; returns `(output, probabilities)`.
`seq2seq_bias`: `(hidden_states, mask, key_value_states, position_bias, past_key_values)`, where the first layer of a
    stack looks up the relative position bias, `(1, heads, queries, keys)`; returns `(output, bias, probabilities)`.

For each there is a class in `secateur.surgery.compact.attention_calls`.
"""


@dataclass(frozen=True)
class Attention:
    """Where an attention of a layer lies, how the layer calls it, and the names of its projections.

    Attributes:
        path: relative to the layer, and once bound from the model's root.
        call: how the layer calls it.
        query, key, value: names of the projections; one name if one Linear has all three as its parts.
        output: name of the output projection, where it is a child of the same module.
        block: prefix of the names of its axes and of its gate. Empty for the self-attention of a layer, `cross` for
            cross-attention; once bound with the layer in front, `3` or `decoder.3.cross`.
        scale: factor of the scores, None for the inverse square root of a head's dims.
        causal: whether a token attends only to itself and those before it when no mask is passed.
        bias: name of the child that is the table of relative position biases, in the layer that has it; once bound,
            None in all others.
        dropout: name of the attribute that is the dropout of the probabilities: a module, or a probability.
        after: name of the child that the output of the projection `output` passes through, where there is one.
        norms: names of the children that norm the queries and the keys of each head, over all of its dims, before they
            are rotated; in a model that has them, QK dims cannot be pruned one by one.
        kinds: the key of the family's config that names the kind of each layer's attention, where layers differ: of all
            tokens, or of a window around each. The stock model passes each kind its mask and its positions.
        windows: kind -> the key of the config that holds the distance up to which its tokens attend to others.
        kind: that of the layer, set when the table is bound.
        layer: number of the layer in its stack, set when the table is bound.
    """

    path: str
    call: Call
    query: str
    key: str
    value: str
    output: str | None = None
    block: str = ""
    scale: float | None = None
    causal: bool = False
    bias: str | None = None
    dropout: str = "dropout"
    after: str | None = None
    norms: tuple[str, ...] = ()
    kinds: str | None = None
    windows: Mapping[str, str] = field(default_factory=dict)
    kind: str | None = None
    layer: int = 0

    @property
    def takes_tokens(self) -> bool:
        """Whether the encoder takes no other mask than that of the tokens, `(batch, tokens)`."""
        return self.call == "disentangled"

    @property
    def takes_bias(self) -> bool:
        """Whether a relative position bias is added to the scores."""
        return self.call in ("encoder_bias", "seq2seq_bias")

    @property
    def rotary(self) -> bool:
        """Whether queries and keys are rotated, so that their dims can be kept in pairs alone."""
        return self.call in ("rotary", "decoder")


@dataclass(frozen=True)
class Stack:
    """Numbered layers that are all alike.

    Attributes:
        path: of the list of layers, relative to the base model.
        rows: the modules of one layer, with paths relative to it.
        attentions: the attentions of one layer. The heads of a model are counted attention by attention: for each
            entry here, all layers of the stack.
        name: prefix of the layers' numbers in a family with several stacks.
        heads: the key of the family's config that holds the number of heads.
        kv_heads: the key that holds the number of KV heads, each of which equally many heads share.
    """

    path: str
    rows: tuple[Row, ...]
    attentions: tuple[Attention, ...]
    name: str = ""
    heads: str = "num_attention_heads"
    kv_heads: str | None = None


@dataclass(frozen=True)
class Architecture:
    """A family of models.

    Attributes:
        model_type: its name in transformers.
        stacks: its stacks of layers.
        stem: the modules outside layers, with paths relative to the base model.
        heads: the modules of each task head, with paths from the model's root, by the end of the class's name:
            `ForSequenceClassification`, or `Model` for the model without a head.
        same: (axis, other, module): the first axis is the other one, unless the model has the module. ELECTRA's
            embeddings lie on the residual stream only in models that do not project them.
        neurons: the key of the family's config that holds the width of its feed-forward networks.
        head_dim: the key of the family's config that holds the dims of a head, where these do not follow from the width
            of the residual stream and the number of heads: a stock model can then have fewer of both.
        buffers: name of a buffer along the vocabulary, from the model's root -> the axes of its dimensions.
        pieces: the keys of the family's config that hold the number of pieces.
        counts_from_padding: whether positions are counted from the number of the padding token, which then must stay
            as it is.
        refused: path of a module that a model of the family may have and that cannot be pruned, relative to the base
            model -> what it is.
        left_over: names of tensors, relative to the base model, that published checkpoints of the family may hold
            although no model of it reads them.
        cut_config: key of the config of a cut model -> its value there, whatever it is in that of the whole model.
    """

    model_type: str
    stacks: tuple[Stack, ...]
    stem: tuple[Row, ...]
    heads: Mapping[str, tuple[Row, ...]]
    same: tuple[str, str, str] | None = None
    neurons: str = "intermediate_size"
    head_dim: str | None = None
    buffers: Mapping[str, tuple[Axis, ...]] = field(default_factory=dict)
    pieces: tuple[str, ...] = ("vocab_size",)
    counts_from_padding: bool = False
    refused: Mapping[str, str] = field(default_factory=dict)
    left_over: tuple[str, ...] = ()
    cut_config: Mapping[str, object] = field(default_factory=dict)
