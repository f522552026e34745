"""What a compact model says of itself once it has other outputs or word embeddings than it was cut with."""

from __future__ import annotations

from typing import Any

from torch import nn


def check_resizable(described: dict[str, Any] | None) -> None:
    """Refuse to give word embeddings that are not stored row by row another number of rows.

    Args:
        described: the `secateur` key of the model's config.

    Raises:
        ValueError: they are factorised, or in int8.
    """
    if described and (described["factorised"] or described["quantised"]):
        raise ValueError(
            "word embeddings that are factorised or in int8 cannot be resized: add the tokens to the dense model, and "
            "cut that"
        )


def with_outputs(described: dict[str, Any] | None, model: nn.Module) -> dict[str, Any] | None:
    """The `secateur` key of a config with the numbers of outputs that the Linears of its model have."""
    if not described:
        return described
    modules = dict(model.named_modules())
    linear = {
        path: [getattr(modules.get(path), "out_features", outputs), into]
        for path, (outputs, into) in described["linear"].items()
    }
    return {**described, "linear": linear}


def with_rows(plan: dict[str, Any] | None, rows: int) -> dict[str, Any] | None:
    """The content of plan.json for word embeddings of other rows.

    Where the plan keeps some pieces of a vocabulary, rows behind these are further pieces, with numbers behind all of
    that vocabulary, which are kept too; where rows are missing, its last pieces are not kept.
    """
    if plan is None or plan.get("vocabulary") is None:
        return plan
    size = plan["vocabulary"]["size"]
    kept = [number for first, last in plan["vocabulary"]["kept"] for number in range(first, last + 1)][:rows]
    added = rows - len(kept)
    ranges: list[list[int]] = []
    for number in (*kept, *range(size, size + added)):
        if ranges and ranges[-1][1] == number - 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return {**plan, "vocabulary": {"size": size + added, "kept": ranges}}
