"""Studies: the report of a finished run, a comparison of runs, and the sensitivity of a model to cuts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from secateur.cli.done_by import done_by
from secateur.cli.options import OF_RUN, Folder, Json, Shapes, Threads
from secateur.cli.recipe_options import recipe_options

Pages = Annotated[
    Path | None, typer.Option("--output", "-o", help="Folder for the page, the text and the JSON.", show_default="none")
]

PageAndJson = Annotated[
    Path | None, typer.Option("--output", "-o", help="Folder for the page and the JSON.", show_default="none")
]


@done_by("study_work")
def report_run(
    folder: Annotated[Path, typer.Argument(help="The folder of a finished run.")],
    as_json: Json = False,
) -> None:
    """Write the report pages of a finished run again.

    report.md and report.html are made from its report, its plan and its logs.
    """


@done_by("study_work")
def compare_runs(
    runs: Annotated[list[Path], typer.Argument(help="Folders of finished runs, or folders that hold such folders.")],
    against: Annotated[
        list[str] | None,
        typer.Option(help="A fine-tuned model, dense or compact, to score on the runs' data as well; repeatable."),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(help="Where the runs' data is now, for --against and --baselines.", show_default="where it was"),
    ] = None,
    measure: Annotated[
        bool,
        typer.Option("--measure", help="Measure all models now, instead of reading the speed-ups of the reports."),
    ] = False,
    baselines: Annotated[
        bool,
        typer.Option(
            "--baselines",
            help="Show the baselines of the runs too: what one would otherwise take. Those of a run that has none are "
            "made, which takes about twice its training, and recorded.",
        ),
    ] = False,
    shape: Shapes = None,
    repeats: Annotated[int | None, typer.Option(help="Forwards per latency.", show_default="20")] = None,
    threads: Threads = None,
    output: Pages = None,
    as_json: Json = False,
) -> None:
    """Compare finished runs: score against density, size and speed."""


@recipe_options("data", "seed", without=("data.rows",), shown=OF_RUN)
@done_by("study_work")
def study_sensitivity(
    model: Folder,
    given: dict[str, Any],
    units: Annotated[
        str, typer.Option(help="Kinds of groups that are cut, with commas between them; see `secateur list`.")
    ] = "ffn,qk,vo,head,sublayer",
    densities: Annotated[
        str,
        typer.Option(help="Fractions of a group's units to keep, such as 0.5 or 50%, with commas between them."),
    ] = "0.75,0.5,0.25,0.1",
    by: Annotated[
        str, typer.Option(help="What chooses the kept units: gradient, or a method that needs no training.")
    ] = "gradient",
    rows: Annotated[int, typer.Option(help="Rows to score on, and as many to choose units on.", min=1)] = 256,
    split: Annotated[str, typer.Option(help="Rows to score on: train or validation.")] = "train",
    output: PageAndJson = None,
    as_json: Json = False,
) -> None:
    """Score a model with one group at a time cut.

    Each group is cut to several densities, without training: the scores show where pruning costs least.
    """
