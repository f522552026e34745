"""ELECTRA (Clark et al., ICLR 2020): BERT's layers on embeddings that may be narrower than the residual stream.

Covers `ElectraModel` and its classes for sequence classification, token classification and question answering. Where
`embedding_size` differs from `hidden_size`, the model projects its embeddings to the residual stream, and they have an
axis of their own, which is not pruned. Otherwise they lie on the residual stream.
"""

from dataclasses import replace

from secateur.structure.architecture import Embedding, Linear, Norm
from secateur.structure.architectures import register
from secateur.structure.architectures.bert import ARCHITECTURE as BERT
from secateur.structure.architectures.roberta import HEADS

STEM = (
    Embedding("embeddings.word_embeddings", "embedding", rows="vocabulary"),
    Embedding("embeddings.position_embeddings", "embedding"),
    Embedding("embeddings.token_type_embeddings", "embedding"),
    Norm("embeddings.LayerNorm", "embedding"),
    Linear("embeddings_project", "hidden", "embedding"),
)

ARCHITECTURE = replace(
    BERT,
    model_type="electra",
    stem=STEM,
    same=("embedding", "hidden", "embeddings_project"),
    heads=HEADS,
)
register(ARCHITECTURE)
