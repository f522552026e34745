"""Which `AutoModelFor*` of transformers loads a model, and that all of them load compact folders.

It imports neither torch nor transformers before it is used: it runs with the first import of an `AutoModelFor*`.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from secateur.structure.architectures import ARCHITECTURES
from secateur.surgery.auto_names import AUTO_CLASSES, auto_class, head_in
from secateur.system.compat.auto_classes import derive_classes, stock_class

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel


def auto_class_of(config: PreTrainedConfig) -> str:
    """The `AutoModelFor*` that loads the class which a config names, of a dense or of a compact model.

    Raises:
        ValueError: it names none that any of them loads.
    """
    return auto_class(str((config.architectures or [""])[0]))


def own_auto_class(config: PreTrainedConfig) -> str | None:
    """The `AutoModelFor*` that builds the class which a dense checkpoint names; None if it names an unsupported head.

    A config that names no class is taken to be that of a bare encoder.
    """
    if not config.architectures:
        return "AutoModel"
    return next((auto for auto, name in stock_names(config).items() if name == config.architectures[0]), None)


def supported_heads(config: PreTrainedConfig) -> str:
    """The names of the classes of a family that can be opened, with commas between them."""
    return ", ".join(stock_names(config).values())


def stock_names(config: PreTrainedConfig) -> dict[str, str]:
    """`AutoModelFor*` -> the name of the stock class that it builds for the config's family, where it builds one.

    Of a registered family those with a head that it describes: Bart's decoder alone is none.
    """
    import transformers

    names = {}
    for auto in dict.fromkeys(AUTO_CLASSES.values()):
        with suppress(KeyError):
            names[auto] = stock_class(getattr(transformers, auto), type(config)).__name__
    family = ARCHITECTURES.all().get(config.model_type)
    heads = AUTO_CLASSES if family is None else family.heads
    return {auto: name for auto, name in names.items() if head_in(name) in heads and auto_class(name) == auto}


def register() -> None:
    """Let every `AutoModelFor*` build the compact class of the registered families, also of those registered later.

    A dense checkpoint still gives its stock class (`compact.Pruned.from_pretrained`).
    """
    for name in set(AUTO_CLASSES.values()):
        derive_classes(name, _is_registered, _compact_class)


def _is_registered(model_type: str) -> bool:
    return model_type in ARCHITECTURES.all()


def _compact_class(stock: type[PreTrainedModel]) -> type[PreTrainedModel]:
    from secateur.surgery.compact import Pruned, pruned

    return stock if issubclass(stock, Pruned) else pruned(stock)
