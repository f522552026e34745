"""DeBERTa-v2 and v3 (He et al., ICLR 2021 and 2023): a post-LN encoder whose scores are a sum of two or three terms.

Covers `DebertaV2Model` and its classes for sequence classification, token classification and question answering. All
layers read one table of relative positions, which may be normed, and project it to keys and queries of positions: by
projections of their own, or with `share_att_key` (v3) by those of the contents. Positions of the tokens, token types
and a projection of narrower embeddings are there in some models. The xlarge and xxlarge models of v2 have a convolution
after the first layer. Checkpoints of v3 may hold what its pre-training added to the word embeddings of the generator
(gradient-disentangled embedding sharing), which no model reads.
"""

from secateur.structure.architecture import Architecture, Attention, Embedding, Linear, Norm, Stack
from secateur.structure.architectures import register

LAYER = (
    Linear("attention.self.query_proj", "qk", "hidden", behind="attention"),
    Linear("attention.self.key_proj", "qk", "hidden", behind="attention"),
    Linear("attention.self.value_proj", "vo", "hidden", behind="attention"),
    Linear("attention.self.pos_key_proj", "qk", "hidden", behind="attention"),
    Linear("attention.self.pos_query_proj", "qk", "hidden", behind="attention", queries=True),
    Linear("attention.output.dense", "hidden", "vo", behind="attention", adds="attention.output"),
    Norm("attention.output.LayerNorm", "hidden", behind="attention"),
    Linear("intermediate.dense", "ffn", "hidden", behind="mlp"),
    Linear("output.dense", "hidden", "ffn", behind="mlp", adds="output"),
    Norm("output.LayerNorm", "hidden", behind="mlp"),
)
ATTENTION = Attention("attention.self", "disentangled", query="query_proj", key="key_proj", value="value_proj")

ARCHITECTURE = Architecture(
    model_type="deberta-v2",
    stacks=(Stack("encoder.layer", LAYER, (ATTENTION,)),),
    stem=(
        Embedding("embeddings.word_embeddings", "embedding", rows="vocabulary"),
        Embedding("embeddings.position_embeddings", "embedding"),
        Embedding("embeddings.token_type_embeddings", "embedding"),
        Linear("embeddings.embed_proj", "hidden", "embedding"),
        Norm("embeddings.LayerNorm", "hidden"),
        Embedding("encoder.rel_embeddings", "hidden", whole=True),
        Norm("encoder.LayerNorm", "hidden"),
    ),
    heads={
        "Model": (),
        "ForSequenceClassification": (Linear("pooler.dense", None, "hidden"), Linear("classifier", None, None)),
        "ForTokenClassification": (Linear("classifier", None, "hidden"),),
        "ForQuestionAnswering": (Linear("qa_outputs", None, "hidden"),),
    },
    same=("embedding", "hidden", "embeddings.embed_proj"),
    refused={"encoder.conv": "a convolution (`conv_kernel_size`)"},
    left_over=("embeddings.word_embeddings._weight",),
)
register(ARCHITECTURE)
