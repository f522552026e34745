"""What a model is made of: kept and total by layer and head, parameters and operations, and what a group would save."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from secateur.budget.space import Space
from secateur.structure.architecture import numbered
from secateur.structure.cost import SCOPES
from secateur.structure.plan import Plan
from secateur.structure.reading import Reading
from secateur.structure.space import UNITS, UnitSpace
from secateur.surgery.cut import uncut

PARTS = ("qk", "vo", "ffn", "sublayer", "hidden")
"""Kinds of units whose groups have the name of the axis or gate that they act on: together, any structure."""
BLOCKS = "·▁▂▃▄▅▆▇█"
DIGITS = ".12345678"
"""A head by the eighths of its dims that it has kept, rounded up, and the same where a terminal has ASCII alone."""
BAR = 10
"""Characters of a bar."""
LEFT = {"bias": "bias alone", "gone": "gone"}
"""What is said of a sublayer that has no units left: it adds its output bias, or it is the identity."""
SAVED = {"attention": "attention", "qk": "its QK alone", "mlp": "FFN"}
"""The groups whose savings are shown, and what they are called there."""


def inspect(model: PreTrainedModel, tokens: int = 128) -> dict[str, Any]:
    """Plain values about a dense model (all kept, and what may be pruned) or a compact one with its plan.

    `stored` counts the numbers in the model's tensors; what it holds beyond the counted ones is `zeros`, where tiles
    are gone from weights of which more is left, and `padding`. `heads` gives of each layer, and of its second
    attention, the QK and VO dims of each original head, and whether its sublayers are kept, gone, or their biases
    alone. `savings` gives of each group the parameters and operations that would go with it, and their share of all
    that are stored and done: zeros that tiles leave inside count here as other weights do.

    Raises:
        UserError: the architecture or the head is not supported, or a compact model has no plan.
    """
    compact = bool(getattr(model.config, "secateur", None))
    dense, space, plan = _planned(model) if compact else _whole(model)
    kept = {scope: round(plan.achieved[scope] * space.total(scope)) for scope in SCOPES}
    stored = model.num_parameters()
    zeros = round(float(space.parameters(space.filled(plan.kept)) - space.parameters(plan.kept)))
    full, reading = space.ones().cpu(), plan.read(space)
    return {
        "architecture": model.config.model_type,
        "model_class": type(model).__name__,
        "compact": compact,
        "method": plan.method if compact else None,
        "asked": plan.asked,
        "layers": reading.summary(),
        "heads": _heads(space, reading),
        "head_dim": space.table.head_dim,
        "parameters": {
            scope: {"kept": kept[scope], "total": space.total(scope), "density": plan.achieved[scope]}
            for scope in SCOPES
        },
        "stored": stored,
        "zeros": zeros,
        "padding": stored - zeros - kept["model"],
        "flops": {
            "tokens": tokens,
            "kept": space.flops(plan.masks, tokens),
            "total": space.flops(full, tokens),
        },
        "savings": _savings(dense, space, plan, tokens),
        "units": [] if compact else [_offer(model, name) for name in UNITS],
    }


def _planned(model: PreTrainedModel) -> tuple[PreTrainedModel, UnitSpace, Plan]:
    dense, _ = uncut(model)
    plan = Plan.from_dict(model.plan, dense)
    return dense, plan.space(dense), plan


def _whole(model: PreTrainedModel) -> tuple[PreTrainedModel, UnitSpace, Plan]:
    space = Space(model)
    return model, space, Plan.of(space, space.ones())


def _offer(model: PreTrainedModel, kind: str) -> dict[str, Any]:
    """How many units a kind has, what one costs, and the density that it alone can come down to."""
    space = Space(model, kind)
    return {
        "unit": kind,
        "groups": len(space.groups),
        "units": len(space),
        "parameters_each": round(float(space.unit_cost().mean())),
        "floor": space.floor(),
    }


def _heads(space: UnitSpace, reading: Reading) -> list[dict[str, Any]]:
    """Rows as in `Reading.summary`: QK and VO dims of each head (0 if removed), and the state of each sublayer."""
    alive = reading.alive

    def dims(axis: str) -> list[int]:
        return reading.by_head(axis).sum(dim=1).tolist()

    def state(gate: str, inner: str) -> str:
        if not alive[gate].any():
            return "gone"
        return "kept" if alive[inner].any() else "bias"

    gates = {sublayer.gate: sublayer.axes[-1] for sublayer in space.table.sublayers}
    parts = ("attention", "mlp")
    return [
        {
            "layer": numbered(block),
            "qk": dims(f"{block}.qk"),
            "vo": dims(f"{block}.vo"),
            **{part: state(gate, gates[gate]) for part in parts if (gate := f"{block}.{part}") in gates},
        }
        for block in space.table.blocks
    ]


def _savings(dense: PreTrainedModel, space: UnitSpace, plan: Plan, tokens: int) -> list[dict[str, Any]]:
    """What would go with each group of `PARTS` but the stream, if it went next: prunable parameters, and FLOPs."""
    parts, alive = Space(dense, *PARTS), plan.read(space).alive
    kept = torch.cat([alive[group.name] for group in parts.groups]).double()
    before = _cost(parts, kept, tokens)
    savings = []
    for group in parts.groups:
        if group.kind != "hidden":
            without = kept.clone()
            without[parts.slices[group.name]] = 0.0
            gone = [a - b for a, b in zip(before, _cost(parts, without, tokens), strict=True)]
            shares = [part / whole if whole else 0.0 for part, whole in zip(gone, before, strict=True)]
            named = {"group": group.name, "layer": numbered(group.name.rpartition(".")[0])}
            values = {"parameters": round(gone[0]), "parameters_share": shares[0], "flops": gone[1]}
            savings.append({**named, **values, "flops_share": shares[1]})
    return savings


def _cost(space: Space, masks: Tensor, tokens: int) -> tuple[float, float]:
    """Prunable parameters, and operations on one sequence."""
    reading = space.read(masks)
    return float(reading.parameters()), reading.flops(tokens)


# Drawn


def drawn(found: Mapping[str, Any], ascii_only: bool = False) -> tuple[list[str], list[list[str]]]:
    """Head and rows of a table that draws what `inspect` found: a row a layer, a character a head, a bar a network."""
    rows = []
    for row, own in zip(found["layers"], found["heads"], strict=False):  # the last row is the stream's
        cells = [
            f"{_skyline(own[axis], found['head_dim'], ascii_only)} {_kept(row[axis])[0]:5,}" for axis in ("qk", "vo")
        ]
        states = [own["attention"], own["attention"]]
        if "ffn" in row:
            kept, total = _kept(row["ffn"])
            cells.append(f"{bar(kept, total, ascii_only)} {kept:6,}")
            states.append(own["mlp"])
        told = [cell if state == "kept" else LEFT[state] for cell, state in zip(cells, states, strict=True)]
        rows.append([str(row["layer"]), row["heads"], *told, *[""] * (3 - len(told))])
    totals = {axis: _kept(found["layers"][0][axis])[1] for axis in ("qk", "vo", "ffn")}
    return ["layer", "heads", *(f"{axis.upper()} of {total:,}" for axis, total in totals.items())], rows


def _kept(told: str) -> tuple[int, int]:
    """Kept and total of `3/12`."""
    kept, total = map(int, told.split("/"))
    return kept, total


def _skyline(sizes: Sequence[int], whole: int, ascii_only: bool) -> str:
    """A character a head, as high as the part of its dims that is kept."""
    return "".join((DIGITS if ascii_only else BLOCKS)[-(-8 * size // whole)] for size in sizes)


def bar(kept: int, total: int, ascii_only: bool = False) -> str:
    """`BAR` characters, as many of them full as the part that is kept, rounded up."""
    full = -(-BAR * kept // total)
    return ("#" if ascii_only else "█") * full + ("." if ascii_only else "·") * (BAR - full)


def saved(found: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Head and rows: shares of parameters and of FLOPs that would go, in percent; layers that are alike are one row."""
    by_layer: dict[int | str, dict[str, str]] = {}
    for one in found["savings"]:
        shares = f"{100 * one['parameters_share']:.1f} / {100 * one['flops_share']:.1f}"
        by_layer.setdefault(one["layer"], {})[one["group"].rpartition(".")[2]] = shares
    rows = []
    for _, alike in groupby(by_layer.items(), key=lambda item: item[1]):
        layers = [(layer, cells) for layer, cells in alike]
        (first, cells), (last, _) = layers[0], layers[-1]
        told = [cells.get(part, "") for part in SAVED]
        rows.append([str(first) if first == last else f"each of {first}-{last}", *told])
    return ["layer", *SAVED.values()], rows


def captions(found: Mapping[str, Any], ascii_only: bool = False) -> list[str]:
    """What is drawn below the table, and what its characters mean."""
    kept, total = _kept(found["layers"][-1]["hidden"])
    levels = DIGITS if ascii_only else BLOCKS
    return [
        f"stream {bar(kept, total, ascii_only)} {kept:,} of {total:,} dims",
        f"QK, VO: a character a head, {levels[1]} to {levels[-1]} by the eighths kept of its {found['head_dim']} dims, "
        f"{levels[0]} none",
    ]
