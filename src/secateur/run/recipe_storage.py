"""The group `storage` of a recipe's keys: how the weights of the result are written."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from secateur.run.recipe_schema import Flag, Strict


class StorageRecipe(Strict):
    """How the weights of the result are written."""

    dtype: Annotated[Literal["fp32", "bf16", "fp16"], Flag("--store")] = Field(
        "fp32",
        description="type of the weights in the result's file, fp32, bf16 or fp16: they are rounded before the last "
        "check, and loaded in fp32",
    )
    embeddings: Annotated[Literal["fp32", "int8"], Flag("--embedding-rows")] = Field(
        "fp32",
        description="rows of the word embeddings in the result's file; int8: with a scale for each row, rounded after "
        "the recovery",
    )
