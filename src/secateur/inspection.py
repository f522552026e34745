"""What a model is made of: kept and total by layer, parameters and operations, and the price of a unit."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedModel

from secateur.cost import SCOPES
from secateur.plan import Plan
from secateur.space import GRANULARITIES, Space
from secateur.surgery import uncut


def inspect(model: PreTrainedModel, tokens: int = 128) -> dict[str, Any]:
    """Plain values about a dense model (all kept, and what may be pruned) or a compact one with its plan.

    `stored` counts the numbers in the model's tensors; what it holds beyond the counted ones is `padding`.

    Raises:
        UserError: the architecture or the head is not supported, or a compact model has no plan.
    """
    compact = bool(getattr(model.config, "secateur", None))
    space, plan = _planned(model) if compact else _whole(model)
    kept = {scope: round(plan.achieved[scope] * space.total(scope)) for scope in SCOPES}
    stored = model.num_parameters()
    full = space.ones().cpu()
    return {
        "architecture": model.config.model_type,
        "model_class": type(model).__name__,
        "compact": compact,
        "method": plan.method if compact else None,
        "asked": plan.asked,
        "layers": plan.summary(space),
        "parameters": {
            scope: {"kept": kept[scope], "total": space.total(scope), "density": plan.achieved[scope]}
            for scope in SCOPES
        },
        "stored": stored,
        "padding": stored - kept["model"],
        "flops": {
            "tokens": tokens,
            "kept": space.flops(plan.masks, tokens),
            "total": space.flops(full, tokens),
        },
        "units": [] if compact else [_offer(model, name) for name in GRANULARITIES],
    }


def _planned(model: PreTrainedModel) -> tuple[Space, Plan]:
    dense, _ = uncut(model)
    plan = Plan.from_dict(model.plan, dense)
    return plan.space(dense), plan


def _whole(model: PreTrainedModel) -> tuple[Space, Plan]:
    space = Space(model)
    return space, Plan.of(space, space.ones())


def _offer(model: PreTrainedModel, granularity: str) -> dict[str, Any]:
    """How many units a granularity has, what one costs, and the density that it alone can come down to."""
    space = Space(model, granularity)
    return {
        "unit": granularity,
        "groups": len(space.groups),
        "units": len(space),
        "parameters_each": round(float(space.unit_cost().mean())),
        "floor": space.floor(),
    }
