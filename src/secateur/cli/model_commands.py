"""The parts of the job that handle one model: list what can be named, inspect, make and score."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from secateur.cli.model_output import show_inspection, show_names
from secateur.cli.options import Json, ModelName, Output, opened_data
from secateur.cli.output import show_json, show_lines, show_table
from secateur.cli.recipe_options import recipe_options
from secateur.deploy.export import opened
from secateur.deploy.runtimes import RUNTIMES
from secateur.deploy.served_model import described_model, folder_of
from secateur.measure.evaluation import encoded, fitted_to, runner_scores, scores
from secateur.measure.inspection import inspect, with_stored_bytes
from secateur.methods import METHODS
from secateur.report.report_text import score_text
from secateur.run import new_model
from secateur.run.baselines import BASELINES
from secateur.run.new_tokenizer import ALGORITHMS
from secateur.structure.architectures import ARCHITECTURES
from secateur.structure.space import UNITS
from secateur.structure.tiles import EXAMPLES
from secateur.surgery.opening import local_model_folder, open_encoder, open_model
from secateur.system.files import refuse_occupied
from secateur.tasks import TASKS
from secateur.training.terms import TERMS


def list_names(as_json: Json = False) -> None:
    """List what can be named in a recipe or an option."""
    names = {
        "architecture": {name: ", ".join(family.heads) for name, family in ARCHITECTURES.all().items()},
        "method": _first_lines(METHODS.all()),
        "task": _first_lines(TASKS.all()),
        "term": _first_lines(TERMS.all()),
        "runtime": _first_lines(RUNTIMES.all()),
        "baseline": _first_lines(BASELINES.all()),
        "unit": _first_lines(UNITS) | dict(EXAMPLES),
    }
    if as_json:
        show_json(names)
    else:
        show_names(names)


def _first_lines(items: Any) -> dict[str, str]:
    """Name -> the first line of the docstring."""
    return {name: (item.__doc__ or "").strip().partition("\n")[0] for name, item in items.items()}


def inspect_model(
    model: ModelName,
    tokens: Annotated[int, typer.Option(help="Length of the sequence for which operations are counted.", min=1)] = 128,
    as_json: Json = False,
) -> None:
    """Show the layers, parameters, operations and prunable units of a model."""
    opened = open_encoder(model)
    inspection = inspect(opened, tokens)
    if inspection.compact:
        inspection = with_stored_bytes(inspection, opened, local_model_folder(model))
    if as_json:
        show_json(inspection.to_dict())
    else:
        show_inspection(inspection)


@recipe_options(
    "data",
    "seed",
    without=("data.metric", "data.rows", "data.max_length"),
    required=("data.source",),
    defaults={"data.task": "translation"},
)
def make_model(
    output: Output,
    given: dict[str, Any],
    architecture: Annotated[str, typer.Option(help="An encoder-decoder family; see `secateur list`.")] = "marian",
    layers: Annotated[int, typer.Option(help="Layers of the encoder.")] = 3,
    decoder_layers: Annotated[
        int | None, typer.Option(help="Layers of the decoder.", show_default="as many as the encoder has")
    ] = None,
    heads: Annotated[int, typer.Option(help="Heads of every attention.")] = 4,
    width: Annotated[int, typer.Option(help="Width of the residual stream.")] = 256,
    ffn: Annotated[int, typer.Option(help="Neurons of every feed-forward network.")] = 1024,
    dropout: Annotated[float, typer.Option(help="Dropout of the model in training.")] = 0.3,
    vocabulary: Annotated[int, typer.Option(help="Largest number of tokens, shared by sources and targets.")] = 8000,
    tokenizer: Annotated[str, typer.Option(help=f"Algorithm of the tokenizer: {', '.join(ALGORITHMS)}.")] = "bpe",
    max_length: Annotated[int, typer.Option(help="Largest number of tokens of a text.")] = 512,
    as_json: Json = False,
) -> None:
    """Make an untrained model and its tokenizer from data alone.

    `secateur prune` then trains it as the teacher first.
    """
    refuse_occupied(output)
    _, task = opened_data(given)
    model = new_model.new_model(
        task,
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
        seed=given.get("seed", 0),
    )
    sizes = {"parameters": model.num_parameters(), "vocabulary": model.config.vocab_size}
    if as_json:
        show_json({"folder": str(output), **sizes})
    else:
        show_table(("", "untrained"), [(name, f"{size:,}") for name, size in sizes.items()])
        show_lines(f"The model is in {output}.")


@recipe_options("data", "seed", without=("data.rows",), required=("data.source",))
def evaluate(
    folder: Annotated[str, typer.Argument(help="A model folder, the folder of a run, or a file of --layout hub.")],
    given: dict[str, Any],
    as_json: Json = False,
) -> None:
    """Score a fine-tuned model, dense or compact, on rows it was not trained on.

    A model of a run is scored as the run has scored it: by its task, columns and lengths, unless others are given.
    """
    file = Path(folder) if Path(folder).is_file() else None
    place = folder if file is None else str(folder_of(file))
    data, read = opened_data(given, place)
    model = open_model(place) if file is None else described_model(Path(place))
    task, tokenizer = fitted_to(read, model, place)
    encodings = encoded(task, "validation", tokenizer, data.max_length)
    if file is None:
        computed = scores(model, task, encodings, tokenizer)
    else:
        computed = runner_scores(opened(file), task, encodings, tokenizer)
    rows, origin = len(task.splits["validation"]), task.origin
    if as_json:
        show_json({"metric": task.metric, "scores": computed, "rows": rows, "split": origin.scored})
    else:
        show_table(("", "score"), [(name, score_text(score)) for name, score in computed.items()])
        show_lines(f"on {rows:,} {origin.rows} of {data.source}")
