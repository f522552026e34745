"""From a cut model back to a dense one with its plan: what a compact folder is checked with, without its source."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from secateur.structure.axis_table import Parameter
from secateur.structure.plan import Plan
from secateur.structure.space import UnitSpace
from secateur.surgery import compact
from secateur.surgery.cut_structure import structure_of
from secateur.surgery.kept_indices import kept_indices, split_parts
from secateur.surgery.schema import Structure
from secateur.surgery.sentence.attach import attach_head, head_of
from secateur.surgery.word_embeddings import factors_structure, quantised_tables
from secateur.system.casting import cast
from secateur.system.errors import UserError


@torch.no_grad()
def uncut(small: PreTrainedModel) -> tuple[PreTrainedModel, Plan]:
    """A dense model, and the plan whose cut of it is `small`: each weight in its old position, random ones elsewhere.

    Masks that were folded into the weights are 1 in the plan.

    Raises:
        UserError: `small` is not a cut model with its plan.
    """
    dense = _stock(small).eval()
    cast(dense, small.dtype, small.device)
    plan = _plan_over(dense, small)
    plan = replace(plan, masks=plan.kept.float())
    _copy_parameters(small, dense, plan)
    buffers = dict(small.named_buffers())
    for name, buffer in dense.named_buffers():
        buffer.copy_(buffers[name])
    return dense, plan


def _copy_parameters(small: PreTrainedModel, dense: PreTrainedModel, plan: Plan) -> None:
    """Copy every weight of a cut model to its position in the dense one."""
    space = plan.space(dense)
    kept = kept_indices(plan.read(space), plan)
    tables = {f"{path}.weight": table.values() for path, table in quantised_tables(small).items()}
    for name, parameter in (*small.named_parameters(), *tables.items()):
        whole, parts = dense.get_parameter(name), space.table.tensors[name]
        indices = [_stored_indices(part, kept) for part in parts]
        rows, others = sum(len(one[0]) for one in indices), [len(one) for one in indices[0][1:]]
        if list(parameter.shape) != [rows, *others]:
            raise UserError(f"{name} has not the shape that the plan says: plan and weights do not belong together")
        for part, own, small_part in zip(parts, indices, split_parts(parts, parameter, kept), strict=True):
            in_dense = torch.meshgrid(*(one[one >= 0] for one in own), indexing="ij")
            in_small = torch.meshgrid(*((one >= 0).nonzero().flatten() for one in own), indexing="ij")
            part.of(whole)[in_dense] = small_part[in_small]


def _stored_indices(part: Parameter, kept: Mapping[str, Tensor]) -> list[Tensor]:
    """The index of each stored row, column and so on of a part, -1 for padding."""
    return [kept.get(axis or "", torch.arange(size)) for axis, size in zip(part.axes, part.shape, strict=True)]


def planned_structure(small: PreTrainedModel) -> Structure:
    """The structure that a cut by the plan of `small` has.

    Raises:
        UserError: `small` is not a cut model with its plan, or the plan does not fit its config.
    """
    space, plan = planned_space(small)
    reading = plan.read(space)
    return structure_of(space, plan, reading, kept_indices(reading, plan))


def planned_space(small: PreTrainedModel) -> tuple[UnitSpace, Plan]:
    """The space in which a cut model was planned, made from shapes alone on the `meta` device, and its plan.

    Raises:
        UserError: `small` is not a cut model with its plan, or the plan does not fit its config.
    """
    with torch.device("meta"):
        dense = _stock(small)
    plan = _plan_over(dense, small)
    return plan.space(dense), plan


def _stock(small: PreTrainedModel) -> PreTrainedModel:
    """A new stock model of the shape that a cut model had before."""
    if getattr(small, "plan", None) is None:
        raise UserError("the model has no plan: expected a model that was cut, with its plan.json")
    config = copy.deepcopy(small.config)
    config.secateur = None
    vars(config).pop("auto_map", None)
    kind: Any = type(small)
    dense = build_stock(kind.stock, config)
    if (generation := getattr(small, "generation_config", None)) is not None:
        dense.generation_config = copy.deepcopy(generation)
    if (head := head_of(small)) is not None:
        attach_head(dense, copy.deepcopy(head).of_width(config.hidden_size))
    for name in dict(small.named_parameters()).keys() & compact.tied_names(dense):
        weight = dense.get_parameter(name)  # the config ties weights that are separate in the cut model
        path, _, leaf = name.rpartition(".")
        setattr(dense.get_submodule(path), leaf, torch.nn.Parameter(weight.detach().clone(), weight.requires_grad))
    return dense


def build_stock(stock: Any, config: Any) -> PreTrainedModel:
    """A new model of a stock class, without a pooler where its config says so."""
    model: Any = stock(config)
    if getattr(config, compact.POOLING, True) is False:
        model.pooler = None
    return model


def _plan_over(dense: PreTrainedModel, small: PreTrainedModel) -> Plan:
    """The plan of a cut model over its stock model, whose word embeddings are factorised as planned."""
    plan = Plan.from_dict(small.plan, dense)
    if plan.vocabulary is not None and dense.config.vocab_size != len(plan.vocabulary):
        raise UserError(
            f"the plan keeps {len(plan.vocabulary)} pieces, and config.json has vocab_size {dense.config.vocab_size}: "
            "expected the same number"
        )
    if plan.embedding_rank:
        compact.reshape(dense, factors_structure(dense, plan.space(dense).table, plan.embedding_rank))
    return plan
