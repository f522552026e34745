"""What the names of units and groups say. Nothing here imports torch: recipes are read by it."""

from __future__ import annotations


def kind_of(name: str) -> str:
    """The kind of the units that a name chooses: `ffn` of `ffn`, and of `encoder.ffn`, which is those of one stack."""
    return name.rpartition(".")[2]


def stack_of(name: str) -> str:
    """The stack of layers that a name is of: `decoder` of `decoder.0.ffn` and `decoder.ffn`; "" if it names none."""
    first, dot, _ = name.partition(".")
    return first if dot and not first.isdigit() else ""


def block_of(name: str) -> str:
    """The block of a group or a gate: `decoder.0.cross` of `decoder.0.cross.attention`; "" if it is in none."""
    return name.rpartition(".")[0]


def kind_of_block(block: str) -> str:
    """What the blocks of all layers have in common: `decoder.cross` for `decoder.0.cross`, `layers` for `0`."""
    return ".".join(part for part in block.split(".") if not part.isdigit()) or "layers"
