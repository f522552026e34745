"""The parts of the job that handle one model: list what can be named, inspect, make and score."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from secateur.cli.done_by import done_by
from secateur.cli.options import OF_RUN, Json, ModelName, Output, Overwrite
from secateur.cli.recipe_options import recipe_options


@done_by("model_work")
def list_names(as_json: Json = False) -> None:
    """List what can be named in a recipe or an option."""


@done_by("model_work")
def inspect_model(
    model: ModelName,
    tokens: Annotated[int, typer.Option(help="Length of the sequence for which operations are counted.", min=1)] = 128,
    as_json: Json = False,
) -> None:
    """Show the layers, parameters, operations and prunable units of a model."""


@recipe_options(
    "data",
    "seed",
    without=("data.metric", "data.rows", "data.max_length"),
    required=("data.source",),
    defaults={"data.task": "translation"},
)
@done_by("model_work")
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
    tokenizer: Annotated[str, typer.Option(help="Algorithm of the tokenizer: bpe or unigram.")] = "bpe",
    max_length: Annotated[int, typer.Option(help="Largest number of tokens of a text.")] = 512,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Make an untrained model and its tokenizer from data alone.

    `secateur prune` then trains it as the teacher first.
    """


@recipe_options("data", "seed", without=("data.rows",), shown=OF_RUN)
@done_by("model_work")
def evaluate(
    folder: Annotated[str, typer.Argument(help="A model folder, the folder of a run, or a file of --layout hub.")],
    given: dict[str, Any],
    as_json: Json = False,
) -> None:
    """Score a fine-tuned model, dense or compact, on rows it was not trained on.

    A model of a run is scored as the run has scored it: by its task, columns and lengths, unless others are given.
    """
