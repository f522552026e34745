"""ViT (Dosovitskiy et al., ICLR 2021): a pre-LN encoder of the patches of an image.

Covers `ViTModel` and its class for image classification, which reads the state of the first token. Where the model has
a pooler, its outputs are not pruned. DeiT reuses these layers.
"""

from secateur.structure.architecture import Architecture, Attention, Linear, Norm, Patches, Stack
from secateur.structure.architectures import register

TOKENS = ("cls_token", "distillation_token", "mask_token")  # the second in DeiT
PATCHES = Patches(
    "embeddings",
    "hidden",
    projection="patch_embeddings.projection",
    tokens=TOKENS,
    positions="position_embeddings",
)
LAYER = (
    Norm("layernorm_before", "hidden", behind="attention"),
    Linear("attention.q_proj", "qk", "hidden", behind="attention"),
    Linear("attention.k_proj", "qk", "hidden", behind="attention"),
    Linear("attention.v_proj", "vo", "hidden", behind="attention"),
    Linear("attention.o_proj", "hidden", "vo", behind="attention"),
    Norm("layernorm_after", "hidden", behind="mlp"),
    Linear("mlp.fc1", "ffn", "hidden", behind="mlp"),
    Linear("mlp.fc2", "hidden", "ffn", behind="mlp"),
)
ATTENTION = Attention(
    "attention",
    "encoder",
    query="q_proj",
    key="k_proj",
    value="v_proj",
    output="o_proj",
    dropout="attention_dropout",
)

ARCHITECTURE = Architecture(
    model_type="vit",
    stacks=(Stack("layers", LAYER, (ATTENTION,)),),
    stem=(PATCHES, Norm("layernorm", "hidden"), Linear("pooler.dense", None, "hidden")),
    heads={"Model": (), "ForImageClassification": (Linear("classifier", None, "hidden"),)},
    head_dim="head_dim",
    pieces=(),
)
register(ARCHITECTURE)
