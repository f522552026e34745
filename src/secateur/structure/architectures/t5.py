"""T5 (Raffel et al., JMLR 2020) and T5 v1.1: a pre-LN encoder-decoder without biases.

Covers `T5Model` and `T5ForConditionalGeneration`. Norms are RMSNorm and attention scores are not scaled. The first
self-attention of each stack looks up the relative position bias that all layers of the stack add. The feed-forward
network is plain (`wi`) in T5 and gated (`wi_0`, `wi_1`) in T5 v1.1. The size of a head is `d_kv`, which does not depend
on the width of the residual stream.
"""

from dataclasses import replace

from secateur.structure.architecture import Architecture, Attention, Embedding, Linear, Norm, Row, Stack
from secateur.structure.architectures import register


def attention(number: int, name: str, gate: str, axis: str = "") -> tuple[Row, ...]:
    """The rows of an attention and the norm before it; `axis` is the prefix of the names of its axes."""
    path = f"layer.{number}.{name}"
    return (
        Norm(f"layer.{number}.layer_norm", "hidden", behind=gate, centred=False),
        Linear(f"{path}.q", f"{axis}qk", "hidden", behind=gate),
        Linear(f"{path}.k", f"{axis}qk", "hidden", behind=gate),
        Linear(f"{path}.v", f"{axis}vo", "hidden", behind=gate),
        Linear(f"{path}.o", "hidden", f"{axis}vo", behind=gate),
        Embedding(f"{path}.relative_attention_bias", None),
    )


def network(number: int) -> tuple[Row, ...]:
    """The rows of a feed-forward network and the norm before it."""
    path = f"layer.{number}.DenseReluDense"
    return (
        Norm(f"layer.{number}.layer_norm", "hidden", behind="mlp", centred=False),
        Linear(f"{path}.wi", "ffn", "hidden", behind="mlp"),
        Linear(f"{path}.wi_0", "ffn", "hidden", behind="mlp"),
        Linear(f"{path}.wi_1", "ffn", "hidden", behind="mlp"),
        Linear(f"{path}.wo", "hidden", "ffn", behind="mlp"),
    )


SELF = Attention(
    "layer.0.SelfAttention",
    "seq2seq_bias",
    query="q",
    key="k",
    value="v",
    output="o",
    scale=1.0,
    bias="relative_attention_bias",
)
CAUSAL = replace(SELF, causal=True)
CROSS = replace(SELF, path="layer.1.EncDecAttention", block="cross", bias=None)
ENCODER = Stack("encoder.block", (*attention(0, "SelfAttention", "attention"), *network(1)), (SELF,), name="encoder")
DECODER = Stack(
    "decoder.block",
    (
        *attention(0, "SelfAttention", "attention"),
        *attention(1, "EncDecAttention", "cross.attention", "cross."),
        *network(2),
    ),
    (CROSS, CAUSAL),
    name="decoder",
)

ARCHITECTURE = Architecture(
    model_type="t5",
    stacks=(ENCODER, DECODER),
    stem=(
        Embedding("shared", "hidden", rows="vocabulary"),
        Embedding("encoder.embed_tokens", "hidden", rows="vocabulary"),
        Embedding("decoder.embed_tokens", "hidden", rows="vocabulary"),
        Norm("encoder.final_layer_norm", "hidden", centred=False),
        Norm("decoder.final_layer_norm", "hidden", centred=False),
    ),
    heads={"Model": (), "ForConditionalGeneration": (Linear("lm_head", "vocabulary", "hidden"),)},
    neurons="d_ff",
)
register(ARCHITECTURE)
