"""The tiny model and the padded batch that the specifications' golden tests are stated on."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
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


@pytest.fixture
def bert() -> Callable:
    """`build_bert`."""
    return build_bert


@pytest.fixture
def batch() -> dict[str, Tensor]:
    """5 x 11 tokens, rows 1 and 3 padded."""
    noise = torch.Generator().manual_seed(7)
    real = torch.ones(5, 11, dtype=torch.long)
    real[1, 6:] = 0
    real[3, 3:] = 0
    ids = torch.randint(1, 50, (5, 11), generator=noise) * real
    return {"input_ids": ids, "attention_mask": real, "labels": torch.tensor([0, 1, 2, 1, 0])}
