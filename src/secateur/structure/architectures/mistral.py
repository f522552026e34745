"""Mistral (Jiang et al., 2023): Llama's layers, in which a token may attend to a window only."""

from dataclasses import replace

from secateur.structure.architectures import register
from secateur.structure.architectures.llama import ARCHITECTURE as LLAMA

ARCHITECTURE = replace(LLAMA, model_type="mistral")
register(ARCHITECTURE)
