"""BART (Lewis et al., ACL 2020): a post-LN encoder-decoder with learned positions.

Covers `BartModel` and `BartForConditionalGeneration`. Encoder, decoder and output layer share the word embeddings
unless the config separates them. The layers of the decoder have a second attention, to the encoder's states. Marian
reuses these layers.
"""

from dataclasses import replace

from secateur.structure.architecture import Architecture, Attention, Embedding, Linear, Norm, Row, Stack
from secateur.structure.architectures import register


def attention(path: str, gate: str, axis: str = "") -> tuple[Row, ...]:
    """The rows of an attention and the norm after it; `axis` is the prefix of the names of its axes."""
    return (
        Linear(f"{path}.q_proj", f"{axis}qk", "hidden", behind=gate),
        Linear(f"{path}.k_proj", f"{axis}qk", "hidden", behind=gate),
        Linear(f"{path}.v_proj", f"{axis}vo", "hidden", behind=gate),
        Linear(f"{path}.out_proj", "hidden", f"{axis}vo", behind=gate),
        Norm(f"{path}_layer_norm", "hidden", behind=gate),
    )


SELF = Attention("self_attn", "seq2seq", query="q_proj", key="k_proj", value="v_proj", output="out_proj")
CAUSAL = replace(SELF, causal=True)
CROSS = replace(SELF, path="encoder_attn", block="cross")
FFN = (
    Linear("fc1", "ffn", "hidden", behind="mlp"),
    Linear("fc2", "hidden", "ffn", behind="mlp"),
    Norm("final_layer_norm", "hidden", behind="mlp"),
)
ENCODER = Stack(
    "encoder.layers",
    (*attention("self_attn", "attention"), *FFN),
    (SELF,),
    name="encoder",
    heads="encoder_attention_heads",
)
DECODER = Stack(
    "decoder.layers",
    (*attention("self_attn", "attention"), *attention("encoder_attn", "cross.attention", "cross."), *FFN),
    (CROSS, CAUSAL),
    name="decoder",
    heads="decoder_attention_heads",
)


def embeddings(target: str) -> tuple[Row, ...]:
    """The rows of the embeddings; `target` is the axis of the pieces of the decoder."""
    return (
        Embedding("shared", "hidden", rows="vocabulary"),
        Embedding("encoder.embed_tokens", "hidden", rows="vocabulary"),
        Embedding("decoder.embed_tokens", "hidden", rows=target),
        Embedding("encoder.embed_positions", "hidden"),
        Embedding("decoder.embed_positions", "hidden"),
    )


ARCHITECTURE = Architecture(
    model_type="bart",
    stacks=(ENCODER, DECODER),
    stem=(
        *embeddings("vocabulary"),
        Norm("encoder.layernorm_embedding", "hidden"),
        Norm("decoder.layernorm_embedding", "hidden"),
    ),
    heads={"Model": (), "ForConditionalGeneration": (Linear("lm_head", "vocabulary", "hidden"),)},
    neurons="encoder_ffn_dim",
    buffers={"final_logits_bias": (None, "vocabulary")},
)
register(ARCHITECTURE)
