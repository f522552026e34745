"""Qwen3 (Yang et al., 2025): Llama's layers with an RMSNorm of each head's queries and keys."""

from dataclasses import replace

from secateur.structure.architecture import Norm, Stack
from secateur.structure.architectures import register
from secateur.structure.architectures.llama import LAYER
from secateur.structure.architectures.qwen2 import ARCHITECTURE as QWEN2
from secateur.structure.architectures.qwen2 import WINDOWED

NORMED = replace(WINDOWED, norms=("q_norm", "k_norm"))
NORMS = tuple(Norm(f"self_attn.{name}", None, behind="attention", centred=False) for name in NORMED.norms)
ARCHITECTURE = replace(
    QWEN2,
    model_type="qwen3",
    stacks=(Stack("layers", (*LAYER, *NORMS), (NORMED,), kv_heads="num_key_value_heads"),),
)
register(ARCHITECTURE)
