"""The groups of a recipe's keys, each a frozen, strict model: defaults, ranges and descriptions.

Descriptions are the help texts of the command line and the tables of docs/recipes.md. Fractions of the run are in
[0, 1]; a density is the fraction of parameters kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from secateur.budget.latency import milliseconds


@dataclass(frozen=True)
class Flag:
    """Marks a key that has an option of its own on the command line.

    Attributes:
        name: of the option, such as `--density`.
        text: whether the option takes any text, which the recipe then converts.
    """

    name: str
    text: bool = False


class Strict(BaseModel):
    """Keys that may not be changed, of which an unknown one is an error, and whose numbers are finite and no bool."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_bool_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse True for 1, which pydantic accepts: in a recipe it is a mistake."""
        if _bool_for_number(value, cls.model_fields[info.field_name or ""].annotation):
            raise PydanticCustomError("number", "input should be a number")
        return value


def _bool_for_number(value: Any, kind: Any) -> bool:
    """Whether `value` is or contains a bool where the type `kind`, or a type within it, is a number."""
    within = get_args(kind)
    if isinstance(value, list | tuple):
        return any(_bool_for_number(item, part) for item in value for part in within)
    return isinstance(value, bool) and not {int, float}.isdisjoint((kind, *within))


class DataRecipe(Strict):
    """The rows that a run learns from and is scored on."""

    source: Annotated[str, Flag("--data")] = Field(
        description="data: a hub name (glue/sst2), a folder, a file, or bbc for the embedded corpus"
    )
    task: Annotated[str, Flag("--task")] = Field("classification", description="kind of task; see `secateur list`")
    text: Annotated[tuple[str, ...] | None, Flag("--text")] = Field(
        None, description="columns of text; recognised by default"
    )
    label: Annotated[str | None, Flag("--label")] = Field(None, description="column of labels; recognised by default")
    metric: Annotated[str | None, Flag("--metric")] = Field(None, description="main score; by default the task's")
    rows: Annotated[int | None, Flag("--rows")] = Field(None, gt=0, description="train on this many rows only")
    max_length: Annotated[int, Flag("--max-length")] = Field(
        128, gt=1, description="tokens that a text is truncated to, or that a window of it has"
    )
    options: Annotated[dict[str, Any], Flag("--task-option")] = Field(
        default_factory=dict, description="arguments of the task"
    )


class TargetRecipe(Strict):
    """What is pruned, and how much of it is kept: one of density, latency, speedup and keep."""

    units: Annotated[tuple[str, ...], Flag("--units")] = Field(
        ("ffn", "qk", "vo"), min_length=1, description="kinds of units that may be pruned; see `secateur list`"
    )
    density: Annotated[float | tuple[float, ...] | None, Flag("--density")] = Field(
        0.05,
        description="fraction of the encoder's prunable parameters to keep; several, as in 0.4,0.2,0.1, give as many "
        "models from one pruning; null where something else is asked for",
    )
    latency: Annotated[float | None, Flag("--latency", text=True)] = Field(
        None, gt=0, description="latency to reach, instead of a density: 5ms, or 5"
    )
    speedup: Annotated[float | None, Flag("--speedup")] = Field(
        None, gt=1, description="speed-up over the unpruned model to reach, instead of a density"
    )
    keep: Annotated[int | None, Flag("--keep")] = Field(
        None, gt=0, description="exact number of units to keep, instead of a density: 12 heads of 144"
    )
    toward: float | None = Field(
        None, description="final density of the pruning, where the model is cut on the way there, at `density`"
    )
    shape: tuple[PositiveInt, PositiveInt] | None = Field(
        None, description="(batch, tokens) of the latency or speed-up; by default the first measured, or the table's"
    )
    latency_table: str | None = Field(
        None, description="file written by `secateur latency`; by default measured when the run starts"
    )
    round_to: Annotated[PositiveInt, Flag("--round-to")] = Field(
        1, description="sizes become multiples of this by keeping the best pruned units"
    )
    embedding_rank: Annotated[int | None, Flag("--embedding-rank")] = Field(
        None, gt=0, description="factorise the word embeddings to this rank"
    )

    @field_validator("density", mode="before")
    @classmethod
    def _split_densities(cls, value: Any) -> Any:
        """Text with commas, as on the command line, is several densities; a single one is a number."""
        parts = value.split(",") if isinstance(value, str) else value
        return parts[0] if isinstance(parts, list | tuple) and len(parts) == 1 else parts

    @field_validator("density")
    @classmethod
    def _largest_first(cls, value: Any) -> Any:
        return tuple(sorted(value, reverse=True)) if isinstance(value, tuple) else value

    @field_validator("latency", mode="before")
    @classmethod
    def _milliseconds(cls, value: Any) -> Any:
        return milliseconds(value) if isinstance(value, str) else value

    @property
    def densities(self) -> tuple[float, ...]:
        """The densities asked for, the largest first; none where a latency, a speed-up or a number of units is."""
        if self.density is None:
            return ()
        return self.density if isinstance(self.density, tuple) else (self.density,)


class MethodRecipe(Strict):
    """The pruning method, and the part of the run in which it prunes."""

    name: Annotated[str, Flag("--method")] = Field("grain", description="pruning method; see `secateur list`")
    options: Annotated[dict[str, Any], Flag("--option")] = Field(
        default_factory=dict, description="arguments of the method"
    )
    begin: float = Field(0.02, ge=0, le=1, description="fraction of the run after which pruning starts")
    end: float = Field(
        0.15, gt=0, le=1, description="fraction of the run after which the model is cut and recovery starts"
    )
    ramp: float = Field(
        1.0, gt=0, le=1, description="fraction of the time from begin to end over which the density decreases"
    )
    train: Literal["all", "scores"] = Field(
        "all", description="what is trained while pruning: all weights, or the parameters of the method only"
    )
    shrink: bool = Field(
        True, description="cut the model while it is pruned, where the method removes units permanently"
    )


class DistillationRecipe(Strict):
    """The terms of the loss, and the outputs of the teacher that they compare with."""

    start: Literal["teacher", "model"] = Field("teacher", description="whose weights the student starts from")
    temperature: float = Field(8.0, gt=0, description="temperature of the distilled logits")
    divergence: bool = Field(False, description="distil logits by temperature^2 x KL instead of cross-entropy")
    logits_weight: float = Field(1.0, ge=0, description="weight of the distilled logits in the loss")
    hidden: str | tuple[int, ...] | None = Field(
        "every 2", description="layers of the teacher whose hidden states are distilled; null for none"
    )
    match: Literal["same", "nearest", "nearest-ordered", "sampled", "windows"] = Field(
        "same", description="which layer of the student is compared with each of them"
    )
    hidden_projection: bool = Field(True, description="compare hidden states through trained projections")
    hidden_weight: float = Field(1.0, ge=0, description="weight of the hidden states in the loss")
    hidden_of: Literal["both", "encoder", "decoder"] = Field(
        "both", description="whose hidden states are distilled, where a model has an encoder and a decoder"
    )
    labels_weight: float = Field(0.0, ge=0, description="weight of the task's own loss in the loss")
    label_smoothing: float = Field(
        0.0, ge=0, lt=1, description="label smoothing of the task's own loss: the part that all classes share"
    )
    terms: dict[str, dict[str, Any]] = Field(
        default_factory=dict, description="further registered terms of the loss: name and arguments of each"
    )
    cache: bool = Field(True, description="compute the teacher's outputs once and read them from disk")
    cache_gb: float = Field(8.0, gt=0, description="largest size of the cached outputs, in GB")


class TrainingRecipe(Strict):
    """How the weights are trained: those of the student in both stages, and those of a teacher trained first."""

    epochs: Annotated[float, Flag("--epochs")] = Field(6.0, gt=0, description="epochs of the run, pruning and recovery")
    batch_size: Annotated[int, Flag("--batch-size")] = Field(
        32, gt=0, description="rows of a micro-batch, over all processes together"
    )
    accumulate: int = Field(1, gt=0, description="micro-batches per optimizer step")
    learning_rate: Annotated[float, Flag("--learning-rate")] = Field(
        3e-4, gt=0, description="learning rate of the weights, after warm-up"
    )
    decay: Literal["run", "stage"] = Field(
        "run", description="the learning rate decreases to 0 over the whole run, or over the pruning alone"
    )
    recover_learning_rate: float | None = Field(
        None, gt=0, description="constant learning rate of the recovery, where the other decreases over the pruning"
    )
    warmup: float = Field(0.1, ge=0, lt=1, description="fraction of the run over which the learning rate increases")
    weight_decay: float = Field(0.01, ge=0, description="weight decay of AdamW, for weights and projections")
    augment: int = Field(
        0,
        ge=0,
        description="augmented copies of each training text, labelled by the teacher: words dropped, swapped or "
        "cropped",
    )
    average: float = Field(
        0.0,
        ge=0,
        le=1,
        description="last fraction of the recovery over which the weights are averaged; 0: no averaging",
    )
    freeze_embeddings: bool | Literal["all"] = Field(
        True, description="do not train the word embeddings; all: nor those of positions and types, nor their norm"
    )
    dropout: float | None = Field(0.0, ge=0, lt=1, description="dropout of the student; null keeps the model's own")
    bf16: bool | None = Field(None, description="bf16 autocast; by default where the hardware supports it")
    evaluations: int = Field(4, ge=0, description="evaluations per stage")
    evaluation_rows: int | None = Field(
        None, gt=0, description="validation rows, from the first, of an evaluation within a stage; all by default"
    )
    select: int = Field(
        0, ge=0, description="training rows held out to select the best evaluation of a stage; 0: take the last weights"
    )
    checkpoints: int = Field(4, ge=0, description="checkpoints per stage")
    report_to: tuple[str, ...] = Field(
        (), description="trackers of the logged values, as Trainer names them: tensorboard, wandb, mlflow, ..."
    )
    teacher_epochs: float = Field(3.0, gt=0, description="epochs of the teacher, where one is trained first")
    teacher_learning_rate: float = Field(5e-5, gt=0, description="learning rate of that training, after warm-up")


class MeasurementRecipe(Strict):
    """How the latency of the result is measured."""

    shapes: tuple[tuple[PositiveInt, PositiveInt], ...] = Field(
        ((1, 32), (8, 128)), description="(batch, tokens) at which latency is measured"
    )
    repeats: int = Field(50, gt=0, description="forwards per latency")
