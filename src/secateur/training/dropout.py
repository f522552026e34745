"""The dropout of a whole model, which some families keep in modules and others as numbers that their forwards read."""

from __future__ import annotations

from torch import nn


def set_dropout(model: nn.Module, share: float) -> None:
    """Set every dropout probability of the model.

    BERT has modules; BART and Marian also have numbers, called `dropout`, `activation_dropout` and so on.

    Args:
        share: the probability, in [0, 1).
    """
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = share
        for name, value in vars(module).items():
            if name.endswith("dropout") and type(value) in (int, float):
                setattr(module, name, share)
