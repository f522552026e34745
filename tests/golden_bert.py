"""The tiny BERT that the specifications' golden tests are stated on."""

import torch
from transformers import BertConfig, BertForSequenceClassification


def build_bert(*, seed: int = 0, dropout: float = 0.0, attention: str = "eager", **sizes: int):
    """A random BERT, all weights and biases N(0, 0.2^2): d=32, 4 heads, 2 layers, I=48 by default."""
    config = BertConfig(
        **{
            "vocab_size": 50,
            "hidden_size": 32,
            "num_attention_heads": 4,
            "num_hidden_layers": 2,
            "intermediate_size": 48,
            "max_position_embeddings": 16,
            "num_labels": 3,
            **sizes,
        },
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        attn_implementation=attention,
    )
    model = BertForSequenceClassification(config).eval()
    noise = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "LayerNorm" not in name:
                parameter.normal_(0.0, 0.2, generator=noise)
    return model
