"""Qwen2 (Yang et al., 2024) and Qwen2.5: Llama's layers with biases in queries, keys and values.

In some of its layers a token may attend to a window only.
"""

from dataclasses import replace

from secateur.structure.architecture import Stack
from secateur.structure.architectures import register
from secateur.structure.architectures.llama import ARCHITECTURE as LLAMA
from secateur.structure.architectures.llama import ATTENTION, LAYER

WINDOWED = replace(ATTENTION, kinds="layer_types", windows={"sliding_attention": "sliding_window"})
ARCHITECTURE = replace(
    LLAMA, model_type="qwen2", stacks=(Stack("layers", LAYER, (WINDOWED,), kv_heads="num_key_value_heads"),)
)
register(ARCHITECTURE)
