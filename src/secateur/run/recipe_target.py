"""The group `target` of a recipe: how much is kept, and of which units."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, PositiveInt, field_validator
from pydantic_core import PydanticCustomError

from secateur.budget.amounts import batch_and_tokens, byte_count, fraction, fractions, milliseconds, multiple
from secateur.run.recipe_schema import Flag, Strict

AUTO = "auto"
"""In place of a number that the run chooses itself."""


SPREAD = "spread"
"""The rule of layers that are evenly spread."""


class TargetRecipe(Strict):
    """What is pruned, and how much is kept: one of density, size, latency, speedup, keep and keep_score is set."""

    units: Annotated[tuple[str, ...], Flag("--units")] = Field(
        ("ffn", "qk", "vo"), min_length=1, description="kinds of units that may be pruned; `secateur list` shows all"
    )
    density: Annotated[float | tuple[float, ...] | None, Flag("--density", text=True)] = Field(
        0.05,
        description="density, the fraction of prunable parameters to keep, such as 0.05 or 5%; several, such as "
        "0.4,0.2,0.1, give that many models from one pruning; null if another amount is set",
    )
    size: Annotated[int | None, Flag("--size", text=True)] = Field(
        None,
        gt=0,
        description="size of the file of the weights to reach, such as 5MB, 800kB or a number of bytes, instead of a "
        "density; a megabyte has 10^6 bytes",
    )
    latency: Annotated[float | None, Flag("--latency", text=True)] = Field(
        None, gt=0, description="latency to reach, in milliseconds (5 or 5ms), instead of a density"
    )
    speedup: Annotated[float | None, Flag("--speedup", text=True)] = Field(
        None, gt=1, description="speed-up over the unpruned model to reach, such as 2, instead of a density"
    )
    keep: Annotated[int | None, Flag("--keep")] = Field(
        None, gt=0, description="exact number of units to keep, such as 12 of 144 heads, instead of a density"
    )
    keep_score: Annotated[float | None, Flag("--keep-score", text=True)] = Field(
        None,
        gt=0,
        le=1,
        description="part of the teacher's score to keep, such as 0.97 or 97%, instead of a density: the run chooses "
        "the smallest density that keeps it, by short trials on held-out training rows",
    )
    layers: Annotated[PositiveInt | Literal["auto"] | None, Flag("--layers", text=True)] = Field(
        None,
        description="number of layers to keep: the others are removed, and the model recovers, before finer units are "
        "pruned; auto: chosen by short trials on held-out training rows; needs `layer` among the units, with which "
        "auto is the default of methods that prune in rounds",
    )
    layer_rule: Annotated[Literal["scores", "spread"], Flag("--layer-rule")] = Field(
        "scores",
        description="which layers are kept, if there is a number of them: those of the highest scores, or some evenly "
        "spread over the depth",
    )
    toward: float | None = Field(
        None,
        description="lower density to which the schedule goes on, if the model is cut on the way there, at `density`",
    )
    shape: Annotated[tuple[PositiveInt, PositiveInt] | None, Flag("--shape", text=True)] = Field(
        None,
        description="shape of the latency or speed-up, [batch, tokens] or 8x128; by default the first of "
        "measurement.shapes, or that of the table",
    )
    timed: Annotated[Literal["forward", "generation"] | None, Flag("--timed")] = Field(
        None,
        description="what the latency or speed-up is of: a forward, or the generation of as many tokens as the shape "
        "says from as many of a source or a beginning, with the cache; by default generation where a model generates",
    )
    beams: Annotated[PositiveInt, Flag("--beams")] = Field(
        1, description="beams of the generation that is timed; 1 is greedy"
    )
    latency_table: Annotated[str | None, Flag("--latency-table")] = Field(
        None, description="latency table, a file written by `secateur latency`; by default measured when the run starts"
    )
    round_to: Annotated[PositiveInt, Flag("--round-to")] = Field(
        1, description="round sizes up to multiples of this by keeping the best of the pruned units"
    )
    uniform: Annotated[bool, Flag("--uniform")] = Field(
        False,
        description="keep the same sizes in every layer, heads whole, as a stock checkpoint and other engines need; "
        "for a density, and units from kv_head, head, ffn and hidden",
    )
    embedding_rank: Annotated[PositiveInt | Literal["auto"] | None, Flag("--embedding-rank", text=True)] = Field(
        None,
        description="rank to which the word embeddings are factorised; auto: the smallest that keeps 0.9 of the "
        "squares of their values, if that makes them smaller; by default they are not",
    )
    embedding_svd: Annotated[Literal["frequency", "plain"], Flag("--embedding-svd")] = Field(
        "frequency",
        description="how word embeddings are factorised: frequency, each row weighted by how often its piece occurs in "
        "the training texts and those of vocabulary.texts; plain, all rows alike",
    )
    output_dim: Annotated[Literal["teacher"] | None, Flag("--output-dim")] = Field(
        None,
        description="width of the vectors of a pruned embedding model: teacher, by a linear layer that leads back to "
        "it; by default that of the residual stream that is left",
    )

    @field_validator("density", mode="before")
    @classmethod
    def _read_densities(cls, value: Any) -> Any:
        """Text with commas, as on the command line, holds several densities; one of them is a number."""
        if isinstance(value, list | tuple):
            values = tuple(fraction(part) if isinstance(part, str) else part for part in value)
        else:
            values = fractions(value) if isinstance(value, str) else (value,)
        return values[0] if len(values) == 1 else values

    @field_validator("toward", mode="before")
    @classmethod
    def _read_density(cls, value: Any) -> Any:
        return fraction(value) if isinstance(value, str) else value

    @field_validator("keep_score", mode="before")
    @classmethod
    def _part_of_the_score(cls, value: Any) -> Any:
        return fraction(value, "keep_score", "the teacher's score", 0.97) if isinstance(value, str) else value

    @field_validator("speedup", mode="before")
    @classmethod
    def _speedup(cls, value: Any) -> Any:
        return multiple(value) if isinstance(value, str) else value

    @field_validator("density")
    @classmethod
    def _largest_first(cls, value: Any) -> Any:
        return tuple(sorted(value, reverse=True)) if isinstance(value, tuple) else value

    @field_validator("size", mode="before")
    @classmethod
    def _bytes(cls, value: Any) -> Any:
        return byte_count(value) if isinstance(value, str) else value

    @field_validator("latency", mode="before")
    @classmethod
    def _milliseconds(cls, value: Any) -> Any:
        return milliseconds(value) if isinstance(value, str) else value

    @field_validator("shape", mode="before")
    @classmethod
    def _batch_and_tokens(cls, value: Any) -> Any:
        return batch_and_tokens(value) if isinstance(value, str) else value

    @field_validator("layers", mode="before")
    @classmethod
    def _number_or_auto(cls, value: Any) -> Any:
        """Text holds a number, as on the command line, or auto."""
        if isinstance(value, str) and value != AUTO and not value.isdecimal():
            raise PydanticCustomError("layers", "expected a number of layers or auto")
        return int(value) if isinstance(value, str) and value != AUTO else value

    @property
    def densities(self) -> tuple[float, ...]:
        """The target densities, the largest first; empty if the target is another quantity."""
        if self.density is None:
            return ()
        return self.density if isinstance(self.density, tuple) else (self.density,)

    @property
    def is_time(self) -> bool:
        """Whether what is kept is a latency, or a speed-up, which is one too."""
        return self.latency is not None or self.speedup is not None
