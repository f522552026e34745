"""A sentence head on an encoder: the model then returns the vectors of its texts in place of the states of tokens.

The head is a submodule of the model. Its weights are the model's: they are in the table of axes, cut where they read
the residual stream, trained, and kept in checkpoints. In a saved folder they are in files of their own
(`sentence.folder`), because the encoder in it is an ordinary one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from secateur.structure.binding import SENTENCE_HEAD
from secateur.surgery.sentence.folder import write_head
from secateur.surgery.sentence.head import SentenceHead
from secateur.system.errors import UserError

CHECKPOINT = re.compile(r"checkpoint-\d+")
"""The names of the folders that Trainer writes while it trains, and resumes from."""


@dataclass
class SentenceOutput(ModelOutput):
    """The outputs of an encoder with a sentence head.

    Attributes:
        sentence_embedding: `(batch, size)`.
        hidden_states: as of the encoder, where they are asked for.
    """

    sentence_embedding: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None


def attach_head(model: PreTrainedModel, head: SentenceHead) -> PreTrainedModel:
    """The model itself, with a head: `forward` returns a `SentenceOutput`, `save_pretrained` writes the head too.

    Raises:
        UserError: the model is no bare encoder, or has a head already.
    """
    if model.base_model is not model or model.config.is_encoder_decoder:
        raise UserError(f"expected an encoder without a head for sentence embeddings, got {type(model).__name__}")
    if head_of(model) is not None:
        raise UserError("the model has a sentence head already: give the encoder alone")
    model.add_module(SENTENCE_HEAD, head.to(model.device, model.dtype).train(model.training))
    model.register_forward_hook(_embed, with_kwargs=True)
    vars(model)["save_pretrained"] = partial(_save, model)  # copied and pickled with the model, unlike a bound method
    return model


def head_of(model: PreTrainedModel) -> SentenceHead | None:
    """The sentence head of a model; None without one."""
    return getattr(model, SENTENCE_HEAD, None)


def replace_head(model: PreTrainedModel, head: SentenceHead) -> None:
    """Give a model that has a sentence head another one."""
    setattr(model, SENTENCE_HEAD, head.to(model.device, model.dtype).train(model.training))


def is_of_head(name: str) -> bool:
    """Whether a parameter or a module of a model, by its name, is one of its sentence head."""
    return name.startswith(f"{SENTENCE_HEAD}.")


def without_head(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The part of a model's state that is the encoder's."""
    return {name: tensor for name, tensor in state.items() if not is_of_head(name)}


def of_head(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The part of a model's state that is its sentence head's, by the names in the head."""
    return {name.removeprefix(f"{SENTENCE_HEAD}."): tensor for name, tensor in state.items() if is_of_head(name)}


def _embed(model: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], outputs: Any) -> SentenceOutput:
    """The forward hook of a model with a head."""
    states = outputs[0]
    mask = kwargs.get("attention_mask", args[1] if len(args) > 1 else None)
    if mask is None:
        mask = torch.ones(states.shape[:2], device=states.device)
    return SentenceOutput(model.get_submodule(SENTENCE_HEAD)(states, mask), getattr(outputs, "hidden_states", None))


def _save(
    model: Any,
    save_directory: str | Path,
    is_main_process: bool = True,
    state_dict: Mapping[str, Tensor] | None = None,
    push_to_hub: bool = False,
    **kwargs: Any,
) -> None:
    """`save_pretrained` of a model with a head: an ordinary encoder, and the files of the head beside it.

    Only a checkpoint of Trainer has all weights in one file, because Trainer reads them from there when it resumes.

    Raises:
        UserError: the model is to be uploaded at once.
    """
    save = partial(type(model).save_pretrained, model, save_directory, is_main_process)
    if CHECKPOINT.fullmatch(Path(save_directory).name):
        save(state_dict, push_to_hub, **kwargs)
        return
    if push_to_hub:
        raise UserError(
            "save_pretrained(push_to_hub=True) uploads before the sentence head is written: call push_to_hub of the "
            "model, or publish a folder that secateur.save wrote"
        )
    state = model.state_dict() if state_dict is None else state_dict
    save(without_head(state), **kwargs)
    if is_main_process:
        write_head(model.get_submodule(SENTENCE_HEAD), Path(save_directory), of_head(state))
