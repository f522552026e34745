"""A family of models that secateur does not know, described in one file of data: Nomic BERT.

    python examples/add_an_architecture.py                    # prune a tiny random model of it
    PYTHONPATH=examples pytest -p add_an_architecture tests/laws -k "nomic_bert and not saved and not resumed"
    secateur --import examples/add_an_architecture.py prune nomic-ai/nomic-embed-text-v1.5 ...

Nomic BERT (Nussbaum et al., 2024) is a post-LN encoder with rotary positions, a gated feed-forward network and no
positions among its embeddings. What each word means is in docs/add-an-architecture.md.
"""

from typing import Any

import torch
from transformers import NomicBertConfig, NomicBertForSequenceClassification

import secateur
from secateur.structure.architecture import Architecture, Attention, Embedding, Linear, Norm, Stack

LAYER = (
    Linear("self_attn.q_proj", "qk", "hidden", behind="attention"),
    Linear("self_attn.k_proj", "qk", "hidden", behind="attention"),
    Linear("self_attn.v_proj", "vo", "hidden", behind="attention"),
    Linear("self_attn.o_proj", "hidden", "vo", behind="attention"),
    Norm("post_attention_layernorm", "hidden", behind="attention"),
    Linear("mlp.gate_proj", "ffn", "hidden", behind="mlp"),
    Linear("mlp.up_proj", "ffn", "hidden", behind="mlp"),
    Linear("mlp.down_proj", "hidden", "ffn", behind="mlp"),
    Norm("post_mlp_layernorm", "hidden", behind="mlp"),
)
ATTENTION = Attention(
    "self_attn",
    "rotary",
    query="q_proj",
    key="k_proj",
    value="v_proj",
    output="o_proj",
    dropout="attention_dropout",
)
NOMIC_BERT = secateur.architectures.register(
    Architecture(
        model_type="nomic_bert",
        stacks=(Stack("layers", LAYER, (ATTENTION,)),),
        stem=(
            Embedding("embeddings.word_embeddings", "hidden", rows="vocabulary"),
            Embedding("embeddings.token_type_embeddings", "hidden"),
            Norm("embeddings.LayerNorm", "hidden"),
            Linear("pooler.dense", None, "hidden"),
        ),
        heads={
            "Model": (),
            "ForSequenceClassification": (Linear("classifier", None, None),),
            "ForTokenClassification": (Linear("classifier", None, "hidden"),),
        },
    )
)


def main() -> None:
    """Prune a tiny random model to a quarter by magnitude, and compare its outputs with those under masks."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
    model = NomicBertForSequenceClassification(NomicBertConfig(vocab_size=100, hidden_size=64, **sizes)).eval()
    space = secateur.Space(model, "ffn", "qk", "vo")
    plan = secateur.methods.METHODS.get("magnitude")(space).plan(0.25)
    small = secateur.cut(model, plan)
    ids = torch.arange(12).view(1, 12)
    with torch.no_grad(), secateur.surgery.masking.attached(model, space, plan.masks):
        masked = model(input_ids=ids).logits
    with torch.no_grad():
        difference = float((small(input_ids=ids).logits - masked).abs().max())
    print(
        f"density {plan.achieved['prunable']:.3f}, {small.num_parameters():,} of {model.num_parameters():,} parameters"
    )
    print(f"the cut model differs from the masked one by {difference:.1e}")


if __name__ == "__main__":
    main()
