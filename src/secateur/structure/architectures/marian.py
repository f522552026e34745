"""Marian (Junczys-Dowmunt et al., ACL 2018): BART's layers with sinusoidal positions and no norm of the embeddings.

Covers `MarianModel` and `MarianMTModel`. The config may give encoder and decoder separate word embeddings.
"""

from dataclasses import replace

from secateur.structure.architecture import Linear
from secateur.structure.architectures import register
from secateur.structure.architectures.bart import ARCHITECTURE as BART
from secateur.structure.architectures.bart import EMBEDDINGS

ARCHITECTURE = replace(
    BART,
    model_type="marian",
    stem=EMBEDDINGS,
    heads={"Model": (), "MTModel": (Linear("lm_head", None, "hidden"),)},
)
register(ARCHITECTURE)
