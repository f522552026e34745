"""The modules of a cut model that are not stock modules with smaller tensors, and the classes that load it.

The package contains nothing about a family: the `secateur` key of `config.json` (`schema`) lists the modules to resize
and to replace, and `reshape` does it. A saved folder contains this package as one file, `modeling_secateur.py`
(`shipped_code`), so it imports torch, transformers and the standard library only.
"""

from secateur.surgery.compact.attention import CompactAttention
from secateur.surgery.compact.integrity import PLAN, SUMS, DamagedError, check_places, sums
from secateur.surgery.compact.modules import FactorisedEmbedding, QuantisedEmbedding, SharedEmbedding, SharedHead
from secateur.surgery.compact.pretrained import CODE, POOLING, Pruned, auto_map, pruned
from secateur.surgery.compact.shapes import first_names, reshape, tied_names
from secateur.surgery.shipped_code import shipped_code

__all__ = [
    "CODE",
    "PLAN",
    "POOLING",
    "SUMS",
    "CompactAttention",
    "DamagedError",
    "FactorisedEmbedding",
    "Pruned",
    "QuantisedEmbedding",
    "SharedEmbedding",
    "SharedHead",
    "auto_map",
    "check_places",
    "first_names",
    "pruned",
    "reshape",
    "sums",
    "tied_names",
]

Pruned.code = staticmethod(shipped_code)
