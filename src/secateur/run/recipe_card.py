"""The group `card` of a recipe's keys: the names that the model card says, which others can look up."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import Field, ValidationInfo, field_validator

from secateur.run.recipe_schema import Flag, Strict
from secateur.system.errors import UserError

NAME = r"[A-Za-z0-9][\w.-]*"
"""A name on the hub, or that of an owner there."""
FORMS = {"model_id": rf"{NAME}/{NAME}", "base_model": rf"(?:{NAME}/)?{NAME}", "dataset": rf"(?:{NAME}/)?{NAME}"}


class CardRecipe(Strict):
    """Names on the hub that the model card says."""

    model_id: Annotated[str | None, Flag("--model-id")] = Field(
        None,
        description="name on the hub, owner/name, that the result will have: the title and the examples of its card",
    )
    base_model: Annotated[str | None, Flag("--base-model")] = Field(
        None, description="name on the hub of the model that is pruned, if it is a folder here: its card names it"
    )
    dataset: Annotated[str | None, Flag("--dataset")] = Field(
        None, description="name on the hub of the data, if they are files here: the card names them"
    )

    @field_validator("model_id", "base_model", "dataset")
    @classmethod
    def _name_on_the_hub(cls, value: str | None, info: ValidationInfo) -> str | None:
        form = FORMS[info.field_name or ""]
        if value is not None and re.fullmatch(form, value, re.ASCII) is None:
            words = "owner/name" if info.field_name == "model_id" else "such as owner/name"
            raise UserError(f"card.{info.field_name}: expected a name on the hub, {words}, not {value!r}")
        return value
