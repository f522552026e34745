"""The groups of a recipe's keys, each a frozen, strict model: defaults, ranges and descriptions.

Descriptions are the help texts of the command line and the tables of docs/recipes.md. Fractions of the run are in
[0, 1]; a density is the fraction of parameters kept.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, PositiveInt, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from secateur.budget.amounts import batch_and_tokens, byte_count, fraction, fractions, milliseconds, multiple
from secateur.run.recipe_schema import Flag, Strict
from secateur.system.errors import UserError

AUTO = "auto"
"""In place of a number that the run chooses itself."""


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
    toward: float | None = Field(
        None,
        description="lower density to which the schedule goes on, if the model is cut on the way there, at `density`",
    )
    shape: Annotated[tuple[PositiveInt, PositiveInt] | None, Flag("--shape", text=True)] = Field(
        None,
        description="shape of the latency or speed-up, [batch, tokens] or 8x128; by default the first of "
        "measurement.shapes, or that of the table",
    )
    latency_table: Annotated[str | None, Flag("--latency-table")] = Field(
        None, description="latency table, a file written by `secateur latency`; by default measured when the run starts"
    )
    round_to: Annotated[PositiveInt, Flag("--round-to")] = Field(
        1, description="round sizes up to multiples of this by keeping the best of the pruned units"
    )
    embedding_rank: Annotated[PositiveInt | Literal["auto"] | None, Flag("--embedding-rank", text=True)] = Field(
        None,
        description="rank to which the word embeddings are factorised; auto: the smallest that keeps 0.9 of the "
        "squares of their values, if that makes them smaller; by default they are not",
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


class MethodRecipe(Strict):
    """The pruning method, and the part of the run in which it prunes."""

    name: Annotated[str, Flag("--method")] = Field(
        "grain", description="name of the pruning method; `secateur list` shows all"
    )
    options: Annotated[dict[str, Any], Flag("--option")] = Field(
        default_factory=dict, description="further arguments of the method"
    )
    begin: float = Field(0.02, ge=0, le=1, description="fraction of the run after which pruning starts")
    end: float = Field(
        0.15, gt=0, le=1, description="fraction of the run after which the model is cut and recovery starts"
    )
    ramp: float = Field(
        1.0, gt=0, le=1, description="fraction of the time from begin to end over which the density decreases"
    )
    layer_round: float = Field(
        0.5,
        gt=0,
        lt=1,
        description="fraction of the run for the round of the layers, with the recovery from it, if target.layers is "
        "set; begin and end are then fractions of each round",
    )
    trial: float = Field(
        0.1,
        gt=0,
        le=1,
        description="fraction of the steps of the run for each trial of a density or of a number of layers, if "
        "target.keep_score is set or target.layers is auto",
    )
    trial_rows: PositiveInt = Field(
        1000,
        description="number of training rows that are held out of trials, those of a teacher included, and scored; at "
        "most a quarter of them",
    )
    ramp_rows: int = Field(
        200,
        ge=0,
        description="number of training rows that are held out of the prune stage and scored at some densities on the "
        "way, from which the report predicts the scores of other densities; at most a tenth of them; 0: none",
    )
    train: Literal["all", "scores"] = Field(
        "all", description="what is trained while pruning: all weights, or only the parameters of the method"
    )
    shrink: bool = Field(
        True, description="cut the model in between while it is pruned, if the method removes units permanently"
    )
    refit: bool = Field(
        False,
        description="whenever units are removed, change the weights that read them in closed form, so that the units "
        "that are left make up for them",
    )


class DistillationRecipe(Strict):
    """The terms of the loss, and the outputs of the teacher that they compare with."""

    start: Literal["teacher", "model"] = Field(
        "teacher", description="weights with which the student starts: those of the teacher, or of the model"
    )
    check_teacher: bool = Field(
        True,
        description="refuse a teacher that reads other tokens than the model, or that scores no better than a constant "
        "prediction",
    )
    temperature: float = Field(8.0, gt=0, description="temperature of the softmax by which logits are distilled")
    divergence: bool = Field(
        False, description="distil logits by temperature^2 x KL divergence instead of cross-entropy"
    )
    logits_weight: float = Field(1.0, ge=0, description="weight of the distillation of logits in the loss")
    hidden: str | tuple[int, ...] | None = Field(
        "every 2",
        description="layers of the teacher whose hidden states are distilled, 0 for the embeddings; null for none",
    )
    match: Literal["same", "nearest", "nearest-ordered", "sampled", "windows"] = Field(
        "same", description="how the student's layer is chosen for each of these layers"
    )
    hidden_projection: bool = Field(
        True, description="project the student's hidden states by trained linear layers before they are compared"
    )
    hidden_weight: float = Field(1.0, ge=0, description="weight of the distillation of hidden states in the loss")
    hidden_of: Literal["both", "encoder", "decoder"] = Field(
        "both", description="stack whose hidden states are distilled, if the model has an encoder and a decoder"
    )
    labels_weight: float = Field(0.0, ge=0, description="weight of the task's own loss, which compares with the labels")
    label_smoothing: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="label smoothing of the task's own loss: the fraction that is spread over all classes",
    )
    terms: dict[str, dict[str, Any]] = Field(
        default_factory=dict, description="further terms of the loss, by registered name, with the arguments of each"
    )
    cache: bool = Field(True, description="compute the teacher's outputs once and read them from disk in every epoch")
    cache_gb: float = Field(8.0, gt=0, description="largest size of the cached outputs, in GB (10^9 bytes)")


class TrainingRecipe(Strict):
    """How the weights are trained: those of the student in both stages, and those of a teacher trained first."""

    steps: Annotated[int | None, Flag("--steps")] = Field(
        3000, gt=0, description="optimizer steps of pruning and recovery together; null if another length is set"
    )
    epochs: Annotated[float | None, Flag("--epochs")] = Field(
        None, gt=0, description="epochs of pruning and recovery together, instead of steps"
    )
    minutes: Annotated[float | None, Flag("--minutes")] = Field(
        None,
        gt=0,
        description="minutes of pruning and recovery together, with the trials before them, instead of "
        "steps; these are computed from some measured ones before the first stage",
    )
    batch_size: Annotated[int, Flag("--batch-size")] = Field(
        32, gt=0, description="training rows of a micro-batch, of all processes together"
    )
    accumulate: int = Field(1, gt=0, description="micro-batches per optimizer step")
    learning_rate: Annotated[float | None, Flag("--learning-rate")] = Field(
        None,
        gt=0,
        description="highest learning rate of the weights, reached after the warm-up; by default 0.384 / hidden size "
        "of the model, such as 1e-3 for 384 and 5e-4 for 768",
    )
    decay: Literal["run", "stage", "round"] = Field(
        "run",
        description="period over which the learning rate decreases to 0: the whole run, the pruning stage only, or "
        "each round: once for the layers and once for finer units",
    )
    recover_learning_rate: float | None = Field(
        None, gt=0, description="constant learning rate of the recovery; needs decay: stage"
    )
    warmup: float = Field(
        0.1, ge=0, lt=1, description="fraction of the steps over which the learning rate increases from 0"
    )
    weight_decay: float = Field(0.01, ge=0, description="weight decay of AdamW, for the weights and the projections")
    augment: int = Field(
        0,
        ge=0,
        description="number of augmented copies of each training text, with words dropped, swapped or cropped, "
        "which the teacher labels",
    )
    average: float = Field(
        0.0,
        ge=0,
        le=1,
        description="fraction of the recovery, at its end, over which the weights are averaged; 0: no averaging",
    )
    freeze_embeddings: bool | Literal["all"] = Field(
        True, description="freeze the word embeddings; all: also those of positions and types, and their norm"
    )
    dropout: float | None = Field(
        0.0, ge=0, lt=1, description="dropout probability of the student; null: as in the model's config"
    )
    bf16: bool | None = Field(None, description="train under bf16 autocast; by default if the hardware supports it")
    cuda_graphs: bool = Field(
        True, description="on one GPU, replay steps of a shape of batch that occurred before as CUDA graphs"
    )
    evaluations: int = Field(4, ge=0, description="number of evaluations per stage")
    evaluation_rows: int | None = Field(
        None,
        gt=0,
        description="number of validation rows that an evaluation within a stage uses, the first ones; by default all",
    )
    select: int = Field(
        0,
        ge=0,
        description="number of training rows held out, on which the best weights of a stage are selected; 0: the "
        "last weights",
    )
    checkpoints: int = Field(4, ge=0, description="number of checkpoints per stage")
    report_to: tuple[str, ...] = Field(
        (),
        description="experiment trackers that get the logged values, named as in transformers: tensorboard, wandb, "
        "mlflow, ...",
    )
    teacher_epochs: float | None = Field(
        None,
        gt=0,
        description="epochs of the training of a teacher; by default its number of steps is chosen by short trainings "
        "on held-out training rows",
    )
    teacher_learning_rate: float | None = Field(
        None,
        gt=0,
        description="highest learning rate of the training of a teacher, reached after the warm-up; by default chosen "
        "by short trainings, from 0.0384 / hidden size on",
    )
    teacher_steps: PositiveInt = Field(
        2000,
        description="optimizer steps of the training of a teacher at most, with those of the short trainings by which "
        "its length and its learning rate are chosen",
    )

    @field_validator("steps", "epochs", "minutes", mode="before")
    @classmethod
    def _some_training(cls, value: Any, info: ValidationInfo) -> Any:
        """A run of no length is what another command does, which the message names."""
        if type(value) in (int, float) and value == 0:
            raise UserError(
                f"training.{info.field_name}: a length of 0 trains nothing: cut, refit and score a model without "
                "training by `secateur cut MODEL --data DATA --density 0.6`, or give a length above 0"
            )
        return value
