"""Verification: the masked, the cut, the loaded and the exported model give the same outputs on real inputs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from secateur.deploy.compared_pieces import ComparedPieces
from secateur.deploy.export import TOLERANCE, opened, within
from secateur.deploy.formats import check_made_from
from secateur.deploy.graph import rows_of
from secateur.deploy.runner import difference
from secateur.structure.architecture import VOCABULARIES, Linear
from secateur.structure.binding import bind
from secateur.structure.plan import Plan
from secateur.structure.vocabulary import Vocabulary
from secateur.surgery.checkpoint import load, read_config
from secateur.surgery.cut import cut
from secateur.surgery.factorisation import factorise
from secateur.surgery.hub import local_folder
from secateur.surgery.masking import attached
from secateur.surgery.opening import open_model
from secateur.surgery.quantisation import with_rounded_embeddings
from secateur.surgery.uncut import uncut
from secateur.surgery.vocabulary.rows import cut_rows
from secateur.system.errors import UserError
from secateur.system.model_copies import copy_of
from secateur.system.model_state import evaluating


@dataclass(frozen=True)
class Verification:
    """Largest absolute differences of the logits over all inputs; None for a comparison that was not made.

    Attributes:
        masked_compact: dense model under the plan's masks, against the model cut by the plan; computed in float64 where
            the rounding of fp32 alone may exceed the tolerance.
        compact_loaded: cut model in memory, against the folder loaded again.
        examples: number of inputs.
        scale: largest absolute logit, to which the differences are relative.
        compact_exported: model in memory, all of its outputs, against an exported file in its own runtime.
        dtype: the dtype that the exported file runs in.
        tolerance: the largest allowed difference between models, relative to the largest logit: 1e-4 for rounding in
            another order of summation, 8 roundings of the weights' dtype if that is less precise than fp32.
        whole_kept: dense model with all pieces, against the one with the kept rows of its vocabulary, on kept pieces.
        pieces: whether texts are split as before, if both tokenizers were compared.
    """

    masked_compact: float | None
    compact_loaded: float | None
    examples: int
    scale: float
    compact_exported: float | None = None
    dtype: str | None = None
    tolerance: float = TOLERANCE
    whole_kept: float | None = None
    pieces: ComparedPieces | None = None

    @property
    def passed(self) -> bool:
        """Whether every difference of models is at most `tolerance` of the largest logit, and all pieces are equal.

        A file in another dtype than fp32 can only be judged by its scores: here its outputs must be finite.
        """
        exported = self.compact_exported
        if exported is not None and self.dtype is not None and not within(exported, self.scale, self.dtype):
            return False
        if self.pieces is not None and not self.pieces.passed:
            return False
        compared = (self.whole_kept, self.masked_compact, self.compact_loaded)
        differences = [difference for difference in compared if difference is not None]
        return all(difference <= self.tolerance * max(1.0, self.scale) for difference in differences)

    def to_dict(self) -> dict[str, Any]:
        """Plain values; those of a vocabulary only if one was compared."""
        values = {**asdict(self), "passed": self.passed}
        return {name: one for name, one in values.items() if one is not None or name not in ("whole_kept", "pieces")}


@torch.inference_mode()
def verify(
    batches: Iterable[Mapping[str, Tensor]],
    *,
    compact: PreTrainedModel | None = None,
    folder: Path | str | None = None,
    dense: PreTrainedModel | None = None,
    plan: Plan | None = None,
    exported: Path | str | None = None,
    dtype: str | None = None,
) -> Verification:
    """Compare a dense model under a plan's masks, its cut, the folder of the cut and its export, on the same batches.

    The models run in evaluation mode, and have their own mode again afterwards.

    Args:
        batches: model inputs; labels are not needed. If the plan has a vocabulary, the numbers of its pieces.
        compact: the cut model in memory, compared with the model loaded from `folder` and with `exported` (for which
            it may also be a dense model).
        dense: the model that was cut. With `plan`, the masked model (its embeddings factorised and rounded as planned)
            is compared with its cut. One with all pieces of the plan's vocabulary is compared with its kept rows first.
        plan: by which it was cut.
        exported: a file written by `export` from `compact`.
        dtype: the dtype that the file runs in, if not its own: bf16 for an OpenVINO file in fp32.

    Raises:
        UserError: there is nothing to compare or no batch, or the file was made from other weights or cannot be run.
    """
    if (dense is None or plan is None) and (compact is None or (folder is None and exported is None)):
        raise UserError(
            "there is nothing to compare: give dense and plan, or compact and folder, or compact and exported, or all"
        )
    kept = _kept(batches)
    loaded = load(folder) if folder is not None else None
    whole_kept = masked_compact = compact_loaded = compact_exported = None
    runs_in, scale = None, 0.0
    given = [model for model in (dense, compact) if model is not None]
    with evaluating(given):
        if dense is not None and plan is not None:
            dense, whole_kept = _in_vocabulary(dense, plan.pieces_left_to_cut(dense), kept)
            masked_compact, scale = _masked_and_cut(dense, plan, kept)
        if compact is not None and loaded is not None:
            compact_loaded, scale = _largest(_outputs(compact, kept), _outputs(loaded, kept))
        if compact is not None and exported is not None:
            compact_exported, scale, runs_in = _exported(compact, Path(exported), dtype, kept)
    examples = sum(map(rows_of, kept))
    limit = max(_tolerance(model.dtype) for model in given)
    return Verification(masked_compact, compact_loaded, examples, scale, compact_exported, runs_in, limit, whole_kept)


def verify_folder(
    folder: Path | str, batches: Iterable[Mapping[str, Tensor]], dense: PreTrainedModel | None = None
) -> Verification:
    """As `verify`, of a compact folder alone: its weights, masked and cut again by its plan.

    Args:
        folder: a compact folder, or an ordinary one of which only the vocabulary was cut, which needs `dense`.
        dense: a dense model to mask and cut instead of the folder's own weights.
    """
    kept, place = _kept(batches), local_folder(folder)
    if dense is not None and (place / "plan.json").is_file() and not getattr(read_config(place), "secateur", None):
        return _verify_ordinary(place, kept, dense)
    model, plan = uncut(load(folder))
    compact = cut(model, plan)
    if dense is not None:
        model, plan = dense, Plan.load(place / "plan.json", dense)
    return verify(kept, compact=compact, folder=folder, dense=model, plan=plan)


def _kept(batches: Iterable[Mapping[str, Tensor]]) -> list[dict[str, Tensor]]:
    """The batches as a list, which several models are run on.

    Raises:
        UserError: there are none.
    """
    kept = [dict(batch) for batch in batches]
    if not sum(map(rows_of, kept)):
        raise UserError("expected batches of inputs to compare outputs on, got no rows: give some rows of data")
    return kept


@torch.inference_mode()
def _verify_ordinary(folder: Path, kept: list[dict[str, Tensor]], dense: PreTrainedModel) -> Verification:
    """As `verify_folder`, of a stock model with some pieces of a dense one."""
    plan, loaded = Plan.load(folder / "plan.json", dense), open_model(folder)
    with evaluating([dense]):
        small, whole_kept = _in_vocabulary(dense, plan.pieces_left_to_cut(dense), kept)
        difference, scale = _largest(_outputs(small, kept), _outputs(loaded, kept))
    examples = sum(map(rows_of, kept))
    return Verification(None, difference, examples, scale, tolerance=_tolerance(dense.dtype), whole_kept=whole_kept)


def _in_vocabulary(
    dense: PreTrainedModel, vocabulary: Vocabulary | None, batches: list[dict[str, Tensor]]
) -> tuple[PreTrainedModel, float | None]:
    """The model with the kept rows of a vocabulary, and its largest difference from the one with all rows."""
    if vocabulary is None:
        return dense, None
    small, kept = cut_rows(dense, vocabulary), torch.tensor(vocabulary.kept)
    over_pieces = any(isinstance(row, Linear) and row.out == VOCABULARIES[0] for row in bind(dense).rows)
    ids = ("input_ids", "decoder_input_ids", *(["labels"] if over_pieces else []))
    whole = _outputs(dense, [_renumbered(batch, ids, kept) for batch in batches])
    return small, _largest([one[..., kept] if over_pieces else one for one in whole], _outputs(small, batches))[0]


def _renumbered(batch: Mapping[str, Tensor], names: Iterable[str], kept: Tensor) -> dict[str, Tensor]:
    """A batch whose tensors of that name hold the numbers of pieces before; negative ones stay."""
    own = {name: batch[name] for name in names if name in batch}
    return {**batch, **{name: torch.where(ids < 0, ids, kept[ids.clamp(min=0)]) for name, ids in own.items()}}


def _masked_and_cut(dense: PreTrainedModel, plan: Plan, batches: list[dict[str, Tensor]]) -> tuple[float, float]:
    """Largest difference between a model under a plan's masks and its cut, and the largest logit.

    In fp32 it is more than the tolerance for some models that are right: a few activations of a deep decoder are so
    large that rounding in another order moves its logits. In float64 that vanishes, and a wrong cut stays.
    """
    difference, scale = _difference_of_cut(dense, plan, batches)
    if dense.dtype == torch.float32 and difference > _tolerance(dense.dtype) * max(1.0, scale):
        exact = [{name: _in_double(value) for name, value in batch.items()} for batch in batches]
        return _difference_of_cut(copy_of(dense).double(), plan, exact)
    return difference, scale


def _in_double(value: Tensor) -> Tensor:
    return value.double() if value.is_floating_point() else value


def _difference_of_cut(dense: PreTrainedModel, plan: Plan, batches: list[dict[str, Tensor]]) -> tuple[float, float]:
    if plan.embedding_rank and isinstance(dense.get_input_embeddings(), nn.Embedding):
        dense = factorise(dense, plan.embedding_rank)
    dense = with_rounded_embeddings(dense, plan)
    space = plan.space(dense)
    small = cut(dense, plan)
    with attached(dense, space, plan.masks.to(dense.device)):
        masked = _outputs(dense, batches)
    compact = _outputs(small, batches)
    kept = plan.read(space).indices("hidden").cpu()
    width = space.table.sizes["hidden"]
    pairs = zip(masked, compact, strict=True)
    return _largest([_of_stream(one, width, kept) if one.shape != own.shape else one for one, own in pairs], compact)


def _of_stream(output: Tensor, width: int, kept: Tensor) -> Tensor:
    """The kept dims of states `(..., dims)` of a residual stream of that width, or of several of them side by side."""
    return output.unflatten(-1, (-1, width))[..., kept].flatten(-2)


def _exported(
    model: PreTrainedModel, path: Path, dtype: str | None, batches: list[dict[str, Tensor]]
) -> tuple[float, float, str]:
    """Largest difference of a file's outputs from its model's, the largest output, and the dtype that it ran in."""
    check_made_from(path, model)
    run = opened(path, dtype=dtype)
    return *difference(run, model, batches), run.dtype


def _tolerance(dtype: torch.dtype) -> float:
    """The allowed difference between two computations with weights of a dtype, relative to the largest logit."""
    return max(TOLERANCE, 8 * torch.finfo(dtype).eps) if dtype in (torch.float16, torch.bfloat16) else TOLERANCE


def _outputs(model: PreTrainedModel, batches: list[dict[str, Tensor]]) -> list[Tensor]:
    """A model's outputs (logits, or the hidden states of a bare encoder) for each batch, on the CPU."""
    outputs = (model(**{name: value.to(model.device) for name, value in batch.items()}) for batch in batches)
    return [value.cpu() for output in outputs for value in _compared(output)]


def _compared(output: Mapping[str, Any]) -> list[Tensor]:
    """The logits, without the encoder's states that an encoder-decoder returns too; all tensors without logits."""
    tensors = {name: value for name, value in output.items() if isinstance(value, Tensor)}
    return [value for name, value in tensors.items() if name.endswith("logits")] or list(tensors.values())


def _largest(left: list[Tensor], right: list[Tensor]) -> tuple[float, float]:
    """Largest difference, and largest entry of the left side; NaN if any of them is (Python's `max` would drop it)."""
    difference = torch.stack([(a - b).abs().max() for a, b in zip(left, right, strict=True)]).max()
    return float(difference), float(torch.stack([a.abs().max() for a in left]).max())
