"""Marian (Junczys-Dowmunt et al., ACL 2018): BART's layers with sinusoidal positions and no norm of the embeddings.

Covers `MarianModel` and `MarianMTModel`. The config may give encoder and decoder separate word embeddings, whose pieces
may then be those of two tokenizers.
"""

from dataclasses import replace

from secateur.structure.architecture import Linear
from secateur.structure.architectures import register
from secateur.structure.architectures.bart import ARCHITECTURE as BART
from secateur.structure.architectures.bart import embeddings

ARCHITECTURE = replace(
    BART,
    model_type="marian",
    stem=embeddings("target_vocabulary"),
    heads={"Model": (), "MTModel": (Linear("lm_head", "target_vocabulary", "hidden"),)},
    buffers={"final_logits_bias": (None, "target_vocabulary")},
    pieces=("vocab_size", "decoder_vocab_size"),
)
register(ARCHITECTURE)
