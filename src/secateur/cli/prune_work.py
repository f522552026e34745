"""The whole job: prune a model by a recipe, and a demonstration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import typer

from secateur.cli.demo_recipes import DEMO_DATA, DEMO_MODEL, DEMOS, FOLDERS, installing_demo
from secateur.cli.errors import GOAL_MISSED
from secateur.cli.output import show_json, show_text_table
from secateur.cli.progress import watching
from secateur.cli.recipe_options import pairs_of
from secateur.cli.run_output import show_report, show_sweep
from secateur.report.other_densities import predict, walk_of
from secateur.report.recipe_keys import dotted
from secateur.report.report import Report
from secateur.report.verdict import verdict
from secateur.run import recipe
from secateur.run.job import dry_run_job, run_job
from secateur.run.recipe import Recipe
from secateur.system import processes
from secateur.system.errors import UserError


def prune(
    *,
    output: Path,
    given: dict[str, Any],
    model: str | None,
    file: Path | None,
    others: list[str] | None,
    dry_run: bool,
    overwrite: bool,
    as_json: bool,
) -> None:
    """What `secateur prune` does; the options are described where it is declared."""
    named = {} if model is None else {"model": model}
    values = named | given | pairs_of("--set", others or [])
    wanted = recipe.read(file, values) if file else _without_file(values)
    if dry_run:
        _show_outlook(wanted, output, as_json, overwrite)
    else:
        _run(wanted, output, as_json, overwrite)


def _without_file(values: Mapping[str, Any]) -> Recipe:
    """A recipe from the command line alone."""
    for key, place in (("model", "after the command"), ("data.source", "by --data")):
        if key not in dotted(values):
            name = key.partition(".")[0]
            raise UserError(f"no {name} is given: name it {place}, or in a recipe file (--recipe)")
    return recipe.make(values, recipe.COMMAND_LINE)


def _show_outlook(wanted: Recipe, output: Path, as_json: bool, overwrite: bool) -> None:
    """What the run would do."""
    ahead = dry_run_job(wanted, output, overwrite=overwrite)
    if not processes.is_main():
        return
    if as_json:
        show_json(ahead.to_dict())
    else:
        show_text_table(("", "dry run"), ahead.lines)


def _run(wanted: Recipe, output: Path, as_json: bool, overwrite: bool = False) -> None:
    several = len(wanted.target.densities) > 1
    with watching() as watch:
        reports = run_job(wanted, output, [watch], overwrite=overwrite)
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


def demo(*, output: Path | None, task: str, overwrite: bool, as_json: bool) -> None:
    """What `secateur demo` does; the options are described where it is declared."""
    if task not in DEMOS:
        raise UserError(f"there is no demo of the task {task!r}: choose {' or '.join(DEMOS)}")
    package = find_spec(DEMO_MODEL)
    missing = [
        name
        for name, found in (("model", package and package.submodule_search_locations), ("data", find_spec(DEMO_DATA)))
        if not found
    ]
    if missing or package is None:
        verb = "is" if missing == ["model"] else "are"
        raise UserError(f"the demo's {' and '.join(missing)} {verb} not installed: run {installing_demo()}")
    model = Path((package.submodule_search_locations or [""])[0]) / "model"
    wanted = recipe.make({"model": str(model), **DEMOS[task]}, "the demo")
    _run(wanted, output or Path(FOLDERS[task]), as_json, overwrite)
