"""What a cut model is made of: stock Hugging Face modules with smaller tensors, and the modules of this package.

The package knows no architecture: the `secateur` key of `config.json` (`schema`) says, path by path, what to resize and
what to replace, and `reshape` does it. A saved folder carries all of it as one file, `modeling_secateur.py`
(`shipped_code`), so it imports torch, transformers and the standard library alone.
"""

from secateur.surgery.compact.attention import CompactAttention
from secateur.surgery.compact.integrity import PLAN, SUMS, DamagedError, check_places, sums
from secateur.surgery.compact.modules import FactorisedEmbedding
from secateur.surgery.compact.pretrained import CODE, Pruned, pruned
from secateur.surgery.compact.shapes import first_names, reshape, tied_names
from secateur.surgery.shipped_code import shipped_code

__all__ = [
    "CODE",
    "PLAN",
    "SUMS",
    "CompactAttention",
    "DamagedError",
    "FactorisedEmbedding",
    "Pruned",
    "check_places",
    "first_names",
    "pruned",
    "reshape",
    "sums",
    "tied_names",
]

Pruned.code = staticmethod(shipped_code)
