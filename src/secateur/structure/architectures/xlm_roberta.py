"""XLM-RoBERTa (Conneau et al., ACL 2020): RoBERTa on 100 languages, with 250,002 pieces of SentencePiece.

In the base size, 192 M of 278 M parameters are word embeddings: remove pieces that texts do not need
(`surgery.vocabulary`).
"""

from dataclasses import replace

from secateur.structure.architectures import register
from secateur.structure.architectures.roberta import ARCHITECTURE as ROBERTA

ARCHITECTURE = replace(ROBERTA, model_type="xlm-roberta")
register(ARCHITECTURE)
