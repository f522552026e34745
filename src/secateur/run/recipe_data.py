"""The group `data` of a recipe."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from secateur.run.recipe_schema import Flag, Strict


class DataRecipe(Strict):
    """The rows that a run learns from and is scored on."""

    source: Annotated[str, Flag("--data")] = Field(
        description="data set: a hub name such as glue/sst2, a folder, a file, or bbc for the embedded corpus"
    )
    task: Annotated[str, Flag("--task")] = Field(
        "classification",
        description="name of the task; `secateur list` shows all; a folder of images is of `images` if none is named",
    )
    text: Annotated[tuple[str, ...] | None, Flag("--text")] = Field(
        None, description="columns of text; by default found by their usual names"
    )
    label: Annotated[str | None, Flag("--label")] = Field(
        None, description="column of labels; by default found by its usual name"
    )
    labels: Annotated[tuple[str, ...] | None, Flag("--labels")] = Field(
        None,
        min_length=2,
        description="labels of the data in the order of the model's outputs, or names for labels that are integers "
        "from 0; by default the order on which data and model agree",
    )
    evaluation: Annotated[str | None, Flag("--eval")] = Field(
        None,
        description="what an embedding model is scored by: a file of two texts and a number, or a folder of retrieval "
        "in BEIR's form; by default agreement with the teacher",
    )
    pooling: Annotated[str | None, Flag("--pooling")] = Field(
        None,
        description="how an encoder makes one vector of a text, mean, cls or max, if its folder does not say so",
    )
    metric: Annotated[str | None, Flag("--metric")] = Field(
        None, description="metric that is the main score; by default the task's first"
    )
    rows: Annotated[int | None, Flag("--rows")] = Field(
        None, gt=0, description="number of training rows to use, sampled by the seed; by default all"
    )
    tuning_rows: int = Field(
        0,
        ge=0,
        description="number of training rows that are held out of all training, to choose settings by: evaluations "
        "within a stage score them, and the report has their score beside that of the validation rows; `secateur "
        "sweep` holds out some by itself",
    )
    max_length: Annotated[int, Flag("--max-length")] = Field(
        128, gt=1, description="largest number of tokens of a text, or of a window of a longer one"
    )
    options: Annotated[dict[str, Any], Flag("--task-option")] = Field(
        default_factory=dict, description="further arguments of the task"
    )
