"""Options and arguments that several commands have, and that are no keys of a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, on stdout.")]
ModelName = Annotated[str, typer.Argument(help="A hub name or a model folder, dense or compact.")]
Folder = Annotated[str, typer.Argument(help="A model folder, or the folder of a finished run.")]
Output = Annotated[Path, typer.Option("--output", "-o", help="Folder to write; new or empty.")]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace what is there already, once the new one is complete.")
]
Run = Annotated[Path, typer.Option("--output", "-o", help="Folder of the run.")]
Units = Annotated[str, typer.Option(help="Kinds of units, with commas between them; see `secateur list`.")]
Shapes = Annotated[
    list[str] | None,
    typer.Option(help="batch x tokens to measure at, such as 1x32; repeatable.", show_default="1x32, 8x128"),
]
Threads = Annotated[
    int | None, typer.Option(help="Threads of every runtime.", show_default="the number that PyTorch uses")
]

SHAPES = ("1x32", "8x128")
OF_RUN = {
    "data.source": "that of the run",
    "data.task": "that of the run, or classification",
    "data.max_length": "that of the run, or 128",
}
"""The defaults of a command that takes the model of a run, which its run tells, as the help shows them."""
