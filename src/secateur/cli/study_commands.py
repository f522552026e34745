"""Studies: the report of a finished run, a comparison of runs, and the sensitivity of a model to cuts."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from transformers import PreTrainedModel

from secateur.cli.options import (
    Folder,
    Json,
    Label,
    MaxLength,
    Metric,
    Task,
    TaskOptions,
    Text,
    fitting_tokenizer,
    length_of,
    names_of,
    open_model,
    pairs_of,
    place_of,
    recipe_key,
    shape_of,
    task_of,
)
from secateur.cli.output import show_json, show_lines
from secateur.cli.study_output import show_comparison, show_sensitivity
from secateur.measure.benchmark import benchmark
from secateur.measure.evaluation import encoded, scores
from secateur.measure.inspected_model import ParameterCount
from secateur.measure.inspection import inspect
from secateur.measure.model_size import disk_bytes
from secateur.measure.sensitivity import DENSITIES, GRADIENT, ROWS, UNITS, sensitivity
from secateur.report import comparison_page, comparison_text, run_page, sensitivity_page
from secateur.report.comparison import ScoredModel, Shape, Timing
from secateur.report.report import Report
from secateur.run.comparable_times import KEPT_PROTOCOL
from secateur.run.finished_run import FinishedRun
from secateur.run.finished_runs import read
from secateur.run.run_comparison import compare
from secateur.system.errors import UserError
from secateur.tasks import task as tasks

Pages = Annotated[
    Path | None, typer.Option("--output", "-o", help="Folder for the page, the text and the JSON.", show_default="none")
]


def report_run(
    folder: Annotated[Path, typer.Argument(help="The folder of a finished run.")],
    as_json: Json = False,
) -> None:
    """Write the report pages of a finished run again.

    report.md and report.html are made from its report, its plan and its logs.
    """
    found = Report.load(folder)
    run_page.write(found, folder)
    if as_json:
        show_json(found.to_dict())
    else:
        show_lines(f"The report is in {folder / 'report.html'}, and as text in {folder / 'report.md'}.")


def compare_runs(
    runs: Annotated[list[Path], typer.Argument(help="Folders of finished runs, or folders that hold such folders.")],
    against: Annotated[
        list[str] | None,
        typer.Option(help="A fine-tuned model, dense or compact, scored on the runs' data as one more; repeatable."),
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="Where the runs' data is now, for --against.", show_default="where it was")
    ] = None,
    measure: Annotated[
        bool, typer.Option("--measure", help="Measure all models now, in turn, in place of the reports' speed-ups.")
    ] = False,
    shape: Annotated[
        list[str] | None, typer.Option(help="batch x tokens to measure at; repeatable.", show_default="1x32, 8x128")
    ] = None,
    repeats: Annotated[int, typer.Option(help="Forwards per latency.")] = 20,
    threads: Annotated[int | None, typer.Option(help="Threads.", show_default="as many as PyTorch takes")] = None,
    output: Pages = None,
    as_json: Json = False,
) -> None:
    """Compare finished runs: score against density, size and speed."""
    if (shape or threads) and not measure:
        raise UserError("--shape and --threads are of a measurement made now: give --measure with them")
    found = read(runs)
    _claim(output)
    outside = _outside(found, against or [], data)
    shapes = [shape_of(text) for text in shape or ("1x32", "8x128")]
    measured = _measured(found, outside, shapes, repeats, threads) if measure else None
    table = compare(found, outside, measured)
    if output is not None:
        told = json.dumps(comparison_text.to_dict(table), indent=1) + "\n"
        _write(
            output,
            {
                "compare.html": comparison_page.to_html(table),
                "compare.md": comparison_text.to_markdown(table),
                "compare.json": told,
            },
        )
    if as_json:
        show_json(comparison_text.to_dict(table))
    else:
        show_comparison(table)
        _show_pages(output, "compare")


def _outside(runs: Sequence[FinishedRun], places: Sequence[str], data: str | None) -> list[ScoredModel]:
    """Models that no run made, on the rows that the runs were scored on."""
    if not places:
        return []
    task, max_length = _task_of(runs[0], data), runs[0].recipe["data.max_length"]
    dense = {run.report.parameters["teacher"] for run in runs}
    prunable = _prunable(open_model(str(runs[0].folder))) if len(dense) == 1 else None
    whole = None if prunable is None else prunable.total
    return [_scored(place, task, max_length, whole) for place in places]


def _task_of(run: FinishedRun, data: str | None) -> tasks.Task:
    """The data of a run, opened again.

    Raises:
        UserError: it is not what the run was scored on.
    """
    report, recipe = run.report, run.recipe
    place, text = data or report.recipe["data"]["source"], recipe["data.text"] and ",".join(recipe["data.text"])
    columns = {"text": text, "label": recipe["data.label"], "metric": report.metric}
    own = {"rows": recipe["data.rows"], "options": recipe["data.options"]}
    task = task_of(recipe["data.task"], place, report.recipe["seed"], **own, **columns)
    if task.fingerprint() != report.data:
        raise UserError(
            f"{place} is not the data of the runs (fingerprint {task.fingerprint()}, theirs {report.data}): "
            "say by --data where that is"
        )
    return task


def _scored(place: str, task: tasks.Task, max_length: int, whole: int | None) -> ScoredModel:
    """One model on the validation rows; its density is of `whole`, the prunable parameters of the runs' teacher."""
    model = open_model(place)
    tokenizer = fitting_tokenizer(task, model, place)
    found = scores(model, task, encoded(task, "validation", tokenizer, max_length), tokenizer)
    prunable, compact = _prunable(model), bool(getattr(model.config, "secateur", None))
    return ScoredModel(
        place=place,
        score=found[task.metric],
        density=prunable.kept / whole if prunable is not None and whole else None,
        parameters=model.num_parameters(),
        bytes=disk_bytes(place_of(place)) if compact else 4 * model.num_parameters(),
    )


def _prunable(model: PreTrainedModel) -> ParameterCount | None:
    """Prunable parameters; None for a family that we do not know."""
    try:
        return inspect(model).parameters["prunable"]
    except UserError:
        return None


def _measured(
    runs: Sequence[FinishedRun],
    outside: Sequence[ScoredModel],
    shapes: Sequence[Shape],
    repeats: int,
    threads: int | None,
) -> dict[str, dict[Shape, Timing]]:
    """The times of all models in one benchmark, by their places; speed-ups are over each run's own teacher."""
    teachers = {str(run.folder): run.teacher for run in runs}
    places = dict.fromkeys([*teachers.values(), *(entry.place for entry in outside), *teachers])
    found = benchmark(
        {place: open_model(place) for place in places},
        shapes=shapes,
        repeats=repeats,
        threads=threads,
        peak_memory=False,
    )
    medians = {(one.model, one.batch, one.tokens): one.latency_ms for one in found}
    times: dict[str, dict[Shape, Timing]] = {place: {} for place in places}
    for one in found:
        dense = medians.get((teachers.get(one.model, one.model), one.batch, one.tokens))
        speed_up = None if dense is None else dense / one.latency_ms
        times[one.model][one.batch, one.tokens] = Timing(
            one.latency_ms, speed_up, {key: one.protocol[key] for key in KEPT_PROTOCOL}
        )
    return times


def study_sensitivity(
    model: Folder,
    data: Annotated[str, recipe_key("data.source", "--data")],
    units: Annotated[str, typer.Option(help="Whose groups are cut, with commas; see `secateur list`.")] = ",".join(
        UNITS
    ),
    densities: Annotated[str, typer.Option(help="Of a group's units, with commas.")] = ",".join(map(str, DENSITIES)),
    by: Annotated[
        str, typer.Option(help="What says which units of a group stay: gradient, or a method that needs no training.")
    ] = GRADIENT,
    rows: Annotated[int, typer.Option(help="Rows to score on, and as many to choose on.", min=1)] = ROWS,
    split: Annotated[str, typer.Option(help="Rows to score on: train or validation.")] = "train",
    task: Task = "classification",
    text: Text = None,
    label: Label = None,
    metric: Metric = None,
    max_length: MaxLength = None,
    task_option: TaskOptions = None,
    seed: Annotated[int, typer.Option(help="that draws the rows")] = 0,
    output: Pages = None,
    as_json: Json = False,
) -> None:
    """Score a model with one group at a time cut.

    Each group is cut to several densities, without training: the scores show where pruning costs least.
    """
    options = pairs_of("--task-option", task_option)
    wanted = task_of(task, data, seed, rows=2 * rows, options=options, text=text, label=label, metric=metric)
    dense = open_model(model)
    tokenizer, kept = fitting_tokenizer(wanted, dense, model), _numbers(densities)
    _claim(output)
    found = sensitivity(
        dense,
        wanted,
        tokenizer,
        units=names_of(units) or (),
        densities=kept,
        rows=rows,
        split=split,
        by=by,
        max_length=length_of(max_length, task),
        seed=seed,
    )
    if output is not None:
        told = json.dumps(found.to_dict(), indent=1) + "\n"
        _write(
            output, {"sensitivity.html": sensitivity_page.to_html(found, Path(model).name), "sensitivity.json": told}
        )
    if as_json:
        show_json(found.to_dict())
    else:
        show_sensitivity(found, Path(model).name)
        _show_pages(output, "sensitivity")


def _numbers(text: str) -> list[float]:
    try:
        return [float(number) for number in text.split(",")]
    except ValueError as error:
        raise UserError(f"densities {text!r} are no numbers: write them like 0.5,0.25") from error


def _claim(folder: Path | None) -> None:
    """Make the folder of the pages, if there is to be one, before anything takes its time; it may be there."""
    if folder is not None:
        with _writing(folder):
            folder.mkdir(parents=True, exist_ok=True)


def _write(folder: Path, texts: Mapping[str, str]) -> None:
    """Write the pages; those of an earlier study are replaced."""
    for name, text in texts.items():
        with _writing(folder):
            (folder / name).write_text(text, encoding="utf-8", errors="replace")


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write to {folder} ({error.strerror}): choose a folder that can be written") from error


def _show_pages(folder: Path | None, name: str) -> None:
    if folder is not None:
        show_lines("", f"The page is {folder / f'{name}.html'}.")
