"""Compensation: after a cut, each Linear that has lost inputs is refitted in closed form, without training.

A Linear with weight W and bias b has read inputs x and written y = W x + b; after the cut it reads x', which lacks the
removed units and comes from layers that were cut as well. Its new weight and bias minimise, over real tokens,

    E |y - W' x' - b'|^2 + r |W' - W_kept|^2

which are the normal equations of least squares, one covariance and one Cholesky decomposition for each Linear. They are
solved from the bottom of the model to the top, so that each Linear repairs also what those below have left. This is the
reconstruction of K-prune (Park et al., ICLR 2024) and of Kwon et al. (NeurIPS 2022), with the ridge r drawn to the
weights that are kept in place of 0: where nothing is removed, nothing changes.

    small = cut(model, plan)
    compensate(small, model, plan, batches)
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, SupportsFloat

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from secateur.structure.plan import Plan
from secateur.structure.space import UnitSpace
from secateur.surgery.compact.modules import Bias
from secateur.surgery.input_moments import Batch, Moments, outputs_at, real_tokens
from secateur.surgery.lockstep import in_lockstep
from secateur.surgery.masking import attached
from secateur.system.errors import UserError
from secateur.system.model_state import evaluating

log = logging.getLogger(__name__)

RIDGE = 0.01
"""r over the mean variance of an input."""
ROUNDING, TINY = 1e-5, 1e-30
"""An error over the variance that float32 may have, and the least variance that is divided by."""


@dataclass(frozen=True)
class Refit:
    """What compensation did to one Linear.

    Attributes:
        path: of the Linear.
        before, after: the squared error of its outputs over their variance, on the tokens that it was refitted on.
    """

    path: str
    before: float
    after: float


def compensate(
    small: PreTrainedModel, dense: PreTrainedModel, plan: Plan, batches: Iterable[Batch], ridge: float = RIDGE
) -> list[Refit]:
    """Refit, from the bottom, the Linears of a cut model that read inside its sublayers; `small` is changed in place.

    Args:
        small: the model that `cut` has made of `dense` and `plan`.
        dense: the model before, whose outputs are the target, with soft masks of units that are kept. It may be the
            same on other weights.
        batches: of inputs; some thousand tokens, several for each input of a Linear.
        ridge: how strongly weights stay what they are, over the mean variance of an input.

    Returns:
        What was refitted, in the order of the forward; nothing where the plan removes nothing.

    Raises:
        UserError: the units are tiles, the ridge is not positive, there are no batches, or a value is not finite.
    """
    space = plan.space(dense)
    check_refittable(space)
    if isinstance(batches, Mapping):
        raise UserError("expected several batches, got the inputs of one: give a list of batches")
    batches = list(batches)
    if not batches or not isinstance(ridge, SupportsFloat) or not ridge > 0:
        raise UserError(
            f"expected batches and a ridge above 0, got {len(batches)} and {ridge!r}: give some rows of data"
        )
    if bool((plan.masks > 0).all()):
        return []
    kept = plan.read(space).indices("hidden")
    done: list[Refit] = []
    present = dict(small.named_modules())  # without a bias nothing is left where nothing is read
    linears = {path: module for path, module in present.items() if isinstance(module, nn.Linear | Bias)}
    modules = {row.path: linears[row.path] for row in space.table.readers.values() if row.path in linears}

    def arrived(path: str, inputs: Sequence[Tensor]) -> None:
        moments = Moments.empty(inputs[0].shape[-1], len(kept), inputs[0].device)
        for values, batch, target in zip(inputs, batches, targets, strict=True):
            moments.add(real_tokens(values, batch, path), target.pop(path)[:, kept.to(values.device)])
        done.append(refit(modules[path], path, moments, ridge))
        log.debug("%s: error %.4f before, %.4f after", path, done[-1].before, done[-1].after)

    with evaluating([small, dense]):
        with _softened(dense, plan, space):
            targets = [outputs_at(dense, batch, list(modules)) for batch in batches]
        in_lockstep(small, batches, modules, arrived)
    return done


def _softened(dense: PreTrainedModel, plan: Plan, space: UnitSpace) -> AbstractContextManager[Any]:
    """Within the block a model has the soft masks of a plan, and still what the plan removes."""
    masks = torch.where(plan.masks > 0, plan.masks, 1.0)
    if bool((masks == 1).all()):
        return nullcontext()
    return attached(dense, space, masks.to(dense.device, torch.promote_types(dense.dtype, torch.float32)))


def check_refittable(space: UnitSpace) -> None:
    """Refuse to refit weights with tiles, whose zeros would be filled.

    Raises:
        UserError: a kind of unit is tiles.
    """
    if space.tiled:
        raise UserError(
            "weights with tiles cannot be refitted, which would fill their zeros: leave the refit out (--no-refit of a "
            "cut, method.refit: false of a run)"
        )


def refit(module: nn.Module, path: str, moments: Moments, ridge: float = RIDGE) -> Refit:
    """Give a Linear the weight and the bias that fit its targets best; if they fit already, nothing changes.

    With C the covariances and the residual `R = C_yx - W C_xx`, the new weight is `W + R (C_xx + r I)^-1`.

    Raises:
        UserError: the moments are not finite.
    """
    assert isinstance(module, nn.Linear | Bias)
    moments.check(path)
    weight, spread = module.weight.double(), max(float(moments.variance()), TINY)
    before = float(moments.error(weight, module.bias)) / spread
    if before < ROUNDING:
        return Refit(path, before, before)
    xx, yx = moments.covariance(centred=module.bias is not None)
    module.weight.copy_(weight + solved(xx, yx - weight @ xx, ridge))
    if module.bias is not None:
        module.bias.copy_((moments.y - module.weight.double() @ moments.x) / max(1, moments.count))
    return Refit(path, before, float(moments.error(module.weight.double(), module.bias)) / spread)


def solved(xx: Tensor, residual: Tensor, ridge: float) -> Tensor:
    """`(out, into)`: `residual (xx + r I)^-1`, with r relative to the mean of the diagonal; 0 without finite inputs.

    Where the rounding of `xx` in float32 is more than the ridge, it is raised.
    """
    diagonal = xx.diagonal()
    if not len(diagonal) or not 0 < float(diagonal.sum()) < torch.inf:
        return torch.zeros_like(residual)
    damped = xx + ridge * diagonal.mean() * torch.eye(len(xx), dtype=xx.dtype, device=xx.device)
    try:
        factor = torch.linalg.cholesky(damped)
    except torch.linalg.LinAlgError:
        return solved(xx, residual, 10 * ridge)
    return torch.cholesky_solve(residual.T, factor).T
