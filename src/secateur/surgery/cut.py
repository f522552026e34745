"""Cut a plan out of a model: fold the masks into the weights, then index the kept dims.

Folding (specification of CoFi, 5.2, exact for soft masks): a mask is multiplied into whatever *writes* the masked
value, never into who reads it. Norms over the stream take `hidden` into gamma and beta, embeddings into their columns,
a sublayer's writer takes `gate x hidden` into rows and bias and the mask of its inner axis into its columns.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from secateur.structure.architecture import Axis, Embedding, Linear, Norm, Row
from secateur.structure.axis_table import AxisTable, Parameter
from secateur.structure.binding import bind
from secateur.structure.head_buckets import Layout
from secateur.structure.plan import Plan, check_rank
from secateur.structure.reading import Reading
from secateur.structure.space import UnitSpace
from secateur.surgery import compact
from secateur.surgery.masking import ATTACHED
from secateur.surgery.optimizer_state import ORDERS, Moments
from secateur.surgery.schema import AttentionStructure, Structure
from secateur.system.errors import UserError

CALLED = ("call", "query", "key", "value", "output", "causal", "layer", "bias")
"""What an attention's structure takes from the table as it is."""


@torch.no_grad()
def cut(model: PreTrainedModel, plan: Plan) -> PreTrainedModel:
    """A new, smaller, ordinary model: `cut(m, p)(x) == masked(m, p)(x)` up to float noise. `model` is not changed.

    Raises:
        UserError: the plan does not fit the model, or names another rank than its embeddings are factorised to already,
            or masks are still attached.
    """
    if getattr(model, ATTACHED, None) is not None:
        raise UserError("masks are attached to the model: detach them before cutting")
    space = plan.space(model)
    rank = _rank(space)
    if rank and plan.embedding_rank not in (None, rank):
        raise UserError(
            f"the plan factorises the word embeddings to rank {plan.embedding_rank}, and the model's are factorised to "
            f"rank {rank} already: plan for that rank, or cut the model that was not factorised"
        )
    if plan.embedding_rank and not rank:
        model = factorise(model, plan.embedding_rank)
        space = plan.space(model)
    plan = replace(plan, embedding_rank=_rank(space))  # plan.json must tell what is cut, whoever factorised it
    reading, sites = plan.read(space), space.at_sites(plan.masks.double())
    kept = kept_indices(reading, plan)
    structure = structure_of(space, plan, reading, kept)
    small = _shaped(model, structure)
    small.plan = plan.to_dict(space)
    state = model.state_dict()
    for name, parameter in small.named_parameters():
        entry = next(p for p in space.table.parameters if p.name == name)
        parameter.copy_(taken(entry, _fold(entry, state[name], space, plan.masks, sites), kept))
    return small.train(model.training)


@torch.no_grad()
def cut_moments(model: PreTrainedModel, plan: Plan, moments: Moments) -> Moments:
    """What an optimizer knows of a model's parameters, for those of its `cut`: with the same indices.

    Where a mask m was folded into a weight w, the gradient with respect to m w is that of w over m.
    """
    space = plan.space(model)
    kept, sites = kept_indices(plan.read(space), plan), space.at_sites(plan.masks.double())
    found: Moments = {}
    for entry in space.table.parameters:
        state = moments.get(entry.name, {})
        for key, value in state.items():
            if key in ORDERS:
                folds = taken(entry, _fold(entry, torch.ones_like(value), space, plan.masks, sites), kept)
                value = torch.where(folds > 0, taken(entry, value, kept) / folds ** ORDERS[key], 0.0)
            found.setdefault(entry.name, {})[key] = value
    return found


def factorise(model: PreTrainedModel, rank: int) -> PreTrainedModel:
    """A copy whose word embeddings are a table of `rank` columns and a projection: the best approximation of that rank.

    Truncated SVD, E = U S V^T, table = U_r S_r, projection = V_r (GRAIN section 4.4; Eckart and Young, 1936). Works in
    `(rows, size)`; never `(rows, rows)`.
    """
    table = bind(model)
    table.one_stack("factorising the word embeddings")
    path = table.embeddings
    model = copy.deepcopy(model)
    stock = _whole_embedding(model, path)
    check_rank(stock.num_embeddings, stock.embedding_dim, rank)
    new = compact.FactorisedEmbedding.like(stock, rank)
    with torch.no_grad():
        left, values, right = torch.linalg.svd(stock.weight.detach().double(), full_matrices=False)
        new.table.weight.copy_(left[:, :rank] * values[:rank])
        new.projection.weight.copy_(right[:rank].T)
    model.set_submodule(path, new)
    return model


def _rank(space: UnitSpace) -> int | None:
    """The rank that the model's word embeddings are factorised to, None if they are whole."""
    word = space.model.get_submodule(space.table.embeddings)
    return word.table.embedding_dim if isinstance(word, compact.FactorisedEmbedding) else None


def _whole_embedding(model: PreTrainedModel, path: str) -> nn.Embedding:
    module = model.get_submodule(path)
    if not isinstance(module, nn.Embedding):
        raise UserError(f"{path} is a {type(module).__name__}: expected an Embedding that is not factorised yet")
    return module


def kept_indices(reading: Reading, plan: Plan) -> dict[str, Tensor]:
    """Axis -> kept indices in storage order; -1 is padding. Axes that are kept whole are left out."""
    alive, table = reading.alive, reading.table
    kept = {axis: reading.indices(axis) for axis in table.sizes if not bool(alive[axis].all())}
    for attention, layout in zip(table.attentions, plan.layouts, strict=True):
        qk, vo = f"{attention.block}.qk", f"{attention.block}.vo"
        if qk in kept or vo in kept:
            kept[qk], kept[vo] = (_stored(alive, axis, vo, table.heads, layout) for axis in (qk, vo))
    return kept


def _stored(alive: Mapping[str, Tensor], axis: str, vo: str, heads: int, layout: Layout) -> Tensor:
    """Kept indices on an axis, head by head in the order of the layout, each padded with -1 to its bucket's width."""
    own = alive[axis].view(heads, -1)
    numbers = alive[vo].view(heads, -1).any(dim=1).nonzero().flatten()
    widths = layout.widths(own[numbers].sum(dim=1).tolist())
    rows = []
    for bucket, width in zip(layout.buckets, widths, strict=True):
        for head in numbers[list(bucket)].tolist():
            indices = own[head].nonzero().flatten() + head * own.shape[1]
            rows.append(functional.pad(indices, (0, width - len(indices)), value=-1))
    return torch.cat(rows) if rows else numbers


def taken(entry: Parameter, tensor: Tensor, kept: Mapping[str, Tensor]) -> Tensor:
    """Of a tensor with the entry's shape what is kept on its axes."""
    for dim, axis in enumerate(entry.axes):
        if axis is not None and axis in kept:
            tensor = take(tensor, dim, kept[axis])
    return tensor


def take(tensor: Tensor, dim: int, indices: Tensor) -> Tensor:
    """`index_select` in which -1 gives zeros."""
    indices = indices.to(tensor.device)
    taken = tensor.index_select(dim, indices.clamp(min=0))
    shape = [1] * tensor.dim()
    shape[dim] = -1
    return taken * (indices >= 0).view(shape)


def _fold(
    parameter: Parameter, tensor: Tensor, space: UnitSpace, masks: Tensor, at_sites: Mapping[str, Tensor]
) -> Tensor:
    """The parameter with every mask that acts at its row, or at itself, multiplied in."""
    sites = {site: mask.to(tensor) for site, mask in at_sites.items() if site in _sites_of(parameter.row)}
    row = parameter.row
    if (tiles := space.at_parameter(masks.to(tensor), parameter)) is not None:
        tensor = tensor * tiles
    if isinstance(row, Norm | Embedding):
        return tensor * _on(parameter.axes, "hidden", sites.get("hidden"))
    factor = sites[row.behind] if row.behind in sites and row.out == "hidden" else torch.ones((), device=tensor.device)
    if row.out == "hidden":
        factor = factor * _on(parameter.axes, "hidden", sites.get("hidden"), out=True)
    if row.out in sites and row.out.endswith(".qk") and space.table.makers(row.out)[0] == row:
        factor = factor * _on(parameter.axes, row.out, sites[row.out])
    if row.into in sites and row.into != "hidden":
        factor = factor * _on(parameter.axes, row.into, sites[row.into])
    return tensor * factor


def _sites_of(row: Linear | Norm | Embedding) -> set[Axis]:
    """The sites whose masks may act at a row."""
    return {"hidden", row.behind, *((row.out, row.into) if isinstance(row, Linear) else ())}


def _on(axes: tuple[Axis, ...], axis: Axis, mask: Tensor | None, *, out: bool = False) -> Tensor:
    """A mask shaped to multiply a parameter along its dimension on `axis`; 1 where it has none."""
    dims = [dim for dim, name in enumerate(axes) if name == axis and not (out and dim > 0)]
    if mask is None or not dims:
        return torch.ones(())
    shape = [1] * len(axes)
    shape[dims[0]] = -1
    return mask.view(shape)


def structure_of(space: UnitSpace, plan: Plan, reading: Reading, kept: Mapping[str, Tensor]) -> Structure:
    """In what the cut model differs from the stock model."""
    table = space.table
    gates = {sublayer.gate: float(reading.effective[sublayer.gate]) for sublayer in table.sublayers}
    parts: dict[str, dict[str, Any]] = {one.name: {} for one in fields(Structure)}
    sizes = {axis: len(indices) for axis, indices in kept.items()}
    for row in table.rows:
        part, value = _row_structure(row, gates, sizes, table)
        if part:
            parts[part][row.path] = value
        if value == "zero" and isinstance(row, Linear) and row.adds and gates[str(row.behind)] == 0.0:
            parts["replaced"][row.adds] = "skip"
    if rank := _rank(space):
        parts["factorised"][table.embeddings] = rank
    for number, attention in enumerate(table.attentions):
        if f"{attention.block}.vo" in kept:
            parts["attention"][attention.path] = _attention_structure(reading, plan, number)
    return Structure(**parts)


def _row_structure(row: Row, gates: Mapping[str, float], sizes: Mapping[str, int], table: AxisTable) -> tuple[str, Any]:
    """The part of the structure that a row goes into, and the entry there; ("", None) if the row does not change."""
    closed = row.behind is not None and gates[row.behind] == 0.0
    if isinstance(row, Linear):
        return _linear_structure(row, closed, sizes, table)
    if isinstance(row, Norm) and closed:
        return "replaced", "identity"
    part = "norm" if isinstance(row, Norm) else "embedding"
    return (part, sizes[row.axis]) if row.axis and row.axis in sizes else ("", None)


def _linear_structure(row: Linear, closed: bool, sizes: Mapping[str, int], table: AxisTable) -> tuple[str, Any]:
    out, into = sizes.get(row.out or "", -1), sizes.get(row.into or "", -1)
    if row.out == "hidden" and closed:
        return "replaced", "zero"
    if out == 0:
        return "replaced", "empty"
    if out < 0 and into < 0:
        return "", None
    shape = table.shapes[row.path]
    if into == 0 and any(parameter.name == f"{row.path}.bias" for parameter in table.parameters):
        return "bias", out if out > 0 else shape[0]
    if into == 0:
        return "replaced", "zero"
    return "linear", (out if out > 0 else shape[0], into if into > 0 else shape[1])


def _attention_structure(reading: Reading, plan: Plan, number: int) -> AttentionStructure:
    attention, layout = reading.table.attentions[number], plan.layouts[number]
    qk, vo = reading.head_sizes(number)
    heads = reading.heads(attention.block).nonzero().flatten().tolist()
    return AttentionStructure(
        **{name: getattr(attention, name) for name in CALLED},
        heads=tuple(heads[head] for head in layout.order) if attention.takes_bias else None,
        qk=tuple(qk[head] for head in layout.order),
        vo=tuple(vo[head] for head in layout.order),
        scale=float(reading.table.head_dim**-0.5 if attention.scale is None else attention.scale),
        buckets=tuple(len(bucket) for bucket in layout.buckets),
        multiple=layout.multiple,
    )


def _shaped(model: PreTrainedModel, structure: Structure) -> compact.Pruned:
    """A copy of the model with the structure's shapes, its parameters not filled."""
    kind = compact.pruned(type(model))
    small: Any = copy.deepcopy(model)  # Any, because it changes its class in the next line
    small.__class__ = kind
    small.config.secateur = structure.to_dict()
    small.config.auto_map = {compact.auto_class(kind.__name__): f"{compact.CODE}.{kind.__name__}"}
    with torch.device("meta"):
        kind(small.config)  # transformers learns what a class can record (hidden states) when one is constructed
    compact.reshape(small, structure)
    return small


@torch.no_grad()
def uncut(small: PreTrainedModel) -> tuple[PreTrainedModel, Plan]:
    """A dense model, and the plan by which `small` is its cut: the weights where they were, random ones elsewhere.

    Masks that were folded into the weights are 1 in the plan. With it a compact folder can be proved without
    the model that it came from.

    Raises:
        UserError: `small` is no cut model with its plan.
    """
    dense: Any = _stock(small)  # Any, for the wrapper of transformers hides what `to` takes
    dense.to(small.device, small.dtype).eval()
    plan = _plan_over(dense, small)
    plan = replace(plan, masks=plan.kept.float())
    space = plan.space(dense)
    kept = kept_indices(plan.read(space), plan)
    entries = {entry.name: entry for entry in space.table.parameters}
    for name, parameter in small.named_parameters():
        entry = entries[name]
        places = [kept.get(a or "", torch.arange(n)) for a, n in zip(entry.axes, entry.shape, strict=True)]
        if tuple(parameter.shape) != tuple(len(place) for place in places):
            raise UserError(f"{name} has not the shape that the plan says: plan and weights do not belong together")
        there = torch.meshgrid(*(place[place >= 0] for place in places), indexing="ij")
        here = torch.meshgrid(*((place >= 0).nonzero().flatten() for place in places), indexing="ij")
        dense.get_parameter(name)[there] = parameter[here]
    own = dict(small.named_buffers())
    for name, buffer in dense.named_buffers():
        buffer.copy_(own[name])
    return dense, plan


def planned_structure(small: PreTrainedModel) -> Structure:
    """The structure that a cut by the plan of `small` has.

    Raises:
        UserError: `small` is no cut model with its plan, or the plan does not fit its config.
    """
    space, plan = planned(small)
    reading = plan.read(space)
    return structure_of(space, plan, reading, kept_indices(reading, plan))


def planned(small: PreTrainedModel) -> tuple[UnitSpace, Plan]:
    """The plan of a cut model and its space, made from shapes alone, on the `meta` device.

    Raises:
        UserError: `small` is no cut model with its plan, or the plan does not fit its config.
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
    config.secateur = config.auto_map = None
    kind: Any = type(small)
    dense = kind.stock(config)
    for name in dict(small.named_parameters()).keys() & compact.tied_names(dense):
        weight = dense.get_parameter(name)  # the config ties what this model does not
        path, _, leaf = name.rpartition(".")
        setattr(dense.get_submodule(path), leaf, torch.nn.Parameter(weight.detach().clone(), weight.requires_grad))
    return dense


def _plan_over(dense: PreTrainedModel, small: PreTrainedModel) -> Plan:
    """The plan of a cut model, over its stock model, whose word embeddings are factorised if the plan says so."""
    plan = Plan.from_dict(small.plan, dense)
    if plan.embedding_rank:
        path = plan.space(dense).table.embeddings
        word = _whole_embedding(dense, path)
        dense.set_submodule(path, compact.FactorisedEmbedding.like(word, plan.embedding_rank))
    return plan
