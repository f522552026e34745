"""CamemBERT (Martin et al., ACL 2020): RoBERTa on French, with 32,005 pieces of SentencePiece."""

from dataclasses import replace

from secateur.structure.architectures import register
from secateur.structure.architectures.roberta import ARCHITECTURE as ROBERTA

ARCHITECTURE = replace(ROBERTA, model_type="camembert")
register(ARCHITECTURE)
