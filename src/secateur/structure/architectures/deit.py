"""DeiT (Touvron et al., ICML 2021): a ViT with a second single token, whose state learns from a teacher.

The class for image classification reads the state of the first token alone. The class with a classifier of each single
token is not covered: transformers cannot train it.
"""

from dataclasses import replace

from secateur.structure.architectures import register
from secateur.structure.architectures.vit import ARCHITECTURE as VIT

ARCHITECTURE = replace(VIT, model_type="deit")
register(ARCHITECTURE)
