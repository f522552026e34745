"""MPNet (Song et al., NeurIPS 2020): a post-LN encoder with a relative position bias.

Covers `MPNetModel` and its classes for sequence classification, token classification and question answering. The
encoder looks the bias up once, in a table of 32 buckets of distances, and passes it to the attention of every layer.
There are no token types.
"""

from secateur.structure.architecture import Architecture, Attention, Embedding, Linear, Norm, Stack
from secateur.structure.architectures import register
from secateur.structure.architectures.roberta import HEADS

LAYER = (
    Linear("attention.attn.q", "qk", "hidden", behind="attention"),
    Linear("attention.attn.k", "qk", "hidden", behind="attention"),
    Linear("attention.attn.v", "vo", "hidden", behind="attention"),
    Linear("attention.attn.o", "hidden", "vo", behind="attention"),
    Norm("attention.LayerNorm", "hidden", behind="attention"),
    Linear("intermediate.dense", "ffn", "hidden", behind="mlp"),
    Linear("output.dense", "hidden", "ffn", behind="mlp", adds="output"),
    Norm("output.LayerNorm", "hidden", behind="mlp"),
)
ATTENTION = Attention("attention.attn", "encoder_bias", query="q", key="k", value="v", output="o")

ARCHITECTURE = Architecture(
    model_type="mpnet",
    stacks=(Stack("encoder.layer", LAYER, (ATTENTION,)),),
    stem=(
        Embedding("embeddings.word_embeddings", "hidden", rows="vocabulary"),
        Embedding("embeddings.position_embeddings", "hidden"),
        Norm("embeddings.LayerNorm", "hidden"),
        Embedding("encoder.relative_attention_bias", None),
        Linear("pooler.dense", None, "hidden"),
    ),
    heads=HEADS,
    counts_from_padding=True,
)
register(ARCHITECTURE)
