"""The whole job: prune a model by a recipe, and a demonstration."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from secateur.cli.demo_recipes import DEMOS, FOLDERS
from secateur.cli.done_by import done_by
from secateur.cli.options import Json, Run
from secateur.cli.recipe_options import described, recipe_options

ReplaceRun = Annotated[
    bool,
    typer.Option(
        "--overwrite",
        help="Replace the run that is in the folder, once the new one is finished; until then it is in OUTPUT.new.",
    ),
]


@recipe_options(
    shown={
        "target.units": "ffn,qk,vo, or those of the method",
        "data.max_length": "128, or that of the task",
    }
)
@done_by("prune_work")
def prune(
    output: Run,
    given: dict[str, Any],
    model: Annotated[str | None, typer.Argument(help=described("model"))] = None,
    file: Annotated[
        Path | None, typer.Option("--recipe", help="Recipe in YAML; the options override its keys.")
    ] = None,
    others: Annotated[
        list[str] | None, typer.Option("--set", help="Any key of the recipe, as key=value; repeatable.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything, show what the run would do, and stop.")
    ] = False,
    overwrite: ReplaceRun = False,
    as_json: Json = False,
) -> None:
    """Run the whole job: train a teacher if needed, prune, cut, recover, measure, report.

    The same command continues where an interrupted one stopped. With --keep-score the exit code is 3 if the finished
    model keeps less of the teacher's score.
    """


@done_by("prune_work")
def demo(
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Folder of the run.",
            show_default=f"{FOLDERS['classification']}; {FOLDERS['embedding']} with --task embedding",
        ),
    ] = None,
    task: Annotated[str, typer.Option(help=f"{' or '.join(DEMOS)}.")] = "classification",
    overwrite: ReplaceRun = False,
    as_json: Json = False,
) -> None:
    """Prune the MiniLM-L6 of a package on BBC news, in minutes: to 5%, or as an embedding model."""
