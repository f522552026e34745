"""The group `measurement` of a recipe's keys: how the result is measured and judged."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, PositiveInt, field_validator

from secateur.run.baselines import BASELINES
from secateur.run.recipe_schema import Flag, Strict


class MeasurementRecipe(Strict):
    """How the result is measured and judged."""

    shapes: tuple[tuple[PositiveInt, PositiveInt], ...] = Field(
        ((1, 32), (8, 128)), description="(batch, tokens) of each latency that is measured"
    )
    repeats: int = Field(50, gt=0, description="number of timed forwards per latency")
    retention: float = Field(
        0.95,
        ge=0,
        le=1,
        description="part of the teacher's score from which the verdict says that the run worked; not used if "
        "target.keep_score is set, which is that part",
    )
    baselines: Annotated[tuple[str, ...], Flag("--baselines", switch=True)] = Field(
        (),
        description="what is made, scored and timed beside the pruned model, of what one would otherwise take: true "
        "for all that `secateur list` shows, or some of their names",
    )

    @field_validator("baselines", mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        """All names for true, none for false, and a refusal of names that are not known."""
        if isinstance(value, bool):
            return tuple(BASELINES.all()) if value else ()
        if isinstance(value, list | tuple):
            for name in value:
                BASELINES.get(str(name))
        return value
