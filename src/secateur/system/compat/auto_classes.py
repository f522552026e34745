"""The tables in which an `AutoModelFor*` of transformers looks up the model class of a config's class."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

ConfigClass: TypeAlias = "type[PreTrainedConfig]"
ModelClass: TypeAlias = "type[PreTrainedModel]"
Derive: TypeAlias = "Callable[[ModelClass], ModelClass]"


class DerivedClasses(dict[Any, Any]):
    """What `AutoModelFor*.register` has added to a table, and in front of it classes derived from the table's own.

    A derived class is made when it is looked up: neither the modules of a family nor the class exist before.

    Args:
        table: of one `AutoModelFor*`.
        covers: whether classes of this `model_type` are derived.
        derive: the class that stands for a stock class, or for one that was registered.
    """

    def __init__(self, table: Any, covers: Callable[[str], bool], derive: Derive) -> None:
        super().__init__(table._extra_content)
        self.table, self.covers, self.derive = table, covers, derive

    def __contains__(self, config: object) -> bool:
        return super().__contains__(config) or self._derives(config)

    def __getitem__(self, config: ConfigClass) -> ModelClass | tuple[ModelClass, ...]:
        if not self._derives(config):
            return super().__getitem__(config)
        first, *others = self._stock_classes(config)
        return (self.derive(first), *others) if others else self.derive(first)

    def stock_class(self, config: ConfigClass) -> ModelClass:
        """The registered class of a config's class, else the stock one: the first, where a config may name another.

        Raises:
            KeyError: there is neither.
        """
        return self._stock_classes(config)[0]

    def _stock_classes(self, config: ConfigClass) -> tuple[ModelClass, ...]:
        if super().__contains__(config):
            return (super().__getitem__(config),)
        kind = config.model_type
        found = self.table._load_attr_from_module(kind, self.table._model_mapping[kind])
        return found if isinstance(found, tuple) else (found,)

    def _derives(self, config: object) -> bool:
        """Whether this table holds a class for the config's class, and one is derived from it."""
        kind = getattr(config, "model_type", None)
        known = super().__contains__(config) or kind in self.table._model_mapping
        return isinstance(kind, str) and known and self.covers(kind)


def derive_classes(auto: str, covers: Callable[[str], bool], derive: Derive) -> None:
    """Let the `AutoModelFor*` of this name build what `derive` makes of its own class, where `covers` accepts it."""
    from transformers.models.auto import modeling_auto

    table = getattr(modeling_auto, auto)._model_mapping
    if not isinstance(table._extra_content, DerivedClasses):
        table._extra_content = DerivedClasses(table, covers, derive)


def stock_class(auto: Any, config: ConfigClass) -> ModelClass:
    """The class that an `AutoModelFor*` builds for a config's class, before any is derived from it.

    Raises:
        KeyError: it builds none.
    """
    table = auto._model_mapping
    if isinstance(table._extra_content, DerivedClasses):
        return table._extra_content.stock_class(config)
    found: Any = table[config]
    return found[0] if isinstance(found, tuple) else found
