"""How far an exported encoder-decoder computes the same as its model: logits by steps, and whole texts."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn import functional
from transformers import GenerationConfig, PreTrainedModel

from secateur.deploy.export import probes, within
from secateur.deploy.graph import inference_copy
from secateur.deploy.seq2seq.graphs import empty_cache
from secateur.deploy.seq2seq.model import ExportedSeq2Seq
from secateur.system.errors import UserError

Model = TypeVar("Model", bound=PreTrainedModel)

BEAMS = (1, 4)
"""Greedy search, and beam search."""
WRITTEN = 12
"""Tokens of each text at most."""
STEPS = (3, 1, 1)
"""Tokens of the steps whose logits are compared: the first one has an empty cache."""


@dataclass(frozen=True)
class Agreement:
    """What was compared on random sources of several shapes, padded and not.

    Attributes:
        difference: largest absolute difference of the logits of any step from the model's without a cache.
        scale: largest absolute logit of the model.
        sources: number of sources.
        texts: number of texts that were generated of them, greedily and with beams.
        equal: how many of these are the model's, token by token.
    """

    difference: float
    scale: float
    sources: int
    texts: int
    equal: int

    def passes(self, dtype: str) -> bool:
        """Whether the logits are within the tolerance of a dtype, and in fp32 all texts are equal."""
        return within(self.difference, self.scale, dtype) and (dtype != "fp32" or self.equal == self.texts)


def agreement(model: PreTrainedModel, exported: ExportedSeq2Seq) -> Agreement:
    """Compare an export with its model, which is run in fp32, in evaluation mode.

    Texts are written by the special tokens of the generation configs alone: their other options may ask for several
    texts of a source, for sampling or for a search that takes one source at a time, and no file depends on them.
    """
    twin, exported, batches = _plain(inference_copy(model, "fp32").cpu()), _plain(exported), probes(model)
    differences, scales, equal = [], [], 0
    for batch in batches:
        target = batch["input_ids"].flip(0)[:, :1].repeat(1, sum(STEPS))
        expected = twin(**batch, decoder_input_ids=target).logits
        found = _by_steps(exported, batch, target)
        differences.append((found - expected).abs().max())
        scales.append(expected.abs().max())
        equal += sum(_equal(twin, exported, batch, beams) for beams in BEAMS)
    sources = sum(len(batch["input_ids"]) for batch in batches)
    largest, scale = (float(torch.stack(each).max()) for each in (differences, scales))  # NaN if any of them is
    return Agreement(largest, scale, sources, sources * len(BEAMS), equal)


def check_agreement(found: Agreement, dtype: str, folder: Path) -> None:
    """Refuse files that compute something else.

    Raises:
        UserError: a logit is not finite, or in fp32 a logit or a text differs.
    """
    if not found.passes(dtype):
        raise UserError(
            f"{folder.name} would differ from its model by {found.difference:.2g}, where the largest logit is "
            f"{found.scale:.2g}, and write {found.equal} of {found.texts} texts as it does: nothing was written; "
            "choose another runtime or dtype"
        )


def _plain(model: Model) -> Model:
    """A model of the same modules, whose generation config has nothing but the special tokens."""
    other: Any = copy.copy(model)
    options = other.generation_config.to_dict()
    tokens = {name: token for name, token in options.items() if name.endswith("_token_id")}
    other.generation_config = GenerationConfig(**tokens)
    plain: Model = other
    return plain


def _by_steps(exported: ExportedSeq2Seq, batch: dict[str, Tensor], target: Tensor) -> Tensor:
    """The logits of all tokens of a target, which is given in `STEPS`."""
    cache, encoded = empty_cache(), exported.encoder(**batch)
    logits = [
        exported(
            encoder_outputs=encoded,
            attention_mask=batch["attention_mask"],
            decoder_input_ids=step,
            past_key_values=cache,
        ).logits
        for step in target.split(STEPS, dim=1)
    ]
    return torch.cat(logits, dim=1)


def _equal(model: Any, exported: Any, batch: dict[str, Tensor], beams: int) -> int:
    """How many sources of a batch get the same text."""
    own, other = (
        one.generate(**batch, num_beams=beams, do_sample=False, max_new_tokens=WRITTEN) for one in (model, exported)
    )
    longest, padding = max(own.shape[1], other.shape[1]), model.config.pad_token_id  # texts of a batch end alike
    own, other = (functional.pad(one, (0, longest - one.shape[1]), value=padding) for one in (own, other))
    return int((own == other).all(dim=1).sum())
