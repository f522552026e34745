"""Marian (Junczys-Dowmunt et al., ACL 2018): BART's layers with sinusoidal positions and no norm of the embeddings.

Covers `MarianModel` and `MarianMTModel`. The config may give encoder and decoder separate word embeddings, whose pieces
may then be those of two tokenizers.
"""

from dataclasses import replace

from secateur.structure.architecture import Embedding, Linear
from secateur.structure.architectures import register
from secateur.structure.architectures.bart import ARCHITECTURE as BART

ARCHITECTURE = replace(
    BART,
    model_type="marian",
    stem=(
        Embedding("shared", "hidden", rows="vocabulary"),
        Embedding("encoder.embed_tokens", "hidden", rows="vocabulary"),
        Embedding("decoder.embed_tokens", "hidden", rows="target_vocabulary"),
        Embedding("encoder.embed_positions", "hidden"),
        Embedding("decoder.embed_positions", "hidden"),
    ),
    heads={"Model": (), "MTModel": (Linear("lm_head", "target_vocabulary", "hidden"),)},
    buffers={"final_logits_bias": (None, "target_vocabulary")},
    pieces=("vocab_size", "decoder_vocab_size"),
)
register(ARCHITECTURE)
