"""Verification: the masked, the cut, the loaded and the exported model give the same outputs on real inputs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from secateur.deploy.export import TOLERANCE, opened
from secateur.deploy.formats import check_made_from
from secateur.deploy.graph import rows_of
from secateur.deploy.runner import difference
from secateur.deploy.verification import Verification
from secateur.structure.architecture import VOCABULARIES, Linear
from secateur.structure.binding import bind
from secateur.structure.plan import Plan
from secateur.structure.vocabulary import Vocabulary
from secateur.surgery.checkpoint import load, read_config
from secateur.surgery.compact import PLAN
from secateur.surgery.cut import cut
from secateur.surgery.factorisation import factorise
from secateur.surgery.hub import local_folder
from secateur.surgery.masking import attached
from secateur.surgery.opening import open_model
from secateur.surgery.quantisation import with_rounded_embeddings
from secateur.surgery.storage import as_stored, narrowest_type
from secateur.surgery.uncut import uncut
from secateur.surgery.vocabulary.rows import cut_rows
from secateur.system.casting import cast
from secateur.system.errors import UserError
from secateur.system.model_copies import copy_of
from secateur.system.model_state import evaluating

Difference = tuple[float, float]
"""The largest difference of two models' outputs, and the largest output, to which it is relative."""


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
        compact: the cut model in memory, compared with the model loaded from `folder`, with `exported` (for which
            it may also be a dense model), and with the cut of `dense` by `plan`.
        dense: the model that was cut. With `plan`, the masked model (its embeddings factorised and rounded as planned)
            is compared with its cut. One with all pieces of the plan's vocabulary is compared with its kept rows first.
        plan: by which it was cut.
        exported: a file written by `export` from `compact`.
        dtype: the dtype that the file runs in, if not its own: bf16 for an OpenVINO file in fp32.

    Raises:
        UserError: there is nothing to compare or no batch, something is given that nothing is compared with, the file
            was made from other weights or cannot be run, or the dense model has other outputs than the cut one.
    """
    if (dense is None or plan is None) and (compact is None or (folder is None and exported is None)):
        raise UserError(
            "there is nothing to compare: give dense and plan, or compact and folder, or compact and exported, or all"
        )
    _check_used(dense, plan, compact, {"folder": folder, "exported": exported}, dtype)
    kept = _kept(batches)
    loaded = load(folder) if folder is not None else None
    found: dict[str, Difference] = {}
    runs_in = None
    given = [model for model in (dense, compact) if model is not None]
    with evaluating(given):
        if dense is not None and plan is not None:
            found |= _of_dense(dense, plan, compact, kept)
        if compact is not None and loaded is not None:
            found["compact_loaded"] = _largest(_outputs(compact, kept), _outputs(loaded, kept))
        if compact is not None and exported is not None:
            found["compact_exported"], runs_in = _exported(compact, Path(exported), dtype, kept)
    return _verification(found, kept, given, runs_in)


def _check_used(
    dense: PreTrainedModel | None,
    plan: Plan | None,
    compact: PreTrainedModel | None,
    places: Mapping[str, Path | str | None],
    dtype: str | None,
) -> None:
    """Refuse what `verify` is given and would not read."""
    if (dense is None) != (plan is None):
        given, lacks = ("plan", "dense") if dense is None else ("dense", "plan")
        raise UserError(f"{given} is given without {lacks}: give both, or none")
    for name, place in places.items():
        if place is not None and compact is None:
            raise UserError(f"{name} is compared with the compact model: give compact, or leave {name} out")
    if dtype is not None and places["exported"] is None:
        raise UserError(f"the dtype {dtype!r} is what an exported file runs in: give exported, or leave it out")


def verify_folder(
    folder: Path | str, batches: Iterable[Mapping[str, Tensor]], dense: PreTrainedModel | None = None
) -> Verification:
    """As `verify`, of a compact folder alone: its weights, masked and cut again by its plan.

    Args:
        folder: a compact folder, or an ordinary one of which only the vocabulary was cut, which needs `dense`.
        dense: a dense model that is masked and cut too, and whose cut is compared with the folder.

    Raises:
        UserError: as `verify`, or the folder cannot be loaded, or does not fit the dense model.
    """
    kept, place = _kept(batches), local_folder(folder)
    if _is_ordinary(place):
        if dense is None:
            raise UserError(
                f"{folder} is not a compact folder, but an ordinary model of which only the vocabulary was cut: name "
                "the model with all of its pieces by --dense"
            )
        return _verify_ordinary(place, kept, dense)
    small = load(folder)
    model, plan = uncut(small)
    alone = verify(kept, compact=cut(model, plan), folder=folder)
    masked = verify(kept, dense=model, plan=plan)
    own = replace(
        alone,
        masked_compact=masked.masked_compact,
        scales={**masked.scales, **alone.scales},
        tolerance=masked.tolerance,
    )
    if dense is None:
        return own
    theirs = verify(kept, dense=dense, plan=Plan.load(place / PLAN, dense), compact=small)
    return _with_dense(own, theirs)


def _is_ordinary(folder: Path) -> bool:
    """Whether a folder holds an ordinary model with the plan by which its vocabulary was cut."""
    return (folder / PLAN).is_file() and not getattr(read_config(folder), "secateur", None)


def _with_dense(own: Verification, theirs: Verification) -> Verification:
    """The verification of a folder, with that of a dense model by its plan."""
    names = {"whole_kept": "whole_kept", "masked_compact": "dense_masked", "dense_compact": "dense_compact"}
    scales = {name: theirs.scales[key] for key, name in names.items() if key in theirs.scales}
    return replace(
        own,
        whole_kept=theirs.whole_kept,
        dense_masked=theirs.masked_compact,
        dense_compact=theirs.dense_compact,
        tolerance=max(own.tolerance, theirs.tolerance),
        scales={**own.scales, **scales},
    )


def _verification(
    found: Mapping[str, Difference],
    kept: list[dict[str, Tensor]],
    models: Iterable[PreTrainedModel],
    dtype: str | None = None,
) -> Verification:
    """What was found, in the order of the comparisons, for these batches and models."""
    differences: dict[str, Any] = {"masked_compact": None, "compact_loaded": None}
    differences |= {name: difference for name, (difference, _) in found.items()}
    scales = {name: scale for name, (_, scale) in found.items()}
    return Verification(
        **differences,
        examples=sum(map(rows_of, kept)),
        scale=list(scales.values())[-1],
        dtype=dtype,
        tolerance=max(_tolerance(model.dtype) for model in models),
        scales=scales,
    )


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
    plan, loaded = Plan.load(folder / PLAN, dense), open_model(folder)
    with evaluating([dense]):
        small, found = _in_vocabulary(dense, plan.pieces_left_to_cut(dense), kept)
        found["compact_loaded"] = _difference(small, loaded, kept)
    return _verification(found, kept, [dense])


def _of_dense(
    dense: PreTrainedModel, plan: Plan, compact: PreTrainedModel | None, kept: list[dict[str, Tensor]]
) -> dict[str, Difference]:
    """A dense model with fewer pieces, masked and cut, and its cut against another cut model."""
    narrow, found = _in_vocabulary(dense, plan.pieces_left_to_cut(dense), kept)
    found["masked_compact"] = _masked_and_cut(narrow, plan, kept)
    if compact is not None:
        small = as_stored(cut(narrow, plan), dtype=narrowest_type(compact))
        cast(small, compact.dtype, compact.device)
        found["dense_compact"] = _difference(small, compact, kept)
    return found


def _difference(dense: PreTrainedModel, compact: PreTrainedModel, kept: list[dict[str, Tensor]]) -> Difference:
    """Largest difference of what is left of a dense model from a cut one, and the largest logit.

    Raises:
        UserError: they have outputs of other shapes.
    """
    theirs, own = _outputs(dense, kept), _outputs(compact, kept)
    shapes = [[tuple(one.shape) for one in outputs] for outputs in (theirs, own)]
    if shapes[0] != shapes[1]:
        raise UserError(
            f"the dense model has outputs of the shape {shapes[0][0]} and the cut model of {shapes[1][0]}: give the "
            "model that was cut, with its head"
        )
    return _largest(theirs, own)


def _in_vocabulary(
    dense: PreTrainedModel, vocabulary: Vocabulary | None, batches: list[dict[str, Tensor]]
) -> tuple[PreTrainedModel, dict[str, Difference]]:
    """The model with the kept rows of a vocabulary, and as `whole_kept` its difference from the one with all rows."""
    if vocabulary is None:
        return dense, {}
    small, kept = cut_rows(dense, vocabulary), torch.tensor(vocabulary.kept)
    over_pieces = any(isinstance(row, Linear) and row.out == VOCABULARIES[0] for row in bind(dense).rows)
    ids = ("input_ids", "decoder_input_ids", *(["labels"] if over_pieces else []))
    whole = _outputs(dense, [_renumbered(batch, ids, kept) for batch in batches])
    left = [one[..., kept] if over_pieces else one for one in whole]
    return small, {"whole_kept": _largest(left, _outputs(small, batches))}


def _renumbered(batch: Mapping[str, Tensor], names: Iterable[str], kept: Tensor) -> dict[str, Tensor]:
    """A batch whose tensors of that name hold the numbers of pieces before; negative ones stay."""
    own = {name: batch[name] for name in names if name in batch}
    return {**batch, **{name: torch.where(ids < 0, ids, kept[ids.clamp(min=0)]) for name, ids in own.items()}}


def _masked_and_cut(dense: PreTrainedModel, plan: Plan, batches: list[dict[str, Tensor]]) -> Difference:
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


def _difference_of_cut(dense: PreTrainedModel, plan: Plan, batches: list[dict[str, Tensor]]) -> Difference:
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
) -> tuple[Difference, str]:
    """Largest difference of a file's outputs from its model's, the largest output, and the dtype that it ran in."""
    check_made_from(path, model)
    run = opened(path, dtype=dtype)
    return difference(run, model, batches), run.dtype


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


def _largest(left: list[Tensor], right: list[Tensor]) -> Difference:
    """Largest difference, and largest entry of the left side; NaN if any of them is (Python's `max` would drop it)."""
    difference = torch.stack([(a - b).abs().max() for a, b in zip(left, right, strict=True)]).max()
    return float(difference), float(torch.stack([a.abs().max() for a in left]).max())
