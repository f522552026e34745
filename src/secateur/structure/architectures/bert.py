"""BERT (Devlin et al., NAACL 2019): a post-LN encoder.

Covers `BertModel` and its classes for sequence classification, token classification and question answering. Where the
model has a pooler, its outputs are not pruned. RoBERTa and ELECTRA reuse these layers.
"""

from secateur.structure.architecture import Architecture, Attention, Embedding, Linear, Norm, Stack
from secateur.structure.architectures import register

STEM = (
    Embedding("embeddings.word_embeddings", "hidden", rows="vocabulary"),
    Embedding("embeddings.position_embeddings", "hidden"),
    Embedding("embeddings.token_type_embeddings", "hidden"),
    Norm("embeddings.LayerNorm", "hidden"),
    Linear("pooler.dense", None, "hidden"),
)
LAYER = (
    Linear("attention.self.query", "qk", "hidden", behind="attention"),
    Linear("attention.self.key", "qk", "hidden", behind="attention"),
    Linear("attention.self.value", "vo", "hidden", behind="attention"),
    Linear("attention.output.dense", "hidden", "vo", behind="attention", adds="attention.output"),
    Norm("attention.output.LayerNorm", "hidden", behind="attention"),
    Linear("intermediate.dense", "ffn", "hidden", behind="mlp"),
    Linear("output.dense", "hidden", "ffn", behind="mlp", adds="output"),
    Norm("output.LayerNorm", "hidden", behind="mlp"),
)
ATTENTION = Attention("attention.self", "encoder", query="query", key="key", value="value")

ARCHITECTURE = Architecture(
    model_type="bert",
    stacks=(Stack("encoder.layer", LAYER, (ATTENTION,)),),
    stem=STEM,
    heads={
        "Model": (),
        "ForSequenceClassification": (Linear("classifier", None, None),),
        "ForTokenClassification": (Linear("classifier", None, "hidden"),),
        "ForQuestionAnswering": (Linear("qa_outputs", None, "hidden"),),
    },
)
register(ARCHITECTURE)
