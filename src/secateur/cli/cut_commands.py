"""Cut a model without training: by a method, by a plan, or to the pieces of its vocabulary that texts use."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from secateur.cli.done_by import done_by
from secateur.cli.options import Json, ModelName, Output, Overwrite
from secateur.cli.recipe_options import recipe_options


@recipe_options(
    "target",
    "method",
    "storage",
    "data",
    "seed",
    without=("target.layers", "target.layer_rule", "target.output_dim", "target.keep_score"),  # of a training
    shown={
        "target.density": "0.5",
        "target.units": "those of the method (head,ffn of fisher and obs), else ffn,qk,vo",
        "target.shape": "that of the table, or 8x128",
        "method.name": "fisher, obs without labels, magnitude without data",
        "data.max_length": "128, or that of the task",
    },
    described_as={
        "target.density": "Density, the fraction of prunable parameters to keep, such as 0.5 or 50%.",
        "target.shape": "Shape of the latency or speed-up, such as 8x128: batch x tokens.",
    },
)
@done_by("cut_work")
def cut_model(
    model: ModelName,
    output: Output,
    given: dict[str, Any],
    plan: Annotated[
        Path | None,
        typer.Option(
            help="Cut by this plan.json, which says the units that are kept, the method and the rank of the word "
            "embeddings: options that say these too are refused."
        ),
    ] = None,
    vocabulary: Annotated[
        list[Path] | None,
        typer.Option(help="Keep the pieces that these texts use: a file of plain text, one text a line; repeatable."),
    ] = None,
    min_count: Annotated[
        int, typer.Option(help="How often a piece must occur in the texts of --vocabulary to be kept.", min=1)
    ] = 1,
    calibration_rows: Annotated[
        int, typer.Option(help="Training rows of --data by which units are chosen and weights are refitted.", min=1)
    ] = 512,
    refit: Annotated[
        bool, typer.Option(help="With --data, refit the weights that are left to the outputs of the dense model.")
    ] = True,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Cut a model without training, by a method, by a plan, or to the pieces of texts.

    With --data the units are chosen by what the model does on some of its training rows, the weights that are left are
    refitted in closed form, and the model is scored before and after: minutes, to decide whether to train. The method
    is then fisher by default, or obs where the data has no labels; without data it is magnitude.

    With --vocabulary, --embedding-rank, --embedding-rows or --store, and no option that says what to prune (of a
    target, or of a method), every unit is kept, of a compact model too; with --data it is scored before and after. With
    --vocabulary or --store alone an ordinary model stays an ordinary one. Without any of these, and without a density,
    a size, a latency, a speed-up or a number of units, the density is 0.5.
    """
