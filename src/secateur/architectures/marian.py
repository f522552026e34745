"""Marian (Junczys-Dowmunt et al., ACL 2018): BART's layers over sinusoidal positions, without a norm of embeddings."""

from dataclasses import replace

from secateur.architecture import Linear
from secateur.architectures.bart import ARCHITECTURE as BART
from secateur.architectures.bart import EMBEDDINGS

ARCHITECTURE = replace(
    BART,
    model_type="marian",
    stem=EMBEDDINGS,
    heads={"Model": (), "MTModel": (Linear("lm_head", None, "hidden"),)},
)
