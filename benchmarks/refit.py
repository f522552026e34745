"""GRAIN on SST-2 with and without the refit at each removal (`method.refit`), at the same density, seed and steps.

    python benchmarks/refit.py train --data DIR --teacher DIR [--only NAME]     the runs, one after another
    python benchmarks/refit.py table                                           scores and seconds, in Markdown

`--data` is a folder with train.parquet and validation.parquet in the columns of GLUE's sst2; `--teacher` is a
fine-tuned MiniLM-L6, from which the student starts. With `--held-out ROWS` that many training rows take the place of
the validation rows, which is how a default is chosen. `train` goes on where it stopped, and does not repeat a finished
run; `--list` prints the names of the runs for `--only`. Settings are those of `benchmarks/sst2.py`.
"""

from __future__ import annotations

from collections import defaultdict
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import typer
from runner import Folder, base_model, finished, hold_out, one, print_row, spread
from sst2 import SETTINGS

app = typer.Typer(add_completion=False)
RUNS = Path("runs/refit")
DENSITIES = (0.10, 0.05, 0.03)
Seeds = Annotated[list[int] | None, typer.Option(help="Repeatable; by default 0.")]
Densities = Annotated[list[float] | None, typer.Option(help="Repeatable; by default 0.10, 0.05 and 0.03.")]


def planned(
    densities: list[float], seeds: list[int], epochs: float, steps: int | None, held_out: int
) -> dict[str, dict[str, Any]]:
    """Name -> what the recipe of each run changes; runs with and without the refit are next to each other."""
    length = {"training.epochs": epochs, "training.steps": None}
    if steps is not None:
        length = {"training.epochs": None, "training.steps": steps}
    word = f"{epochs:g}-epochs" if steps is None else f"{steps}-steps"
    place = f"held-out-{held_out}" if held_out else "validation"
    return {
        f"{place}/{word}/{density:g}-{'refit' if refit else 'plain'}-{seed}": {
            **length,
            "target.density": density,
            "method.refit": refit,
            "seed": seed,
        }
        for density, seed, refit in product(densities, seeds, (True, False))
    }


@app.command()
def train(
    data: Folder,
    teacher: Folder,
    density: Densities = None,
    seed: Seeds = None,
    epochs: float = 1.5,
    steps: int | None = None,
    held_out: int = 0,
    only: str = "",
    list_: Annotated[bool, typer.Option("--list")] = False,
    threads: int = 1,
) -> None:
    """Do every run that is not finished, or one of them."""
    rows = hold_out(data, RUNS / f"rows-{held_out}", held_out) if held_out and not list_ else data
    shared = {**SETTINGS, "training.checkpoints": 4, "model": base_model(), "teacher": str(teacher), "data": str(rows)}
    runs = planned(density or [*DENSITIES], seed or [0], epochs, steps, held_out)
    if only and only not in runs:
        raise typer.BadParameter(f"no run is called {only}: --list prints their names")
    for name, own in runs.items():
        if list_:
            print(name)
        elif only in ("", name):
            one(RUNS / name, {**shared, **own}, RUNS / name.partition("/")[0], threads)


@app.command()
def table() -> None:
    """Print each score with and without the refit, and the seconds of pruning and recovery."""
    from secateur.report.report import Report

    scores: dict[tuple[str, ...], list[float]] = defaultdict(list)
    seconds: dict[tuple[str, ...], list[float]] = defaultdict(list)
    for folder in finished(sorted(RUNS.glob("*/*/*-*-*"))):
        report, (density, refit, _) = Report.load(folder), folder.name.split("-")
        key = (*folder.parts[-3:-1], density, refit)
        scores[key].append(report.scores[report.metric])
        seconds[key].append(report.seconds["prune"] + report.seconds["recover"])
    print_row(["rows", "length", "density", "refit", "seeds", "score", "seconds"])
    print_row(["---"] * 7)
    for key in sorted(scores):
        print_row([*key, str(len(scores[key])), spread(scores[key]), spread(seconds[key], 0)])


if __name__ == "__main__":
    app()
