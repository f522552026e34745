"""Llama (Touvron et al., 2023): a pre-LN decoder with RMSNorm, rotary positions and a gated feed-forward network.

Covers `LlamaModel` and its classes for language modelling and sequence classification. Several heads may share one key
and one value (grouped-query attention, Ainslie et al., EMNLP 2023). Qwen and Mistral reuse these layers.
"""

from secateur.structure.architecture import Architecture, Attention, Embedding, Linear, Norm, Stack
from secateur.structure.architectures import register

LAYER = (
    Norm("input_layernorm", "hidden", behind="attention", centred=False),
    Linear("self_attn.q_proj", "qk", "hidden", behind="attention"),
    Linear("self_attn.k_proj", "key", "hidden", behind="attention"),
    Linear("self_attn.v_proj", "value", "hidden", behind="attention"),
    Linear("self_attn.o_proj", "hidden", "vo", behind="attention"),
    Norm("post_attention_layernorm", "hidden", behind="mlp", centred=False),
    Linear("mlp.gate_proj", "ffn", "hidden", behind="mlp"),
    Linear("mlp.up_proj", "ffn", "hidden", behind="mlp"),
    Linear("mlp.down_proj", "hidden", "ffn", behind="mlp"),
)
ATTENTION = Attention(
    "self_attn",
    "decoder",
    query="q_proj",
    key="k_proj",
    value="v_proj",
    output="o_proj",
    causal=True,
    dropout="attention_dropout",
)

ARCHITECTURE = Architecture(
    model_type="llama",
    stacks=(Stack("layers", LAYER, (ATTENTION,), kv_heads="num_key_value_heads"),),
    stem=(Embedding("embed_tokens", "hidden", rows="vocabulary"), Norm("norm", "hidden", centred=False)),
    heads={
        "Model": (),
        "ForCausalLM": (Linear("lm_head", "vocabulary", "hidden"),),
        "ForSequenceClassification": (Linear("score", None, "hidden"),),
    },
    head_dim="head_dim",
)
register(ARCHITECTURE)
