"""Compact model classes: stock classes of transformers whose modules get the shapes in the config's `secateur` key."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import transformers
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from secateur.surgery.auto_names import MAPPINGS, auto_class
from secateur.surgery.compact.hub_files import file_of
from secateur.surgery.compact.integrity import (
    CARD,
    GENERATION,
    PLAN,
    SUMS,
    DamagedError,
    check_downloaded,
    check_places,
    check_sums,
    read_object,
    sums,
)
from secateur.surgery.compact.resizing import check_resizable, with_outputs, with_rows
from secateur.surgery.compact.shapes import reshape
from secateur.surgery.schema import Structure

CODE = "modeling_secateur"
GENERATED = b"This model card has been automatically generated"
"""In the card that transformers makes for a repository that has none."""
PREFIX = "Pruned"
POOLING = "add_pooling_layer"
"""The key of a config, and the argument of stock classes, that says whether a bare encoder has a pooler."""
PLACE = ("cache_dir", "force_download", "local_files_only", "revision", "subfolder", "token")
"""The arguments of `from_pretrained` that say where files lie."""
OF_SDPA = (None, "eager", "sdpa")
"""Values of `attn_implementation` with which a stock model makes masks that SDPA takes; None is its default."""

log = logging.getLogger(__name__)

# Only a type checker sees the base that every stock class brings along; at run time the mixin has none of its own.
if TYPE_CHECKING:
    _Stock = PreTrainedModel
else:
    _Stock = object


def own_code() -> str:
    """The text of this file."""
    return Path(__file__).read_text(encoding="utf-8")


class Pruned(_Stock):
    """A mixin before a stock model class: it gives a model the shapes that its config describes.

    Attributes:
        stock: the stock class; `from_pretrained` builds it from a config without a `secateur` key.
        code: the text of the module that a saved folder carries. In a saved folder it is this very file.
        plan: content of the folder's `plan.json`.
        card: content of the folder's `README.md`, which a copy saved from this model has too.
    """

    stock: type[PreTrainedModel]
    config_class: type[PreTrainedConfig]
    code: ClassVar[Callable[[], str]] = staticmethod(own_code)
    card: bytes | None = None

    def __init__(self, config: Any, *args: Any, **kwargs: Any) -> None:
        described = getattr(config, "secateur", None)
        if described:
            config._attn_implementation = _of_sdpa(config._attn_implementation)
        with _as_stock(config):
            super().__init__(config, *args, **kwargs)
        self.plan: dict[str, Any] | None = None
        if described:
            structure = Structure.from_dict(described)
            config.auto_map = auto_map(self.stock, config)
            whole = self._saved_class()
            if whole is not None:
                structure = self._as_encoder_of(whole, structure)
            elif self._has_head() and (saved := _saved_name(config)) != self.stock.__name__:
                structure = self._with_new_head(saved, structure)
            self._check_outputs(structure)
            if getattr(config, POOLING, True) is False:
                self.pooler = None
            elif getattr(self, "pooler", self) is None:  # by the argument of the stock class
                setattr(config, POOLING, False)
                structure = structure.under("", {name for name, _ in self.named_modules()})
            config.secateur = structure.to_dict()
            reshape(self, structure)
            self._ignore_missing(f"{path}.weight" for path in structure.factorised)

    def _ignore_missing(self, names: Iterable[str]) -> None:
        """Load weights without these empty tensors, which folders with a key of version 1 or 2 do not have."""
        known = self._keys_to_ignore_on_load_missing or []
        self._keys_to_ignore_on_load_missing = [*known, *(f"^{re.escape(name)}$" for name in names)]

    def _saved_class(self) -> type[PreTrainedModel] | None:
        """The stock class with a head that the folder was saved from, where this is the class of its encoder alone."""
        name = _saved_name(self.config)
        whole = getattr(transformers, name, None) if name != self.stock.__name__ else None
        is_encoder = self.base_model is self and not self.can_generate()
        return whole if is_encoder and getattr(whole, "config_class", None) is self.config_class else None

    def _as_encoder_of(self, whole: type[PreTrainedModel], structure: Structure) -> Structure:
        """The part of a structure for the encoder, which has no pooler where the model with the head has none."""
        with torch.device("meta"), _as_stock(self.config):
            encoder = whole(self.config).base_model
        if getattr(encoder, "pooler", None) is None and getattr(self, "pooler", None) is not None:
            setattr(self.config, POOLING, False)
        own = {name for name, _ in self.named_modules()}
        return structure.under(f"{self.base_model_prefix}.", own)

    def _has_head(self) -> bool:
        return self.base_model is not self or self.can_generate()

    def _with_new_head(self, saved: str, structure: Structure) -> Structure:
        """The structure for this class, whose new head has the shapes of the stock class.

        Args:
            saved: the stock class that the folder was saved from: one with another head, or the model without one.

        Raises:
            ValueError: a head of these shapes does not fit the rest of the model.
        """
        own, bare = {name for name, _ in self.named_modules()}, saved == _encoder_name(self.config)
        advice = f"give the dense model its head first, as {self.stock.__name__}, and cut that"
        if structure.norm and (bare or not structure.modules <= own):
            width = list(structure.norm.values())[-1]
            raise ValueError(
                f"a new head reads {self.config.hidden_size} dims, and the model was cut to {width} of them: {advice}"
            )
        if not bare:
            return structure
        if self.get_output_embeddings() is not None and (structure.factorised or structure.quantised):
            raise ValueError(f"a new head of words does not share factorised or int8 embeddings: {advice}")
        vars(self.config).pop(POOLING, None)  # a head that needs a pooler has a new one
        return structure.within("" if self.base_model is self else f"{self.base_model_prefix}.", own)

    def _check_outputs(self, structure: Structure) -> None:
        """Refuse a head whose outputs, which are never cut, are not as many as the config asks for.

        Raises:
            ValueError: they are not.
        """
        below = f"{self.base_model_prefix}."
        for path, (outputs, _) in structure.linear.items() if self.base_model is not self else ():
            stock = dict(self.named_modules()).get(path)
            asked = getattr(stock, "out_features", outputs)
            if not path.startswith(below) and asked != outputs:
                raise ValueError(
                    f"the config asks for {asked} outputs of {path}, and the model was cut with {outputs}: its hidden "
                    f"dims were cut too, so give the dense model {asked} first, and cut that"
                )

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """As in transformers; a checkpoint without a `secateur` key is loaded as the stock class.

        Without a name, of a config and a state, the model has no plan and no card.

        Raises:
            DamagedError: the files of the folder, or those downloaded from the hub, are not those that were saved, or
                other weights than safetensors are asked for.
        """
        name, config = pretrained_model_name_or_path, kwargs.get("config")
        place = {key: kwargs[key] for key in PLACE if key in kwargs}
        if config is None:
            config = cls.config_class.from_pretrained(name, **place)
        if not getattr(config, "secateur", None):
            return cls.stock.from_pretrained(name, *args, **kwargs)
        if kwargs.get("use_safetensors") is False or getattr(config, "transformers_weights", None):
            raise DamagedError(f"{name} asks for other weights than its model.safetensors: nothing else is opened")
        if name is None:
            return super().from_pretrained(name, *args, **kwargs)
        folder = Path(name, kwargs.get("subfolder") or "")
        if folder.is_dir():
            check_places(folder)
            check_sums(folder)
        plan, card = _plan_of(name, place), file_of(name, CARD, place)
        loaded = super().from_pretrained(name, *args, **{**kwargs, "use_safetensors": True})
        if not folder.is_dir() and (path := file_of(name, SUMS, place)) is not None:
            check_downloaded(path.parent)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        model.plan, model.card = plan, None if card is None else card.read_bytes()
        return loaded

    @classmethod
    def _from_config(cls, config: Any, **kwargs: Any) -> Any:
        if not getattr(config, "secateur", None):
            return cls.stock._from_config(config, **kwargs)
        return super()._from_config(config, **kwargs)

    def set_attn_implementation(self, attn_implementation: Any, *args: Any, **kwargs: Any) -> None:
        """As in transformers, but only `eager` and `sdpa` can be set: compact attention calls SDPA with either."""
        super().set_attn_implementation(_of_sdpa(attn_implementation), *args, **kwargs)
        if self.config._attn_implementation not in OF_SDPA:  # the family cannot change it, as MPNet
            self.config._attn_implementation = "eager"

    def resize_token_embeddings(
        self, new_num_tokens: int | None = None, pad_to_multiple_of: int | None = None, mean_resizing: bool = True
    ) -> nn.Embedding:
        """As in transformers. Rows that are added are further pieces of the plan's vocabulary, which keeps them.

        Raises:
            ValueError: the word embeddings are factorised or in int8, and get another number of rows.
        """
        if pad_to_multiple_of or new_num_tokens not in (None, self.config.vocab_size):
            check_resizable(getattr(self.config, "secateur", None))
        table = super().resize_token_embeddings(new_num_tokens, pad_to_multiple_of, mean_resizing)
        self.plan = with_rows(self.plan, table.weight.shape[0])
        return table

    def save_pretrained(self, save_directory: Any, is_main_process: bool = True, *args: Any, **kwargs: Any) -> None:
        """As in transformers; also writes the code, the plan and `SHA256SUMS`, which make the folder self-contained.

        A folder without a card gets the one that the model was loaded with.
        """
        self.config.secateur = with_outputs(getattr(self.config, "secateur", None), self)
        self._keys_to_ignore_on_save = None  # stock models compute sinusoids when loaded; here they may be cut
        kwargs.setdefault("save_original_format", False)  # the names of an older format join weights of equal sizes
        super().save_pretrained(save_directory, is_main_process, *args, **kwargs)
        if is_main_process:
            self._write_beside(Path(save_directory))

    def _upload_modified_files(self, working_dir: Any, *args: Any, **kwargs: Any) -> Any:
        """As in transformers, after all files of a compact folder are written: `push_to_hub=True` uploads early."""
        self._write_beside(Path(working_dir))
        return super()._upload_modified_files(working_dir, *args, **kwargs)

    def _write_beside(self, folder: Path) -> None:
        """Write what a compact folder holds besides the config and the weights."""
        (folder / f"{CODE}.py").write_text(Pruned.code(), encoding="utf-8")
        weights = sorted(folder.glob("model*.safetensors*"))
        for path in weights:
            path.chmod((folder / "config.json").stat().st_mode & 0o777)  # safetensors writes 0600 whatever the umask is
        names = ["config.json", f"{CODE}.py", *(path.name for path in weights)]
        names += [GENERATION] if (folder / GENERATION).is_file() else []
        if self.card is not None and not _has_own_card(folder):
            (folder / CARD).write_bytes(self.card)
        if self.plan is not None:
            (folder / PLAN).write_text(json.dumps(self.plan, indent=1) + "\n", encoding="utf-8")
            names.append(PLAN)
        (folder / SUMS).write_text(sums(folder, names), encoding="utf-8")


def _of_sdpa(attn_implementation: Any) -> Any:
    """What is asked for, or None, the default, if its masks are others than those of SDPA, which is said."""
    if attn_implementation in OF_SDPA:
        return attn_implementation
    log.warning("a cut model computes attention by SDPA: attn_implementation %s is not used", attn_implementation)
    return None


def _has_own_card(folder: Path) -> bool:
    return (folder / CARD).exists() and GENERATED not in (folder / CARD).read_bytes()


@contextmanager
def _as_stock(config: Any) -> Iterator[None]:
    """Within the block the config is that of a stock model: some stock classes build their encoder by `AutoModel`."""
    described = getattr(config, "secateur", None)
    if described:
        config.secateur = None
    try:
        yield
    finally:
        if described:
            config.secateur = described


def _plan_of(name: Any, place: dict[str, Any]) -> dict[str, Any] | None:
    """The plan of a folder, or of a model on the hub; None if it has none, which is logged."""
    path = file_of(name, PLAN, place)
    if path is None:
        log.warning("%s has no %s: a copy saved from this model will have none either", name, PLAN)
        return None
    return read_object(path)


def auto_map(stock: type[PreTrainedModel], config: PreTrainedConfig) -> dict[str, str]:
    """`AutoModelFor*` -> the class in the code beside the config that it loads, for the compact class of a stock one.

    It names that class, the one of its encoder alone, and those of the family's other heads, which are new where they
    are loaded; of an encoder-decoder the generating one alone. What a config says of other classes is of the repository
    that it comes from; what it says of no model, such as a tokenizer, stays.
    """
    autos = ("AutoModel", "AutoModelForSeq2SeqLM") if config.is_encoder_decoder else MAPPINGS
    named = {auto: name for auto in autos if (name := _stock_name(auto, config)) is not None}
    with suppress(ValueError):
        named[auto_class(stock.__name__)] = stock.__name__
    known = getattr(config, "auto_map", None) or {}
    others = {auto: name for auto, name in known.items() if not auto.startswith("AutoModel")}
    return others | {auto: f"{CODE}.{PREFIX}{name}" for auto, name in named.items()}


def _saved_name(config: PreTrainedConfig) -> str:
    """The name of the stock class that a folder was saved from; nothing if its config does not say."""
    return str((config.architectures or [""])[0]).removeprefix(PREFIX)


def _encoder_name(config: PreTrainedConfig) -> str | None:
    """The name of a family's stock class without a head; None if there is none."""
    return _stock_name("AutoModel", config)


def _stock_name(auto: str, config: PreTrainedConfig) -> str | None:
    """The name of the stock class that an `AutoModelFor*` builds for a config; None if it builds none of that kind."""
    found: Any = getattr(transformers, MAPPINGS[auto]).get(type(config), None)
    first = found[0] if isinstance(found, tuple) else found
    name = "" if first is None else first.__name__.removeprefix(PREFIX)
    with suppress(ValueError):
        if auto_class(name) == auto:
            return name
    return None


def pruned(stock: type[PreTrainedModel]) -> type[Pruned]:
    """The compact class of a stock model class, `PrunedBertModel` of `BertModel`; made once."""
    name = PREFIX + stock.__name__
    if name not in globals():
        globals()[name] = type(name, (Pruned, stock), {"stock": stock, "__module__": __name__})
    return globals()[name]


def __getattr__(name: str) -> type:
    """`modeling_secateur.PrunedBertModel`, for any stock class: what `auto_map` in a saved config asks for."""
    stock = getattr(transformers, name.removeprefix(PREFIX), None) if name.startswith(PREFIX) else None
    if stock is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return pruned(stock)
