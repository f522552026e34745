"""The padding token of a classifier that is a decoder: its head reads the last token of a row that is no padding."""

from __future__ import annotations

from transformers import PreTrainedModel

from secateur.structure.architectures import ARCHITECTURES
from secateur.surgery.cross_encoders import CLASSIFIER
from secateur.system.errors import UserError


def lacks_padding(model: PreTrainedModel) -> bool:
    """Whether a model looks for the last token of each text, and its config names no padding token to tell it by."""
    if not type(model).__name__.endswith(CLASSIFIER) or getattr(model.config, "pad_token_id", None) is not None:
        return False
    family = ARCHITECTURES.all().get(model.config.model_type)  # a teacher may be of one that is not described
    return family is None or any(attention.causal for stack in family.stacks for attention in stack.attentions)


def check_padding(model: PreTrainedModel, rows: int) -> None:
    """Refuse batches of several rows for a model that cannot tell where a text ends.

    Raises:
        UserError: the model lacks a padding token.
    """
    if rows > 1 and lacks_padding(model):
        raise UserError(
            f"expected a padding token for a batch of {rows} rows, and the config of {type(model).__name__} has no "
            "pad_token_id: set it, or give a batch of 1"
        )
