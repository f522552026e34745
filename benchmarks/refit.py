"""GRAIN on SST-2 and MRPC, with and without the refit at each removal (`method.refit`), of the same density and length.

    python benchmarks/refit.py train --data DIR --teacher DIR [--only NAME]     the runs, one after another
    python benchmarks/refit.py table                                           scores and seconds, in Markdown

`--data` is a folder with `sst2` and `mrpc` (train.parquet and validation.parquet in GLUE's columns); `--teacher` is a
MiniLM-L6 fine-tuned on the one that `--task` names, from which the student starts. With `--held-out ROWS` that many
training rows take the place of the validation rows, which is how a default is chosen. `train` goes on where it stopped,
and does not repeat a finished run; `--list` prints the names of the runs for `--only`. Settings are those of
`benchmarks/sst2.py`, and on MRPC of `benchmarks/rounds.py`; a longer run has as many steps of pruning.
"""

from __future__ import annotations

from collections import defaultdict
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import typer
from rounds import SHARED, TASKS
from runner import Folder, base_model, finished, hold_out, one, print_row, spread
from sst2 import SETTINGS

app = typer.Typer(add_completion=False)
RUNS = Path("runs/refit")
OF_TASKS: dict[str, dict[str, Any]] = {"sst2": SETTINGS, "mrpc": {**SHARED, **TASKS["paraphrase"].settings}}
"""Data set -> the settings of its runs."""
DENSITIES = (0.10, 0.05, 0.03)
Seeds = Annotated[list[int] | None, typer.Option(help="Repeatable; by default 0.")]
Densities = Annotated[list[float] | None, typer.Option(help="Repeatable; by default 0.10, 0.05 and 0.03.")]
Epochs = Annotated[float | None, typer.Option(help="By default those of the settings: 1.5 on SST-2, 10 on MRPC.")]


def length_of(settings: dict[str, Any], epochs: float | None, steps: int | None) -> tuple[str, dict[str, Any]]:
    """The length of a run in words, and what it changes: in a run of more epochs as many steps prune."""
    if steps is not None:
        return f"{steps}-steps", {"training.epochs": None, "training.steps": steps}
    own = settings["training.epochs"]
    part = own / (epochs or own)
    ramp = {key: settings[key] * part for key in ("method.begin", "method.end")}
    return f"{epochs or own:g}-epochs", {**ramp, "training.epochs": epochs or own}


def planned(
    task: str, densities: list[float], seeds: list[int], epochs: float | None, steps: int | None, held_out: int
) -> dict[str, dict[str, Any]]:
    """Name -> recipe of each run but for its data; runs with and without the refit are next to each other."""
    settings = OF_TASKS[task]
    word, length = length_of(settings, epochs, steps)
    place = f"held-out-{held_out}" if held_out else "validation"
    return {
        f"{task}/{place}/{word}/{density:g}-{'refit' if refit else 'plain'}-{seed}": {
            **settings,
            **length,
            "training.checkpoints": 4,
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
    task: str = "sst2",
    density: Densities = None,
    seed: Seeds = None,
    epochs: Epochs = None,
    steps: int | None = None,
    held_out: int = 0,
    only: str = "",
    list_: Annotated[bool, typer.Option("--list")] = False,
    threads: int = 1,
) -> None:
    """Do every run that is not finished, or one of them."""
    if task not in OF_TASKS:
        raise typer.BadParameter(f"--task is one of {', '.join(OF_TASKS)}")
    own = data / task
    rows = hold_out(own, RUNS / task / f"rows-{held_out}", held_out) if held_out and not list_ else own
    shared = {"model": base_model(), "teacher": str(teacher), "data": str(rows)}
    runs = planned(task, density or [*DENSITIES], seed or [0], epochs, steps, held_out)
    if only and only not in runs:
        raise typer.BadParameter(f"no run is called {only}: --list prints their names")
    for name, values in runs.items():
        if list_:
            print(name)
        elif only in ("", name):
            one(RUNS / name, {**values, **shared}, (RUNS / name).parents[1], threads)


@app.command()
def table() -> None:
    """Print each score with and without the refit, and the seconds of pruning and recovery."""
    from secateur.report.report import Report

    scores: dict[tuple[str, ...], list[float]] = defaultdict(list)
    seconds: dict[tuple[str, ...], list[float]] = defaultdict(list)
    for folder in finished(sorted(RUNS.glob("*/*/*/*-*-*"))):
        report, (density, refit, _) = Report.load(folder), folder.name.split("-")
        key = (*folder.parts[-4:-1], density, refit)
        scores[key].append(report.scores[report.metric])
        seconds[key].append(report.seconds["prune"] + report.seconds["recover"])
    print_row(["data", "rows", "length", "density", "refit", "seeds", "score", "seconds"])
    print_row(["---"] * 8)
    for key in sorted(scores):
        print_row([*key, str(len(scores[key])), spread(scores[key]), spread(seconds[key], 0)])


if __name__ == "__main__":
    app()
