"""Proof that a compact folder is the model that was trained: masked == compact == loaded, on real inputs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from secateur.checkpoint import load
from secateur.errors import UserError
from secateur.masking import attached
from secateur.plan import Plan
from secateur.surgery import cut, factorise

TOLERANCE = 1e-4


@dataclass(frozen=True)
class Verification:
    """Largest absolute differences of the logits over all inputs, None for a comparison that was not asked for.

    Attributes:
        masked_compact: dense model under the plan's masks, against the model cut by the plan.
        compact_loaded: cut model in memory, against the folder loaded anew.
        examples: how many inputs.
        scale: largest absolute logit, to judge the differences by.
    """

    masked_compact: float | None
    compact_loaded: float | None
    examples: int
    scale: float

    @property
    def passed(self) -> bool:
        """Whether every difference is below 1e-4 of the largest logit (float noise of a differently shaped sum)."""
        found = [d for d in (self.masked_compact, self.compact_loaded) if d is not None]
        return all(difference <= TOLERANCE * max(1.0, self.scale) for difference in found)

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "passed": self.passed, "tolerance": TOLERANCE}


@torch.inference_mode()
def verify(
    batches: Iterable[Mapping[str, Tensor]],
    *,
    compact: PreTrainedModel | None = None,
    folder: Path | str | None = None,
    dense: PreTrainedModel | None = None,
    plan: Plan | None = None,
) -> Verification:
    """Compare a dense model under a plan's masks, its cut, and what a folder loads to, on the same batches.

    Args:
        batches: model inputs; labels are not needed.
        compact: the cut model in memory; with `folder` it is compared with what the folder loads to.
        dense, plan: with both, the masked model (its embeddings factorised as planned) is compared with its cut.

    Raises:
        UserError: there is nothing to compare.
    """
    if (dense is None or plan is None) and (compact is None or folder is None):
        raise UserError("there is nothing to compare: give dense and plan, or compact and folder, or all four")
    loaded = load(folder) if folder is not None else None
    kept = [dict(batch) for batch in batches]
    masked_compact = compact_loaded = None
    scale = 0.0
    if dense is not None and plan is not None:
        if plan.embedding_rank and isinstance(dense.get_input_embeddings(), nn.Embedding):
            dense = factorise(dense, plan.embedding_rank)
        space = plan.space(dense)
        small = cut(dense, plan).eval()
        with attached(dense.eval(), space, plan.masks.to(dense.device)):
            reference = _outputs(dense, kept)
        masked_compact, scale = _largest(reference, _outputs(small, kept))
    if compact is not None and loaded is not None:
        compact_loaded, scale = _largest(_outputs(compact.eval(), kept), _outputs(loaded, kept))
    return Verification(masked_compact, compact_loaded, sum(len(b["input_ids"]) for b in kept), scale)


def _outputs(model: PreTrainedModel, batches: list[dict[str, Tensor]]) -> list[Tensor]:
    """A model's first output (logits, or the hidden states of a bare encoder) for each batch, on the CPU."""
    answers = (model(**{name: value.to(model.device) for name, value in batch.items()}) for batch in batches)
    return [answer[0].cpu() for answer in answers]


def _largest(left: list[Tensor], right: list[Tensor]) -> tuple[float, float]:
    """Largest difference, and largest entry of the left side; not a number if one is not (Python's `max` drops it)."""
    difference = torch.stack([(a - b).abs().max() for a, b in zip(left, right, strict=True)]).max()
    return float(difference), float(torch.stack([a.abs().max() for a in left]).max())
