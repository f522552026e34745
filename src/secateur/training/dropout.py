"""Dropout of a whole model: families keep it in modules, or as plain numbers that their forwards read."""

from __future__ import annotations

from torch import nn


def set_dropout(model: nn.Module, share: float) -> None:
    """Let every dropout of the model drop this share, in [0, 1), wherever it is written.

    BERT has modules; BART and Marian have numbers, called `dropout`, `activation_dropout` and so on, beside them.
    """
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = share
        for name, value in vars(module).items():
            if name.endswith("dropout") and type(value) is float:
                setattr(module, name, share)
