"""Fold masks into weights, so that a cut model computes what the masked one did, also with masks between 0 and 1.

A mask is multiplied into the weights that *write* the masked value, never into those that read it (specification of
CoFi, 5.2). The weight and bias of a norm over the residual stream take the mask of `hidden`, and so do the columns of
embeddings. The output projection of a sublayer takes `gate x hidden` into its rows and its bias, and the mask of the
inner axis into its columns. Masks of tiles are multiplied into the tiled weight itself.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from secateur.structure.architecture import Axis, Embedding, Norm, Row
from secateur.structure.axis_table import Parameter
from secateur.structure.space import UnitSpace


def fold(entry: Parameter, tensor: Tensor, space: UnitSpace, masks: Tensor, at_sites: Mapping[str, Tensor]) -> Tensor:
    """The values of a parameter, multiplied by every mask that acts on it.

    Args:
        tensor: of the parameter's shape.
        masks: `(N,)`.
        at_sites: `space.at_sites(masks)`.
    """
    row = entry.row
    sites = {site: mask.to(tensor) for site, mask in at_sites.items() if site in _sites_of(row)}
    if (tiles := space.at_parameter(masks.to(tensor), entry)) is not None:
        tensor = tensor * tiles
    if isinstance(row, Norm | Embedding):
        return tensor * _along(entry.axes, "hidden", sites.get("hidden"))
    factor = sites[row.behind] if row.behind in sites and row.out == "hidden" else torch.ones((), device=tensor.device)
    if row.out == "hidden":
        factor = factor * _along(entry.axes, "hidden", sites.get("hidden"), first_dim_only=True)
    if row.out in sites and row.out.endswith(".qk") and row in space.table.queries(row.out):
        factor = factor * _along(entry.axes, row.out, sites[row.out])
    if row.into in sites and row.into != "hidden":
        factor = factor * _along(entry.axes, row.into, sites[row.into])
    return tensor * factor


def _sites_of(row: Row) -> set[Axis]:
    """The sites whose masks may act on the parameters of a row."""
    axes = () if isinstance(row, Norm | Embedding) else (row.out, row.into)
    return {"hidden", row.behind, *axes}


def _along(axes: tuple[Axis, ...], axis: Axis, mask: Tensor | None, *, first_dim_only: bool = False) -> Tensor:
    """A mask shaped to multiply a parameter along its dimension on `axis`; 1 if it has no such dimension."""
    dims = [dim for dim, name in enumerate(axes) if name == axis and not (first_dim_only and dim > 0)]
    if mask is None or not dims:
        return torch.ones(())
    shape = [1] * len(axes)
    shape[dims[0]] = -1
    return mask.view(shape)
