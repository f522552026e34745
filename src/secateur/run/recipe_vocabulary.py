"""The group `vocabulary` of a recipe's keys: which pieces of the tokenizer's vocabulary are kept."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveInt

from secateur.run.recipe_schema import Flag, Strict


class VocabularyRecipe(Strict):
    """The pieces of the tokenizer's vocabulary that the model keeps, each with its row of the word embeddings."""

    pieces: Annotated[Literal["all", "task"], Flag("--vocabulary")] = Field(
        "all",
        description="pieces to keep: all, or task, those that the training texts use, with what the tokenizer needs to "
        "divide any other text",
    )
    texts: Annotated[tuple[str, ...], Flag("--vocabulary-texts")] = Field(
        (), description="files of plain text, one text a line, whose pieces are kept as well"
    )
    min_count: Annotated[PositiveInt, Flag("--min-count")] = Field(
        1, description="how often a piece occurs in these texts if it is kept"
    )
