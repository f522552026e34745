"""Marian (Junczys-Dowmunt et al., ACL 2018): BART's layers over sinusoidal positions, without a norm of embeddings."""

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
