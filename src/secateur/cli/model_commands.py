"""The parts of the job that handle one model: list what can be named, inspect, make, cut and score."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer
from transformers import PreTrainedModel

from secateur.budget.latency import LatencyTable, milliseconds
from secateur.budget.parameters import Parameters
from secateur.budget.space import Space
from secateur.cli.model_output import show_inspection, show_names
from secateur.cli.options import (
    Folder,
    Json,
    Label,
    MaxLength,
    Metric,
    ModelName,
    Options,
    Output,
    Task,
    TaskOptions,
    Text,
    Units,
    first_line,
    fitting_tokenizer,
    length_of,
    names_of,
    open_model,
    pairs_of,
    recipe_key,
    shape_of,
    task_of,
    tokenizer_of,
)
from secateur.cli.output import show_json, show_lines, show_table
from secateur.measure.evaluation import encoded, scores
from secateur.measure.inspection import inspect
from secateur.measure.latency_sweep import measure_again, measure_latency, target_reached
from secateur.methods import METHODS
from secateur.report.report_text import score_text, target_table
from secateur.run import new_model
from secateur.run.new_tokenizer import ALGORITHMS
from secateur.structure.architectures import ARCHITECTURES
from secateur.structure.plan import Plan
from secateur.structure.space import UNITS
from secateur.structure.tiles import EXAMPLES
from secateur.surgery import checkpoint
from secateur.surgery.cut import cut
from secateur.system.errors import UserError
from secateur.tasks import TASKS


def list_names(as_json: Json = False) -> None:
    """List what can be named in a recipe or an option."""
    kinds = {
        "architecture": {name: ", ".join(known.heads) for name, known in ARCHITECTURES.all().items()},
        "method": {name: first_line(method.__doc__) for name, method in METHODS.all().items()},
        "task": {name: first_line(task.__doc__) for name, task in TASKS.all().items()},
        "unit": {name: first_line(groups.__doc__) for name, groups in UNITS.items()} | dict(EXAMPLES),
    }
    if as_json:
        show_json(kinds)
    else:
        show_names(kinds)


def inspect_model(
    model: ModelName,
    tokens: Annotated[int, typer.Option(help="Length of the sequence that operations are counted for.", min=1)] = 128,
    as_json: Json = False,
) -> None:
    """Show the layers, parameters, operations and prunable units of a model."""
    found = inspect(open_model(model), tokens)
    if as_json:
        show_json(found.to_dict())
    else:
        show_inspection(found)


def make_model(
    output: Output,
    data: Annotated[str, recipe_key("data.source", "--data")],
    task: Annotated[str, typer.Option(help="translation or summarisation.")] = "translation",
    architecture: Annotated[str, typer.Option(help="A family that writes texts; see `secateur list`.")] = "marian",
    layers: Annotated[int, typer.Option(help="Layers of the encoder.")] = 3,
    decoder_layers: Annotated[
        int | None, typer.Option(help="Layers of the decoder.", show_default="as of the encoder")
    ] = None,
    heads: Annotated[int, typer.Option(help="Heads of every attention.")] = 4,
    width: Annotated[int, typer.Option(help="Of the stream.")] = 256,
    ffn: Annotated[int, typer.Option(help="Neurons of every feed-forward network.")] = 1024,
    dropout: Annotated[float, typer.Option(help="Of the model while it is trained.")] = 0.3,
    vocabulary: Annotated[int, typer.Option(help="Tokens at the most, of both sides together.")] = 8000,
    tokenizer: Annotated[str, typer.Option(help=", ".join(ALGORITHMS))] = "bpe",
    max_length: Annotated[int, typer.Option(help="Tokens that a text may have.")] = 512,
    text: Text = None,
    label: Label = None,
    task_option: TaskOptions = None,
    seed: Annotated[int, typer.Option(help="of the weights")] = 0,
    as_json: Json = False,
) -> None:
    """Make an untrained model and its tokenizer from data alone.

    `secateur prune` then trains it as the teacher first.
    """
    _refuse_occupied(output)
    wanted = task_of(task, data, seed, options=pairs_of("--task-option", task_option), text=text, label=label)
    model = new_model.new_model(
        wanted,
        output,
        architecture=architecture,
        layers=layers,
        decoder_layers=decoder_layers,
        heads=heads,
        width=width,
        ffn=ffn,
        dropout=dropout,
        vocabulary=vocabulary,
        tokenizer=tokenizer,
        max_length=max_length,
        seed=seed,
    )
    told = {"parameters": model.num_parameters(), "vocabulary": model.config.vocab_size}
    if as_json:
        show_json({"folder": str(output), **told})
    else:
        show_table(("", "untrained"), [(name, f"{count:,}") for name, count in told.items()])
        show_lines(f"The model is in {output}.")


def cut_model(
    model: ModelName,
    output: Output,
    method: Annotated[str, typer.Option(help="A method that needs no training; see `secateur list`.")] = "magnitude",
    density: Annotated[float | None, recipe_key("target.density")] = None,
    latency: Annotated[str | None, recipe_key("target.latency")] = None,
    speedup: Annotated[float | None, recipe_key("target.speedup")] = None,
    keep: Annotated[int | None, recipe_key("target.keep")] = None,
    shape: Annotated[str | None, recipe_key("target.shape")] = None,
    table: Annotated[Path | None, recipe_key("target.latency_table", "--latency-table")] = None,
    round_to: Annotated[int, recipe_key("target.round_to")] = 1,
    units: Units = "ffn,qk,vo",
    embedding_rank: Annotated[int | None, recipe_key("target.embedding_rank")] = None,
    option: Options = None,
    plan: Annotated[
        Path | None, typer.Option(help="Cut by this plan.json; method, density and units are in it.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Cut a model without training, by a method or by a plan."""
    _refuse_occupied(output)
    dense, timed = open_model(model), None
    if plan is not None:
        verdict = Plan.load(plan, dense)
    else:
        asked = _amount(density, latency, speedup, keep)
        if "latency" in asked or "speedup" in asked:
            timed = _latency_table(dense, table, shape, names_of(units) or ())
            asked = {"share": timed.share_of(**asked)}
        space = Space(dense, *(names_of(units) or ()), budget=timed or Parameters(), round_to=round_to)
        verdict = _post_training(space, method, pairs_of("--option", option)).plan(
            embedding_rank=embedding_rank, **asked
        )
    small, tokenizer = cut(dense, verdict), None
    with suppress(UserError):  # a model may come without one
        tokenizer = tokenizer_of(model)
    checkpoint.save(small, output, tokenizer=tokenizer)
    found = inspect(small)
    target = None if timed is None else target_reached(verdict.latency or {}, measure_again(timed, small, dense))
    if as_json:
        show_json({"folder": str(output), **found.to_dict(), "target": target})
    else:
        show_inspection(found)
        if target is not None:
            show_table(("", "dense", "cut"), target_table(target))
        show_lines(f"The model is in {output}.")


def _amount(density: float | None, latency: str | None, speedup: float | None, keep: int | None) -> dict[str, Any]:
    """What is asked for, by its name: a density of 0.5 where nothing is."""
    asked = {
        "density": density,
        "latency": None if latency is None else milliseconds(latency),
        "speedup": speedup,
        "keep": keep,
    }
    given = {name: value for name, value in asked.items() if value is not None}
    if len(given) > 1:
        raise UserError(f"{' and '.join(given)} exclude each other: ask for one of them")
    return given or {"density": 0.5}


def _latency_table(
    model: PreTrainedModel, path: Path | None, shape: str | None, units: tuple[str, ...]
) -> LatencyTable:
    """The table of a file, which must be of the shape asked for, or one measured now."""
    if path is not None:
        batch, tokens = (None, None) if shape is None else shape_of(shape)
        return LatencyTable.load(path, batch=batch, tokens=tokens)
    batch, tokens = shape_of(shape or "8x128")
    return measure_latency(model, *units, batch=batch, tokens=tokens)


def _post_training(space: Space, name: str, options: dict[str, Any]) -> Any:
    """A method that can choose from the weights alone."""
    kind = METHODS.get(name)
    try:
        method = kind(space, **options)
    except TypeError as error:
        raise UserError(f"the options of {name!r} do not fit: {error}") from error
    if method.listens_to or method.param_groups():
        raise UserError(f"{name!r} learns its choice in training: use `secateur prune`, or cut by magnitude")
    return method


def _refuse_occupied(folder: Path) -> None:
    """A folder that is replaced as a whole must hold nothing."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} is there already and not empty: choose a new folder")


def evaluate(
    folder: Folder,
    data: Annotated[str, recipe_key("data.source", "--data")],
    task: Task = "classification",
    text: Text = None,
    label: Label = None,
    metric: Metric = None,
    max_length: MaxLength = None,
    task_option: TaskOptions = None,
    seed: Annotated[int, typer.Option(help="that split off the validation rows, if the data has none")] = 0,
    as_json: Json = False,
) -> None:
    """Score a fine-tuned model, dense or compact, on validation data."""
    options = pairs_of("--task-option", task_option)
    wanted = task_of(task, data, seed, options=options, text=text, label=label, metric=metric)
    model = open_model(folder)
    tokenizer = fitting_tokenizer(wanted, model, folder)
    rows = encoded(wanted, "validation", tokenizer, length_of(max_length, task))
    found, count = scores(model, wanted, rows, tokenizer), len(wanted.splits["validation"])
    if as_json:
        show_json({"metric": wanted.metric, "scores": found, "rows": count})
    else:
        show_table(("", "score"), [(name, score_text(score)) for name, score in found.items()])
        show_lines(f"on {count:,} validation rows of {data}")
