"""A BERT small enough to count its units by hand, and which units of its space a test keeps."""

from transformers import BertConfig, BertForSequenceClassification

LAYERS, HEADS, HEAD_DIM, HIDDEN, FFN = 2, 2, 4, 8, 6


def bert(**sizes):
    config = BertConfig(
        **{
            "vocab_size": 20,
            "hidden_size": HIDDEN,
            "num_attention_heads": HEADS,
            "num_hidden_layers": LAYERS,
            "intermediate_size": FFN,
            "max_position_embeddings": 8,
            **sizes,
        }
    )
    return BertForSequenceClassification(config)


def without(space, *removed):
    """`(N,)` bool: all units except whole groups (`"0.ffn"`) and parts of groups (`("0.vo", slice(0, 4))`)."""
    kept = space.ones().bool()
    for part in removed:
        group, units = part if isinstance(part, tuple) else (part, slice(None))
        kept[space.slices[group]][units] = False
    return kept


def removed_units(space, kept):
    """Group -> indices of its units that are not kept, for the groups that have some."""
    lost = {name: (~kept[rows]).nonzero().flatten().tolist() for name, rows in space.slices.items()}
    return {name: units for name, units in lost.items() if units}
