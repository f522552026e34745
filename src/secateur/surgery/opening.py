"""Open a model and its tokenizer by one name: a name on the hub, a model folder, or the folder of a finished run."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, cast

import torch
import transformers
from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from secateur.structure.binding import check_family
from secateur.structure.images import is_image_family
from secateur.structure.token_types import TOKEN_TYPES, has_one_type
from secateur.surgery import checkpoint
from secateur.surgery.auto_classes import auto_class_of, own_auto_class, supported_heads
from secateur.surgery.cross_encoders import with_settings
from secateur.surgery.hub import local_folder
from secateur.surgery.image_reader import ImageReader
from secateur.surgery.loaded_weights import check_encoder, check_whole, outside_encoder
from secateur.surgery.padding import lacks_padding
from secateur.surgery.sentence.folder import pools_states
from secateur.system.errors import MissingPackage, UserError, as_user_error, reason_of
from secateur.system.load_report import without_load_report
from secateur.system.packages import installing, named_in
from secateur.system.quantities import quantity

log = logging.getLogger(__name__)

TOKENIZER_FILES = ("tokenizer*", "vocab*", "*.model")
"""Files of a tokenizer; for a folder with none of them transformers makes an empty one."""


def model_folder(name: str | Path) -> Path:
    """The folder of a model: of a finished run, the folder `model` in it."""
    inner = Path(name) / "model"
    return inner if inner.is_dir() and not (Path(name) / "config.json").is_file() else Path(name)


def local_model_folder(name: str | Path) -> Path:
    """As `model_folder`; of a model on the hub the folder in the cache, into which its files are downloaded.

    Raises:
        UserError: it is neither.
    """
    folder = model_folder(name)
    return folder if folder.is_dir() else local_folder(name)


def open_model(name: str | Path) -> PreTrainedModel:
    """A compact model, or a dense checkpoint in fp32 with the head that its config names; in evaluation mode.

    A config that names no class, as of published pre-trained encoders, gives the encoder; a head that the checkpoint
    has besides is left out, which is logged.

    A folder of sentence-transformers gives its encoder, whatever head its config names, with its sentence head: it
    returns `sentence_embedding`. The config of a `CrossEncoder` has its activation and its prompts, and that of a
    classifier the padding token of its tokenizer, if it names none.

    Raises:
        UserError: it cannot be loaded, its head is not supported, or it lacks weights or has some that are not taken.
    """
    return with_padding(_opened(name), name)


def _opened(name: str | Path) -> PreTrainedModel:
    source, config = _located(name)
    if getattr(config, "secateur", None):
        return checkpoint.load(source)
    if _is_sentence_model(source, config):
        return checkpoint.with_head(bare_encoder(source), source).eval()
    auto = own_auto_class(config)
    if auto is None:
        raise UserError(
            f"model {str(name)!r} is a {config.architectures[0]}, whose head is not supported: give one of the class "
            f"{supported_heads(config)}, or its encoder alone, saved from AutoModel"
        )
    model, loading = _load_dense(auto, source, config)
    if config.architectures:
        check_whole(model, loading, f"model {str(name)!r}")
    else:
        _check_unnamed(model, loading, name)
    return checkpoint.with_head(with_settings(model, source), source).eval()


def open_encoder(name: str | Path) -> PreTrainedModel:
    """As `open_model`; of a dense checkpoint whose head is not supported its encoder, which is logged.

    For what concerns the encoder alone: its layers, parameters and latency.

    Raises:
        UserError: as `open_model`, but for the head.
    """
    source, config = _located(name)
    if getattr(config, "secateur", None) or own_auto_class(config) or _is_sentence_model(source, config):
        return open_model(name)
    model, loading = _load_dense("AutoModel", source, config)
    check_encoder(model, loading, f"model {str(name)!r}")
    log.warning("%s is a %s, whose head is not supported: this is its encoder", name, config.architectures[0])
    return model.eval()


def _check_unnamed(model: PreTrainedModel, loading: Mapping[str, Collection[str]], name: str | Path) -> None:
    """Check the encoder of a checkpoint whose config names no class, and name its class there."""
    check_encoder(model, loading, f"model {str(name)!r}")
    model.config.architectures = [type(model).__name__]
    if left_out := outside_encoder(model, loading["unexpected_keys"]):
        log.warning(
            "the config of %s names no class: this is its encoder, without %s outside it (the first is %s)",
            name, quantity(len(left_out), "weight"), left_out[0],
        )  # fmt: skip


def config_of_model(name: str | Path) -> Any:
    """The config of a model, without its weights.

    Raises:
        UserError: there is none, or its family is not supported.
    """
    return _located(name)[1]


def auto_class_opened(name: str | Path) -> str:
    """The `AutoModelFor*` of the class that `open_model` gives.

    Raises:
        UserError: as `config_of_model`.
        ValueError: no such class of transformers builds the head that the config names.
    """
    source, config = _located(name)
    bare = not config.architectures or _is_sentence_model(source, config)
    return "AutoModel" if bare else auto_class_of(config)


def bare_encoder(name: str | Path) -> PreTrainedModel:
    """The encoder of a dense checkpoint in fp32, whatever head it has, without a pooler, which no sentence head reads.

    Raises:
        UserError: it cannot be loaded, or is incomplete.
    """
    model: Any  # not every model has a pooler
    model, loading = _load_dense("AutoModel", str(name))
    check_encoder(model, loading, f"model {str(name)!r}")
    if getattr(model, "pooler", None) is not None:
        model.pooler = None
    return cast(PreTrainedModel, model)


def _is_sentence_model(source: str, config: Any) -> bool:
    return not config.is_encoder_decoder and pools_states(source)


def _located(name: str | Path) -> tuple[str, Any]:
    """The folder of a model, or its name on the hub, and its config.

    Raises:
        UserError: there is none, or its family is not supported.
    """
    folder = model_folder(name)
    if folder.is_dir():
        return str(folder), checkpoint.read_config(folder)
    with _as_unloadable(name):
        values, _ = PreTrainedConfig.get_config_dict(str(name))
    check_family(values.get("model_type"), f"model {str(name)!r}")
    with _as_unloadable(name):
        return str(name), AutoConfig.from_pretrained(str(name), trust_remote_code=False)


def _load_dense(auto: str, source: str, config: Any = None) -> tuple[PreTrainedModel, dict[str, set[str]]]:
    """The model, and the names of the weights that it lacks and that it does not take."""
    kind: Any = getattr(transformers, auto)
    with _as_unloadable(source), without_load_report():
        model, loading = kind.from_pretrained(
            source, config=config, dtype=torch.float32, output_loading_info=True, trust_remote_code=False
        )
    return model, loading


def _as_unloadable(name: str | Path) -> AbstractContextManager[None]:
    """Report damaged files, other folders and a hub out of reach as a model that cannot be loaded."""
    advice = "give a folder written by save_pretrained, or a name on the hub"
    return as_user_error(f"model {str(name)!r} cannot be loaded", advice)


def open_tokenizer(name: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer that is saved with a model; for a model that reads images an `ImageReader`, in place of one.

    It gives no token types to a model that has one alone, also once it is saved.

    Raises:
        UserError: it has none, or one that cannot be loaded.
        MissingPackage: it needs a package that is not installed.
    """
    folder = model_folder(name)
    config = _config_values(folder if folder.is_dir() else name)
    if is_image_family(str(config.get("model_type", ""))):
        return cast(PreTrainedTokenizerBase, ImageReader.open(folder if folder.is_dir() else name))
    absent, advice = f"{name} has no tokenizer that loads", "give a model folder that holds one"
    if folder.is_dir() and not any(path for pattern in TOKENIZER_FILES for path in folder.glob(pattern)):
        raise UserError(f"{absent}: {advice}")
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder if folder.is_dir() else name, trust_remote_code=False)
    except ImportError as error:
        reason = reason_of(error).partition(". ")[0]
        command = f"run {installing('tokenizers')}" if named_in(reason, "tokenizers") else "install that package"
        raise MissingPackage(
            f"the tokenizer of {name} needs a package that is not installed ({reason}): {command}"
        ) from error
    except Exception as error:  # of a tokenizer.json in a form of another version, tokenizers raises just that
        raise UserError(
            f"{absent} ({reason_of(error)}): {advice}, in a form that the installed tokenizers reads"
        ) from error
    return _without_types(tokenizer) if has_one_type(config) else tokenizer


def _without_types(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """The tokenizer, which gives no token types from now on."""
    names = [name for name in tokenizer.model_input_names if name != TOKEN_TYPES]
    tokenizer.model_input_names = names
    tokenizer.init_kwargs["model_input_names"] = names  # of which a saved one is made
    return tokenizer


def with_padding(model: PreTrainedModel, name: str | Path) -> PreTrainedModel:
    """A classifier whose config names the padding token of the tokenizer at `name`, if it named none.

    Published decoders often name it in the tokenizer alone.

    Raises:
        MissingPackage: as `open_tokenizer`.
    """
    if lacks_padding(model) and (tokenizer := tokenizer_if_any(name)) is not None:
        model.config.pad_token_id = tokenizer.pad_token_id
    return model


def _config_values(name: str | Path) -> dict[str, Any]:
    """The keys of a config; none if there is no config."""
    try:
        values, _ = PreTrainedConfig.get_config_dict(str(name))
    except (OSError, ValueError):
        return {}
    return dict(values)


def check_vocabulary(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel, name: str | Path) -> None:
    """Refuse a model whose embeddings have no row for some of its tokenizer's tokens, or that reads other images.

    Raises:
        UserError: naming the first of these tokens, or the size of the images.
    """
    reader: Any = tokenizer
    if isinstance(reader, ImageReader):
        reader.check(model, str(name))
        return
    rows = model.config.vocab_size
    beyond = min(((number, token) for token, number in tokenizer.get_vocab().items() if number >= rows), default=None)
    if beyond is not None:
        raise UserError(
            f"{name} has embeddings of {rows} tokens, and its tokenizer gives {beyond[1]!r} the number {beyond[0]}: "
            "give a model with a row for every token, as resize_token_embeddings makes one"
        )


def tokenizer_if_any(name: str | Path) -> PreTrainedTokenizerBase | None:
    """The tokenizer that is saved with a model; None if it has none, or one that cannot be loaded.

    Raises:
        MissingPackage: as `open_tokenizer`.
    """
    try:
        return open_tokenizer(name)
    except MissingPackage:
        raise
    except UserError:
        return None
