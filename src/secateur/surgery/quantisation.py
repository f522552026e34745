"""Word embeddings in int8, with a scale for each row: a quarter of fp32."""

from __future__ import annotations

import copy
from typing import Any

import torch
from transformers import PreTrainedModel

from secateur.structure.plan import Plan
from secateur.surgery import compact
from secateur.surgery.cut import cut
from secateur.surgery.folding import fold
from secateur.surgery.int8_rows import fill, rounded
from secateur.surgery.kept_indices import kept_indices, select_kept
from secateur.surgery.schema import Structure
from secateur.surgery.uncut import planned_structure
from secateur.surgery.word_embeddings import quantised_tables, stored_tables, table_paths
from secateur.system.errors import UserError


@torch.no_grad()
def quantise_embeddings(model: PreTrainedModel) -> PreTrainedModel:
    """A compact copy of a model, dense or compact, whose word embeddings are stored in int8 with a scale for each row.

    The rows are not trained any more; the modules around them can be. Of factorised embeddings the table is quantised
    and the projection is not. An encoder, a decoder and an output layer that share a table share its rows. An output
    layer with weights of its own keeps them.

    Raises:
        UserError: the embeddings are quantised already, or hold values that are not finite.
    """
    if not isinstance(model, compact.Pruned):
        return cut(model, Plan.of_all_units(model, embedding_rows="int8"))
    if model.plan is None or model.plan.get("embedding_rows"):
        raise UserError("expected a model with its plan whose word embeddings are not in int8 yet: give another model")
    small: Any = copy.deepcopy(model)
    small.plan = {**model.plan, "embedding_rows": "int8"}
    structure = planned_structure(small)
    values = {path: m.get_parameter("weight") for path, m in stored_tables(small, tuple(structure.quantised)).items()}
    compact.reshape(small, Structure(quantised=structure.quantised, shared=structure.shared))
    small.config.secateur = structure.to_dict()
    for path, table in quantised_tables(small).items():
        fill(table, values[path])
    return small


@torch.no_grad()
def with_rounded_embeddings(dense: PreTrainedModel, plan: Plan) -> PreTrainedModel:
    """A copy of a dense model whose word embeddings are those of its `cut`: rounded to int8 where the plan says so.

    The masks of a plan are folded into the table before it is rounded, so here they are divided out again.
    """
    if plan.embedding_rows is None:
        return dense
    model = copy.deepcopy(dense)
    space = plan.space(model)
    kept, sites = kept_indices(plan.read(space), plan), space.at_sites(plan.masks.double())
    entries = {entry.name: entry for entry in space.table.parameters}
    for path, table in stored_tables(model, table_paths(space.table)).items():
        entry, weight = entries[f"{path}.weight"], table.get_parameter("weight")
        factor = fold(entry, torch.ones_like(weight), space, plan.masks, sites)
        inside = select_kept(entry, weight * factor, kept)
        axis = entry.axes[1]
        columns = kept[axis] if axis in kept else torch.arange(weight.shape[1])
        weight[:, columns] = rounded(inside) / factor[:, columns]
    return model
