"""ModernBERT (Warner et al., 2024): a pre-LN encoder with rotary positions, and a gated feed-forward network.

Covers `ModernBertModel` and its classes for sequence classification, token classification and question answering.
Queries, keys and values are one Linear, and so are the neurons and their gates. The first layer has no norm before its
attention. Layers whose attention is full alternate with layers in which a token attends to a window around it; the
encoder passes the positions and the mask of its kind to each.
"""

from secateur.structure.architecture import Architecture, Attention, Embedding, Linear, Norm, Stack, in_turn
from secateur.structure.architectures import register

LAYER = (
    Norm("attn_norm", "hidden", behind="attention"),
    *in_turn("attn.Wqkv", ("qk", "qk", "vo"), "hidden", behind="attention"),
    Linear("attn.Wo", "hidden", "vo", behind="attention"),
    Norm("mlp_norm", "hidden", behind="mlp"),
    *in_turn("mlp.Wi", ("ffn", "ffn"), "hidden", behind="mlp"),
    Linear("mlp.Wo", "hidden", "ffn", behind="mlp"),
)
ATTENTION = Attention(
    "attn",
    "rotary",
    query="Wqkv",
    key="Wqkv",
    value="Wqkv",
    output="Wo",
    dropout="attention_dropout",
    after="out_drop",
    kinds="layer_types",
    windows={"sliding_attention": "sliding_window"},
)
HEAD = (Linear("head.dense", None, "hidden"), Norm("head.norm", None), Linear("classifier", None, None))

ARCHITECTURE = Architecture(
    model_type="modernbert",
    stacks=(Stack("layers", LAYER, (ATTENTION,)),),
    stem=(
        Embedding("embeddings.tok_embeddings", "hidden", rows="vocabulary"),
        Norm("embeddings.norm", "hidden"),
        Norm("final_norm", "hidden"),
    ),
    heads={
        "Model": (),
        "ForSequenceClassification": HEAD,
        "ForTokenClassification": HEAD,
        "ForQuestionAnswering": HEAD,
    },
)
register(ARCHITECTURE)
