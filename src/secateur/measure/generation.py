"""What is timed of a model: a forward, a part of an encoder-decoder, or the generation of a text."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from transformers import PreTrainedModel

from secateur.deploy.graph import is_encoder_decoder, with_target
from secateur.measure.timing import Call
from secateur.structure.positions import positions
from secateur.system.errors import UserError
from secateur.tasks.generation import ONE_TEXT

WHOLE, GENERATION = "whole", "generation"
OF_ENCODER_DECODERS = ("encoding", "decoding")
PARTS = (WHOLE, *OF_ENCODER_DECODERS, GENERATION)
"""What is timed: a forward of all inputs; of an encoder-decoder one of its encoder, or the generation of a text from a
source that is encoded before; or the generation of a text from its source or its beginning, with all that it takes."""
TIMED = {"forward": WHOLE, "generation": GENERATION}
"""What a target calls these parts."""
BEAMS = 5
"""Beams of a timed generation, as usual in translation."""


def part_of(model: PreTrainedModel, timed: str | None, beams: int = 1) -> str:
    """The part that a target times: by default what a model is served for, generation if it can generate text.

    Raises:
        UserError: several beams are named, and a forward has none.
    """
    part = TIMED[timed] if timed is not None else GENERATION if model.can_generate() else WHOLE
    if part == WHOLE and beams > 1:
        raise UserError(
            f"{beams} beams are of a generation, and of {type(model).__name__} a forward is timed: leave them out, or "
            "ask for the generation of a model that writes text"
        )
    return part


def check_part(model: PreTrainedModel, part: str, tokens: int, beams: int) -> None:
    """Refuse an unknown part, or one that a model does not have.

    Args:
        tokens: of the source or the beginning, and of the text that is generated.

    Raises:
        UserError: naming the part, or the positions that the generation needs and the model lacks.
    """
    if part not in PARTS:
        raise UserError(f"expected part {', '.join(PARTS)}, got {part!r}: choose one of these")
    kind = type(model).__name__
    if part in OF_ENCODER_DECODERS and not is_encoder_decoder(model):
        raise UserError(f"expected an encoder-decoder for part {part!r}, got {kind}: leave part out")
    if part == GENERATION and not model.can_generate():
        raise UserError(f"expected a model that generates text for part {part!r}, got {kind}: time a forward")
    if part in ("decoding", GENERATION) and beams < 1:
        raise UserError(f"expected beams of at least 1, got {beams}: raise it")
    limit, needed = positions(model), _longest(model, tokens)
    if part == GENERATION and limit is not None and needed > limit:
        raise UserError(
            f"expected at most {limit} tokens, the positions that {kind} has, got {needed} with those that are "
            f"generated: ask for fewer than {tokens} tokens"
        )


def _longest(model: PreTrainedModel, tokens: int) -> int:
    """Positions that a generation takes: those after the beginning, or after the start token of a decoder."""
    return tokens + 1 if is_encoder_decoder(model) else 2 * tokens


def part_text(part: str, beams: int) -> str:
    """A part as protocols name it."""
    if part not in ("decoding", GENERATION):
        return part
    return f"{part}, greedy" if beams == 1 else f"{part}, {beams} beams"


def call_of_part(model: PreTrainedModel, tensors: Mapping[str, torch.Tensor], part: str, beams: int) -> Call:
    """One run of a part of a model.

    Args:
        tensors: `input_ids` and `attention_mask`, `(batch, tokens)`; as many tokens are generated.
    """
    if part == WHOLE:
        return partial(model, **with_target(model, tensors))
    if part == GENERATION:
        return partial(_generate, model, tensors["input_ids"].shape[1], beams, tensors)
    encoder: Any = model.get_encoder()  # type: ignore[no-untyped-call, unused-ignore]
    return partial(encoder, **tensors) if part == "encoding" else _decoding(model, encoder, tensors, beams)


def _decoding(model: PreTrainedModel, encoder: Any, tensors: Mapping[str, torch.Tensor], beams: int) -> Call:
    """The generation of as many tokens as the source has, from a source that is encoded here, once."""
    tokens = tensors["input_ids"].shape[1]
    with torch.inference_mode():
        encoded = encoder(**tensors)

    def decode() -> None:
        # `generate` repeats the encoded source for the beams, in place
        own = {"encoder_outputs": copy.copy(encoded), "attention_mask": tensors["attention_mask"]}
        _generate(model, tokens, beams, own)

    return decode


def _generate(model: Any, tokens: int, beams: int, inputs: Mapping[str, Any]) -> None:
    padding = model.generation_config.pad_token_id
    model.generate(
        **inputs,
        num_beams=beams,
        do_sample=False,
        min_new_tokens=tokens,
        max_new_tokens=tokens,
        pad_token_id=0 if padding is None else padding,  # no text ends before the others
        **ONE_TEXT,
    )
