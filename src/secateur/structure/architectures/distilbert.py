"""DistilBERT (Sanh et al., 2019): a post-LN encoder like BERT's, without token types and pooler.

Covers `DistilBertModel` and its classes for sequence classification, token classification and question answering. Its
modules and the keys of its config have other names than BERT's, and its attention contains the output projection.
"""

from secateur.structure.architecture import Architecture, Attention, Embedding, Linear, Norm, Stack
from secateur.structure.architectures import register

LAYER = (
    Linear("attention.q_lin", "qk", "hidden", behind="attention"),
    Linear("attention.k_lin", "qk", "hidden", behind="attention"),
    Linear("attention.v_lin", "vo", "hidden", behind="attention"),
    Linear("attention.out_lin", "hidden", "vo", behind="attention"),
    Norm("sa_layer_norm", "hidden", behind="attention"),
    Linear("ffn.lin1", "ffn", "hidden", behind="mlp"),
    Linear("ffn.lin2", "hidden", "ffn", behind="mlp"),
    Norm("output_layer_norm", "hidden", behind="mlp"),
)
ATTENTION = Attention("attention", "encoder", query="q_lin", key="k_lin", value="v_lin", output="out_lin")

ARCHITECTURE = Architecture(
    model_type="distilbert",
    stacks=(Stack("transformer.layer", LAYER, (ATTENTION,)),),
    stem=(
        Embedding("embeddings.word_embeddings", "hidden", rows="vocabulary"),
        Embedding("embeddings.position_embeddings", "hidden"),
        Norm("embeddings.LayerNorm", "hidden"),
    ),
    heads={
        "Model": (),
        "ForSequenceClassification": (
            Linear("pre_classifier", None, "hidden"),
            Linear("classifier", None, None),
        ),
        "ForTokenClassification": (Linear("classifier", None, "hidden"),),
        "ForQuestionAnswering": (Linear("qa_outputs", None, "hidden"),),
    },
    neurons="hidden_dim",
    cut_config={"sinusoidal_pos_embds": False},  # when loaded, sinusoids of the stock width replace those that were cut
)
register(ARCHITECTURE)
