"""The group `measurement` of a recipe's keys: how the result is measured and judged."""

from __future__ import annotations

from pydantic import Field, PositiveInt

from secateur.run.recipe_schema import Strict


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
